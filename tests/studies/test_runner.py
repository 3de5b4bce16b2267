"""Studies as processes: killed, stopped, two at once, a row that fails. Nothing is done twice, no figure changes."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.study import page, stages
from pipelines.study.commands.run import main
from pipelines.study.jobs import distinct, plan
from pipelines.study.results import outcomes
from pipelines.study.schema import read_study
from pipelines.study.store import Store
from tests.chain.programs import ROOT, environment
from tests.studies import small

pytestmark = pytest.mark.slow

LONG = {"students.common.iterations": 60}
ROWS: list[dict[str, Any]] = [
    {"series": "CD", "method": "cd", "steps": 1, "set": LONG},
    {"series": "aDDIM", "sampler": {"name": "addim", "steps": 2, "x_var": "table"}},
]
# Its pictures have no classes, which is seen when training begins.
FAILING = {"series": "guided", "method": "cd", "steps": 1, "set": {"students.cd.guidance": 1.0}}


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    folder = small.write(tmp_path, [*ROWS, FAILING])
    base = folder / "base" / "tiny.yaml"
    base.write_text(base.read_text().replace("data:\n", "data:\n  labels: none\n"))
    return folder


def words(studies: Path, work: Path) -> list[str]:
    return ["small", "--studies", str(studies), "--work", str(work), "--jobs", "1"]


@contextlib.contextmanager
def started(studies: Path, work: Path) -> Iterator[subprocess.Popen[str]]:
    """The command in a process group of its own, which is gone afterwards."""
    command = [sys.executable, "-m", "pipelines.cli", "study", "run", *words(studies, work)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env=environment(), start_new_session=True, **pipes) as run:
        try:
            yield run
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(run.pid, signal.SIGKILL)


def until(condition: Callable[[], Any], run: subprocess.Popen[str]) -> None:
    while not condition():
        assert run.poll() is None, f"ended early:\n{run.communicate()[0]}"
        time.sleep(0.01)


def checkpoints(work: Path, name: str) -> list[Path]:
    return list(work.glob(f"state/{name}-*/checkpoints/checkpoint-*"))


def artifacts(work: Path) -> dict[str, tuple[int, int]]:
    """Inode and time stamp of each file in a whole artifact, by path."""
    files = [file for file in (work / "store").glob("[!.]*/**/*") if file.is_file()]
    return {str(file): (file.stat().st_ino, file.stat().st_mtime_ns) for file in files}


def students(work: Path) -> list[Path]:
    return list(work.glob("store/student-*/"))


def group_ends(run: subprocess.Popen[str]) -> bool:
    """Whether no process of the group is left soon; multiprocessing's helper goes a little after its parent."""
    for _ in range(1000):
        try:
            os.killpg(run.pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


def test_interrupted_runs_repeat_nothing_and_come_to_the_figures_of_an_uninterrupted_one(
    studies: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    work = tmp_path / "work"
    with started(studies, work) as stopped, started(studies, work) as killed:  # both on one store
        until(lambda: checkpoints(work, "teacher"), stopped)
        os.kill(stopped.pid, signal.SIGTERM)
        until(lambda: checkpoints(work, "cd-1") or students(work), killed)  # where this test is starved it sees it late
        os.killpg(killed.pid, signal.SIGKILL)
        said = stopped.communicate()[0]
        assert (stopped.returncode, group_ends(stopped)) == (143, True), said
        assert "stopped by SIGTERM; the same command goes on" in said and "Traceback" not in said
        said += killed.communicate()[0]
    assert [len(re.findall(rf"{kind} tiny: \d+ s", said)) for kind in ("dataset", "reference")] == [1, 1], said
    kept, attempts = artifacts(work), 1 if students(work) else 2
    assert {Path(path).parent.name.split("-")[0] for path in kept} >= {"dataset", "teacher"}

    with pytest.raises(SystemExit) as left:
        main(words(studies, work))
    printed = capfd.readouterr()
    assert left.value.code == 2
    assert "error: student guided 1 steps, seed 0: " in printed.err and "has no classes" in printed.err
    assert "error: 1 jobs that need them were not done" in printed.err
    assert artifacts(work).items() > kept.items(), "something that was done was done again"
    assert not list(work.glob("store/.*")), "half-written artifacts were left"
    study = read_study("small", studies)
    planned = plan(study)
    timing = Store(work).measured(planned[0].last.inputs["model"])
    assert (timing["attempts"], timing["finished"]) == (attempts, True)

    alone = Store(tmp_path / "alone")  # one process, no pool, never interrupted
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for job in distinct(planned[:-1]).values():
        stages.run(job, alone)
    torch.set_num_threads(threads)
    page.write(study, outcomes(planned, alone), tmp_path / "page")
    for name in ("results.csv", "table.csv"):
        assert (tmp_path / "page" / name).read_bytes() == (work / "studies/small" / name).read_bytes()


def test_nothing_is_trained_where_the_reference_cannot_be_had(
    studies: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    base = studies / "base" / "tiny.yaml"
    base.write_text(base.read_text().replace("data:\n", "data:\n  limit: 6\n"))
    with pytest.raises(SystemExit) as left:
        main(words(studies, tmp_path / "work"))
    assert left.value.code == 2
    assert "images; give at least 8" in capfd.readouterr().err
    assert not list(tmp_path.glob("work/state/*")) and not list(tmp_path.glob("work/store/teacher*"))
