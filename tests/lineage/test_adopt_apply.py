"""`mcm lineage adopt` to its end: DVC has nothing to do, and a kill at any moment is made good by the same command."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.lineage.dvc.git import experiments
from pipelines.lineage.home import adopt, workspace
from pipelines.lineage.resolve import resolve
from pipelines.lineage.store.records import LineageStore
from tests.chain.programs import environment, group_ends, run
from tests.lineage.homes import COMMENT, Ran, commit, make_project, make_run

pytestmark = pytest.mark.slow


class Killed(BaseException):
    """What a test ends the program with: nothing catches it."""


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ran]:
    folder = tmp_path_factory.mktemp("apply")
    project = make_project(folder / "project")
    return project, make_run(folder / "store", project, students__common__learning_rate=0.004)


@pytest.fixture
def home(origin: tuple[Path, Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ran:
    project, ran = origin
    shutil.copytree(project, tmp_path / "project")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path / "project")
    return ran


def command(ran: Ran, *more: str) -> list[str]:
    return [sys.executable, "-m", "pipelines.lineage.commands.adopt", ran.id, "--store", str(ran.lineage), *more]


def adopted(ran: Ran, name: str | None = None) -> adopt.Plan:
    stores = [LineageStore(ran.lineage)]
    attempt = adopt.Adoption(resolve(ran.id, stores), stores, name)
    plan = attempt.plan()
    attempt.apply(plan)
    return plan


def is_home(ran: Ran, experiment: str) -> None:
    """All that adopting promises, but for what takes longest to ask."""
    here = Path.cwd()
    assert run("dvc", "status", cwd=here).strip() == "Data and pipelines are up to date."
    lock = yaml.safe_load(Path("dvc.lock").read_text())["stages"]
    named = {out["path"]: out["md5"] for stage in lock.values() for out in stage["outs"]}
    made = {output.md5 for record in ran.records for output in record.outputs}
    assert set(named.values()) == made and len(named) == 12
    text = Path("params.yaml").read_text()
    assert yaml.safe_load(text) == ran.asked.params and text.startswith(COMMENT)
    assert experiment in {found.experiment for found in experiments()}
    store = LineageStore("artifacts/lineage")
    assert {r.id for r in store.records(ran.id)} == {r.id for r in ran.records} and store.asked(ran.id) == ran.asked
    known = {r.id for r in store.records(ran.id)}
    assert {n.record.id for n in resolve("workspace", [store]).nodes.values() if n.record.run.id == ran.id} <= known
    assert not Path(".dvc/tmp/mcm-adopt").exists()
    hidden = [path for path in Path("artifacts").rglob(".*") if path.name != ".gitignore"]
    assert hidden == []


def test_a_run_comes_home(home: Ran) -> None:
    said = run(*command(home), cwd=Path.cwd())
    assert said.splitlines() == [
        f"adopted run {home.id} as experiment run-{home.id}: 12 artifacts, 12 of them brought (0.0 MB)",
        "the workspace holds it now; back: `git checkout params.yaml dvc.lock && dvc checkout`; here again: "
        f"`dvc exp apply run-{home.id}`",
    ]
    is_home(home, f"run-{home.id}")
    assert "Running stage" not in run("dvc", "repro", cwd=Path.cwd())
    shown = run("dvc", "exp", "show", "--csv", cwd=Path.cwd()).splitlines()
    assert any(f"run-{home.id}" in line and ",1.5," in line and "0.004" in line for line in shown)


def test_another_run_on_top_and_both_ways_back(home: Ran, origin: tuple[Path, Ran], tmp_path: Path) -> None:
    adopted(home, "first")
    here = Path.cwd()
    commit(here, "first")
    second = make_run(tmp_path / "store", here, "20261121-130000", teacher__iterations=30)
    plan = adopted(second, "second")
    assert {output.by for output in plan.here} == {"prepare_data"}
    is_home(second, "second")
    run("git", "checkout", "--quiet", "params.yaml", "dvc.lock", cwd=here)
    run("dvc", "checkout", "--quiet", cwd=here)
    is_home(home, "first")
    run("dvc", "exp", "apply", "second", cwd=here)
    is_home(second, "second")


def test_adopting_again_what_is_here_brings_nothing(home: Ran) -> None:
    adopted(home)
    commit(Path.cwd(), "adopted")
    assert adopted(home).missing == []


def during(monkeypatch: pytest.MonkeyPatch, place: Any, name: str, turn: int, after: bool) -> None:
    """Kill the program before or after a function is called for the `turn`-th time."""
    function: Callable[..., Any] = getattr(place, name)
    calls = 0

    def killed(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == turn and not after:
            raise Killed
        result = function(*args, **kwargs)
        if calls == turn:
            raise Killed
        return result

    monkeypatch.setattr(place, name, killed)


@pytest.mark.parametrize(
    ("place", "name", "turn", "after"),
    [
        (adopt.Objects, "pull", 3, False),
        (adopt.Scratch, "begin", 1, True),
        (adopt, "write_params", 1, True),
        (adopt.Scratch, "place", 7, False),
        (adopt, "keep_run", 1, False),
        (adopt, "dvc", 1, True),
        (adopt, "dvc", 2, True),
        (workspace.Path, "rmdir", 1, False),
    ],
    ids=["artifact", "journal", "parameters", "place", "records", "lock", "experiment", "last"],
)
def test_killed_and_called_again_it_completes(
    home: Ran, monkeypatch: pytest.MonkeyPatch, place: Any, name: str, turn: int, after: bool
) -> None:
    with monkeypatch.context() as patched:
        during(patched, place, name, turn, after)
        with pytest.raises(Killed):
            adopted(home, "mine")
    if (name, after) == ("rmdir", False):  # all was done
        Path(".dvc/tmp/mcm-adopt").rmdir()
    elif Path(".dvc/tmp/mcm-adopt").exists():
        adopted(home, "mine")
    is_home(home, "mine")


def test_old_results_are_out_of_the_way_before_new_ones_come(home: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the two, the old ones come back from DVC's cache, and the new ones by the same command."""
    adopted(home, "first")
    here = Path.cwd()
    commit(here, "first")
    second = make_run(here.parent / "store", here, "20261121-130000", teacher__iterations=30)
    with monkeypatch.context() as patched:
        during(patched, workspace.shutil, "move", 2, False)
        with pytest.raises(Killed):
            adopted(second, "second")
    adopted(second, "second")
    is_home(second, "second")


