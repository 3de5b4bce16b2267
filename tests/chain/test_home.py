"""From home to the cluster and back: a run starts with all that a revision has, and comes home into another clone.

The cluster's part is played by KFP's local runner, with a bucket as the store.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.storage import list_names
from pipelines.compiler import compile_pipeline
from pipelines.parameters import load
from pipelines.profile import load_profile
from tests.chain.programs import run
from tests.chain.test_pipeline import hashes
from tests.pipelines.conftest import IMAGE
from tests.pipelines.kfp_server import KFPServer
from tests.storage.server import BUCKET, Server

pytestmark = pytest.mark.slow

STORE = f"gs://{BUCKET}/mcm"
TASKS = 12  # that keep a memo: data set, teacher, variance, its evaluation, and two for each of four students


@dataclass
class Away:
    """What a submission and the run that followed it said."""

    submitted: str
    arguments: dict[str, Any]
    made: dict[str, Any]
    log: str

    @property
    def id(self) -> str:
        return Path(self.made["run"]).name


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A bucket, and nothing of the user's own settings."""
    folder = tmp_path_factory.mktemp("home")
    server = Server(folder / "gcs")
    server.start()
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{server.port}")
        patched.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patched.setenv("NO_PROXY", "*")
        patched.setenv("MCM_IMAGE", IMAGE)  # as the pods of the run would have it
        try:
            server.create(BUCKET)
            yield folder
        finally:
            server.stop()


@pytest.fixture(scope="module")
def away(project: Path, environment: Path) -> Away:
    """The revision's results are sent with a submission, then the same run is made."""
    run("git", "checkout", "--quiet", "--force", "HEAD", "--", ".", cwd=project)  # others may have left an experiment
    package = environment / "cpu.yaml"
    package.write_text(compile_pipeline(load_profile("cpu"), IMAGE, load(project / "params.yaml")))
    with KFPServer() as server:
        words = ("--package", package, "--store", STORE, "--host", server.url, "--allow-unpinned", "--name", "away")
        said = run("mcm", "pipeline", "submit", "--from", "HEAD", *words, cwd=project)
        (submitted,) = server.runs.values()
        assert server.violations == []
    arguments = submitted["runtime_config"]["parameters"]
    changes = ("-S", f"data.path={arguments['data']['path']}")
    told = run("mcm", "pipeline", "run", "--local", "--json", "--store", STORE, *changes, cwd=project)
    made = json.JSONDecoder().raw_decode(told)[0]
    return Away(said, arguments, made, (Path(made["run"]) / "log.txt").read_text())


def locked(project: Path) -> dict[str, str]:
    stages = yaml.safe_load((project / "dvc.lock").read_text())["stages"]
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage["outs"]}


def test_every_task_finds_what_the_revision_had_and_nothing_trains(away: Away) -> None:
    assert f"from HEAD: {TASKS} of {TASKS} stages are there already" in away.submitted
    assert away.log.count("the same work was done before") == TASKS
    assert list_names(f"{STORE}/state") == []  # where training would have kept its checkpoints


def test_the_bytes_are_those_of_the_revision(project: Path, away: Away) -> None:
    known = locked(project)
    ours = hashes(away.made)
    for name in ("cd-1", "cd-2", "ct-1", "ct-2"):
        assert ours["train-student", "out", name] == known[f"artifacts/students/{name}"]
        assert ours["evaluate-student", "out", name] == known[f"artifacts/evaluations/{name}"]
        assert ours["evaluate-student", "timing", name] == known[f"artifacts/timings/{name}.json"]
    assert ours["train-teacher", "out", "teacher"] == known["artifacts/teacher"]


def test_it_comes_home_into_another_clone(project: Path, away: Away, tmp_path: Path) -> None:
    home = tmp_path / "home"
    run("git", "clone", "--quiet", "--no-hardlinks", project, home)
    for setting in ("user.name", "user.email"):
        run("git", "config", setting, "t@t", cwd=home)
    shutil.copytree(project / "data", home / "data", dirs_exist_ok=True)
    run("git", "rm", "--quiet", "dvc.lock", cwd=home)
    run("git", "commit", "--quiet", "--message", "nothing was run here", cwd=home)
    said = run("mcm", "lineage", "adopt", away.id, "--store", f"{STORE}/lineage", "--name", "away", cwd=home)
    assert said.startswith(f"adopted run {away.id} as experiment away: 18 artifacts, 18 of them brought (")
    assert run("dvc", "status", cwd=home).strip() == "Data and pipelines are up to date."
    assert "Running stage" not in run("dvc", "repro", cwd=home)
    assert any(line.startswith("away,") for line in run("dvc", "exp", "show", "--csv", cwd=home).splitlines())
    different = {path for path, md5 in locked(home).items() if locked(project)[path] != md5}
    assert different <= {"artifacts/report"}
    assert run("git", "diff", "--name-only", "params.yaml", cwd=home) == ""
    diff = json.loads(run("mcm", "lineage", "diff", away.id, "workspace", "--json", cwd=home))
    assert {node["state"] for node in diff["nodes"]} == {"same"} and diff["causes"] == []
