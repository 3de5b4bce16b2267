"""The whole chain as `dvc repro` runs it, in a fresh clone, on tiny data."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from mcm.artifacts import folder_md5
from tests.chain.programs import ROOT, run, write_params
from tests.conftest import data_section, tiny_params, write_pictures

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the project with the working tree's files and tiny parameters, after one `dvc repro`."""
    folder = tmp_path_factory.mktemp("clone") / "project"
    run("git", "clone", "--quiet", "--no-hardlinks", ROOT, folder)
    names = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z").split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    (folder / "dvc.lock").unlink(missing_ok=True)
    params = {"data": data_section(write_pictures(folder / "data" / "pictures")), **tiny_params()}
    params["data"]["path"] = "data/pictures"
    write_params(folder / "params.yaml", params)
    run("git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "--quiet", "--all", "-m", "tiny", cwd=folder)
    run("dvc", "repro", cwd=folder)
    run("git", "add", "--all", cwd=folder)
    run("git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "--quiet", "-m", "lock", cwd=folder)
    return folder


def stages_run(output: str) -> set[str]:
    return {line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")}


def test_every_artifact_is_there_and_dvc_names_it_as_we_do(project: Path) -> None:
    lock = yaml.safe_load((project / "dvc.lock").read_text())
    named = {out["path"]: out["md5"] for stage in lock["stages"].values() for out in stage["outs"]}
    folders = [path for path, md5 in named.items() if md5.endswith(".dir")]
    assert len(folders) >= 12
    for path in folders:
        assert folder_md5(project / path) == named[path], path


def test_a_second_repro_runs_nothing(project: Path) -> None:
    assert stages_run(run("dvc", "repro", cwd=project)) == set()


def test_metrics_plots_and_report_are_declared_and_there(project: Path) -> None:
    metrics = json.loads(run("dvc", "metrics", "show", "--json", cwd=project).split("\n")[0])
    assert any("summary.json" in name for name in metrics[""]["data"])
    assert '"dial"' in run("dvc", "plots", "show", "--json", cwd=project)
    assert (project / "artifacts/report/index.html").stat().st_size > 10_000


def test_a_parameter_of_one_student_runs_that_student_and_what_follows(project: Path) -> None:
    output = run("dvc", "exp", "run", "-S", "students.cd-2.iterations=12", cwd=project)
    assert stages_run(output) == {"train_student@cd-2", "evaluate_student@cd-2", "report"}
    assert "cd-2" in run("dvc", "exp", "show", "--csv", cwd=project)