def test_what_dvc_refuses_is_one_line_and_can_be_mended(home: Ran) -> None:
    here = Path.cwd()
    Path(".dvc/tmp").mkdir(exist_ok=True)
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from dvc.repo import Repo\nwith Repo().lock: print(1, flush=True); input()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=here,
    )
    assert holder.stdout and holder.stdout.readline()
    said = run(*command(home), cwd=here, status=2)
    assert yaml.safe_load(Path("params.yaml").read_text()) == home.asked.params
    holder.communicate(b"\n")
    (line,) = said.splitlines()
    assert line.startswith("error: dvc commit: failed to commit dvc.yaml - Unable to acquire lock") and line.endswith(
        "; mend that and run the same command again, which completes, or go back: `git checkout params.yaml dvc.lock "
        "&& dvc checkout`"
    )
    run(*command(home), cwd=here)
    is_home(home, f"run-{home.id}")


@pytest.mark.parametrize("seconds", [0.9, 1.5, 2.5])
def test_a_process_that_is_killed_outright(home: Ran, seconds: float) -> None:
    """Wherever that hits: the same command completes."""
    process = subprocess.Popen(command(home), env=environment(), stdout=subprocess.DEVNULL, start_new_session=True)
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert group_ends(process.pid)  # DVC's locks are those of processes that are there
    run(*command(home), cwd=Path.cwd())
    is_home(home, f"run-{home.id}")
