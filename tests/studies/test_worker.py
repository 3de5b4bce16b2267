"""A worker does a job once, says in one line what went wrong, and measures what all attempts took."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mcm.artifacts import folder_md5, usable_cores, write_json
from mcm.errors import UserError
from mcm.training.stop import STATUS
from pipelines.study import runner
from pipelines.study.jobs import Job, plan
from pipelines.study.runner import slots
from pipelines.study.schema import read_study
from pipelines.study.store import Store
from pipelines.study.worker import Clock, Reply, _serve
from tests.chain.programs import ROOT, environment
from tests.studies import small

ABOUT = {"commit": "abc", "dirty": False}


def serve(job: Job, store: Store) -> Reply:
    """Let a worker serve a job in this process; what is printed goes to files 1 and 2, as in one of its own."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(1, "w", closefd=False))))
        stack.enter_context(contextlib.redirect_stderr(stack.enter_context(open(2, "w", closefd=False))))
        return _serve(job, store, ABOUT)


def start(folder: Path, **training: Any) -> Job:
    """The job that trains what all students of a mixture start from."""
    studies = small.write_exact(folder)
    base = small.exact_base()
    base["exact"]["start"].update(training)
    (studies / "base/rings.yaml").write_text(yaml.safe_dump(base))
    return next(iter(plan(read_study("exact", studies))[0].last.chain()))


def test_a_job_is_done_once_and_what_another_process_does_is_asked_for_again(tmp_path: Path) -> None:
    job, store = start(tmp_path), Store(tmp_path / "work")
    with Store(tmp_path / "work").claim(job):
        assert serve(job, store).status == "busy"
    assert not store.done(job)
    first = serve(job, store)
    assert first.status == "done" and first.seconds > 0 and store.done(job)
    kept = store.beside(job, "timing").read_bytes()
    again = serve(job, store)
    assert (again.status, again.seconds) == ("done", 0) and store.beside(job, "timing").read_bytes() == kept


def test_bad_input_is_one_line_and_a_crash_names_the_log_that_has_the_whole_of_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    nowhere = Job("dataset", "tiny", {"data": {"source": "folder", "path": "nowhere", "resolution": 16}})
    reply = serve(nowhere, store)
    assert reply.status == "failed" and "nowhere" in reply.message and ".log" not in reply.message
    unknown = Job("sculpture", "tiny", {})
    for _ in range(2):
        reply = serve(unknown, store)
        assert reply.status == "failed" and "\n" not in reply.message
        assert reply.message == f"KeyError: 'sculpture'; {store.log(unknown)} has the whole of it"
    assert store.log(unknown).read_text().count("Traceback") == 2, "each attempt adds to the log"
    for job in (nowhere, unknown):
        assert not store.done(job) and store.measured(job)["finished"] is False


def test_a_clock_sums_the_attempts_of_one_artifact(tmp_path: Path) -> None:
    job, store = Job("start", "rings", {}), Store(tmp_path)
    killed = {"seconds": 100.0, "processor_seconds": 50.0, "attempts": 2, "finished": False}
    write_json(store.beside(job, "timing"), killed)
    with pytest.raises(KeyError), Clock(job, store, ABOUT):
        assert store.measured(job)["attempts"] == 3, "an attempt counts from its first moment on"
        raise KeyError
    assert store.measured(job)["finished"] is False
    with Clock(job, store, ABOUT):
        pass
    found = store.measured(job)
    assert (found["attempts"], found["finished"], found["commit"]) == (4, True, "abc")
    assert found["seconds"] >= 100 and 50 <= found["processor_seconds"] < 100
    with Clock(job, store, ABOUT):  # made anew, since somebody removed it
        pass
    assert store.measured(job)["attempts"] == 1 and store.measured(job)["seconds"] < 100


@pytest.fixture
def sigterm() -> Iterator[None]:
    """SIGTERM does nothing to this process but where training takes it."""
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    yield
    signal.signal(signal.SIGTERM, before)


def test_sigterm_ends_a_worker_whose_job_goes_on_from_there(tmp_path: Path, sigterm: None) -> None:
    job = start(tmp_path, iterations=100, checkpoint_every=1000)
    store, whole = Store(tmp_path / "work"), Store(tmp_path / "whole")
    stopped = threading.Event()

    def ask() -> None:
        while not stopped.wait(0.01):
            os.kill(os.getpid(), signal.SIGTERM)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        with pytest.raises(SystemExit) as left:
            serve(job, store)
    finally:
        stopped.set()
        asking.join()
    assert left.value.code == STATUS and not store.done(job)
    assert "stopped by SIGTERM at iteration" in store.log(job).read_text()
    assert list(store.state.rglob("checkpoint-*")), "what was trained is kept"
    assert serve(job, store).status == serve(job, whole).status == "done"
    assert (store.measured(job)["attempts"], whole.measured(job)["attempts"]) == (2, 1)
    assert folder_md5(store.folder(job)) == folder_md5(whole.folder(job))
    assert not list(store.state.rglob("checkpoint-*")), "and goes once the artifact is there"


def test_a_worker_ends_with_the_process_that_started_it() -> None:
    child = (
        "import os, threading, time; from pipelines.study.worker import _watch; "
        "threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start(); "
        "print('here', flush=True); time.sleep(20); print('still here', flush=True)"
    )
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", parent], cwd=ROOT, env=environment(), **pipes) as started:
        assert started.stdout is not None and started.stdout.readline() == "here\n"
        started.kill()
        assert started.stdout.read() == ""  # to the end, and the child holds it open as long as it lives


def test_a_worker_has_one_thread_on_a_cpu_and_there_are_as_many_as_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    assert slots(3, "mixture") == [{**one, "CUDA_VISIBLE_DEVICES": ""}] * 3
    assert len(slots(None, "mixture")) == usable_cores()
    for jobs in (0, -1):
        with pytest.raises(UserError, match=f"--jobs {jobs}: give 1 or more"):
            slots(jobs, "mixture")
    monkeypatch.setattr(runner, "chosen", lambda: "cuda")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in slots(None, "images")] == ["3", "5"]
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in slots(3, "images")] == ["3", "5", "3"]  # which share one
    assert {slot["OMP_NUM_THREADS"] for slot in slots(usable_cores() + 1, "images")} == {"1"}
    assert slots(1, "mixture")[0]["CUDA_VISIBLE_DEVICES"] == "", "mixtures are for CPUs"
