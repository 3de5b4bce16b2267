"""Studies as processes: killed, stopped, two at once, a row that fails. Nothing is done twice, no figure changes."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
import torch
import yaml

from mcm.artifacts import read_config
from pipelines.study import page, runner, stages
from pipelines.study.commands.run import main
from pipelines.study.jobs import distinct, plan
from pipelines.study.results import outcomes
from pipelines.study.schema import read_study
from pipelines.study.store import Store
from tests.chain.programs import ROOT, environment, group_ends
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


def test_interrupted_runs_repeat_nothing_and_come_to_the_figures_of_an_uninterrupted_one(
    studies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    work = tmp_path / "made"
    with started(studies, work) as stopped, started(studies, work) as killed:  # both on one store
        until(lambda: checkpoints(work, "teacher"), stopped)
        os.kill(stopped.pid, signal.SIGTERM)
        until(lambda: checkpoints(work, "cd-1") or students(work), killed)  # where this test is starved it sees it late
        os.killpg(killed.pid, signal.SIGKILL)
        said = stopped.communicate()[0]
        assert (stopped.returncode, group_ends(stopped.pid)) == (143, True), said
        assert "stopped by SIGTERM; the same command goes on" in said and "Traceback" not in said
        said += killed.communicate()[0]
    assert [len(re.findall(rf"{kind} tiny: \d+ s", said)) for kind in ("dataset", "reference")] == [1, 1], said
    kept, attempts = artifacts(work), 1 if students(work) else 2
    assert {Path(path).parent.name.split("-")[0] for path in kept} >= {"dataset", "teacher"}

    with pytest.raises(SystemExit) as left:
        main(words(studies, work))
    printed = capfd.readouterr()
    assert left.value.code == 2
    assert "error: student guided 1 step on tiny, seed 0: " in printed.err and "has no classes" in printed.err
    assert "error: 1 jobs that need them were not done" in printed.err
    assert artifacts(work).items() > kept.items(), "something that was done was done again"
    assert not list(work.glob("store/.*")), "half-written artifacts were left"
    assert {path.name for path in tmp_path.iterdir()} == {"made", "pictures", "studies"}, "made in another place"
    assert {path.name for path in work.iterdir()} == {"locks", "logs", "state", "store", "studies"}
    study = read_study("small", studies)
    planned = plan(study)
    timing = Store(work).measured(planned[0].last.inputs["model"])
    assert (timing["attempts"], timing["finished"]) == (attempts, True)
    names = [read_config(Store(work).folder(each.last), "evaluation", 1)["name"] for each in planned[:-1]]
    assert names == ["cd-1", "teacher"]

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


def test_a_worker_that_dies_waiting_fails_no_job(tmp_path: Path) -> None:
    study, store = read_study("exact", small.write_exact(tmp_path)), Store(tmp_path / "work")
    job = next(iter(plan(study)[0].last.chain()))
    with runner._Pool(store.work, runner.slots(1, "mixture"), 1) as pool:
        (first,) = pool.idle()
        first.process.kill()
        first.process.join()
        (second,) = pool.idle()
        pool.give(second, job)
        assert [(done.name, reply.status) for done, reply in pool.replies(None)] == [(job.name, "done")]
    assert store.done(job)


def kill_worker(store: Store, job: str) -> None:
    """Once a job has a checkpoint: Ctrl-C to all workers, which is not for them, and SIGKILL to the one at it."""
    while not checkpoints(store.work, "cd-1"):
        time.sleep(0.01)
    workers = [child for child in psutil.Process().children() if any("spawn_main" in word for word in child.cmdline())]
    for child in workers:  # and no server that other tests have started
        child.send_signal(signal.SIGINT)
        if any(Path(file.path).name == f"{job}.lock" for file in child.open_files()):
            child.kill()


def test_others_go_on_where_a_worker_dies_or_a_start_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"series": "long", "method": "cd", "steps": 1, "set": {"students.common.iterations": 100_000}},
        {"series": "CD", "method": "cd", "steps": 2},
        small.EXACT_ROWS[1],
    ]
    studies = small.write_exact(tmp_path, rows, bases=["rings", "wild"], seeds=[0])
    base = small.exact_base()
    base["exact"]["start"]["learning_rate"] = 1e30
    (studies / "base/wild.yaml").write_text(yaml.safe_dump(base))
    study, store = read_study("exact", studies), Store(tmp_path / "work")
    planned = plan(study)
    long = planned[0].last.inputs["model"]
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # as others of this machine have it
    killer = threading.Thread(target=kill_worker, args=(store, long.name), daemon=True)
    killer.start()
    with pytest.raises(SystemExit) as left:
        main(["exact", "--studies", str(studies), "--work", str(store.work), "--jobs", "2"])
    killer.join()
    printed = capfd.readouterr()
    assert left.value.code == 2
    errors = sorted(printed.err.splitlines())
    assert len(errors) == 3 and errors[0] == "error: 5 jobs that need them were not done"
    assert "error: start wild: training, iteration" in errors[1] and "not finite" in errors[1]
    assert errors[2] == "error: student long 1 step on rings, seed 0: its process ended with status -9; run it again"
    done = [each for each in planned if store.done(each.last)]
    assert [(each.row.base, each.row.label) for each in done] == [
        ("rings", "CD 2 steps on rings, seed 0"),
        *((base, f"Heun {steps} on {base}, seed 0") for base in ("rings", "wild") for steps in ("1 step", "2 steps")),
    ]
    jobs, made = distinct(planned), distinct(done)
    assert printed.out.startswith(f"exact: 8 rows, {len(jobs)} jobs, {len(jobs)} to do\n")
    assert len(re.findall(r"^\[\d+/\d+\] ", printed.out, re.MULTILINE)) == len(made)
    for job in made.values():
        timing = store.measured(job)
        assert (timing["attempts"], timing["finished"], timing["device"]) == (1, True, "cpu, 1 threads")
    shown = pd.read_csv(store.work / "studies/exact/results.csv")
    assert list(shown["w2"].notna()) == [False, True, True, True, False, False, True, True]

    alone, threads = Store(tmp_path / "alone"), torch.get_num_threads()
    torch.set_num_threads(1)
    for job in made.values():
        stages.run(job, alone)
    torch.set_num_threads(threads)
    page.write(study, outcomes(planned, alone), tmp_path / "page")
    assert (tmp_path / "page/results.csv").read_bytes() == (store.work / "studies/exact/results.csv").read_bytes()
