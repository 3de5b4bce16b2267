"""Run the program of a stage: in one process, over all devices of this pod, or as a job on other nodes."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from components.kubeflow.manifests import GRACE, JobRequest
from mcm.errors import UserError

JOB = "MCM_JOB"  # the environment variable in which a profile asks for a job
SPREAD = ("train_teacher", "train_student")  # programs of several processes; in the others rank 0 works alone
TAIL = 40  # lines of a failed process that are shown


def elsewhere() -> bool:
    """Whether this task's stage runs as a job on other nodes, which share no disk: its arguments must be URIs."""
    return job_request() is not None


def job_request() -> JobRequest | None:
    """What the profile put into the environment of a task whose stage runs as a job."""
    text = os.environ.get(JOB, "")
    if not text:
        return None
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"environment variable {JOB}: not readable as JSON ({error}); compile the pipeline again"
        ) from None
    return JobRequest.parse(values, f"environment variable {JOB}")


def launch(program: str, arguments: list[str], processes: int | None = None, key: str | None = None) -> None:
    """Run `python -m components.<program> arguments...` to its end.

    `processes` in this pod is one for each device where it is None. `key` names the work of a job, so that a
    task that is tried again finds its running job; None is the arguments themselves. A program that fails has said why
    in a line of its own, and this process leaves with its exit status. SIGTERM reaches the program, which is waited
    for. UserError where the cluster cannot or will not run the job.
    """
    request = job_request()
    if request:
        from components.kubeflow.jobs import run_on_cluster

        run_on_cluster(request, program, arguments, json.dumps(arguments) if key is None else key)
        return
    count = (devices() if program in SPREAD else 1) if processes is None else processes
    words = ["-m", f"components.{program}", *arguments]
    status = _alone(words) if count == 1 else _together(words, count)
    if status:
        sys.exit(status)


def devices() -> int:
    """GPUs of this pod; 1 where there is none, since a CPU or a TPU host is driven by one process."""
    import torch

    return max(1, torch.cuda.device_count())


def _alone(words: list[str]) -> int:
    """One process. Its exit status, as a shell gives it."""
    with _handlers_restored():
        # The signal may come before the process is there, so it is kept until then.
        pending: list[int] = []
        hand_over: Callable[[int], Any] = pending.append
        _on(signal.SIGTERM, lambda number, frame: hand_over(number))
        child = subprocess.Popen([sys.executable, *words])
        hand_over = child.send_signal
        for number in pending:
            child.send_signal(number)
        try:
            return _shell_status(child.wait())
        except KeyboardInterrupt:  # the terminal has sent it to the child as well
            child.wait()
            raise


def _together(words: list[str], count: int) -> int:
    """torchrun on this node, by its Python API, which tells the exit status of the first process that failed.

    Rank 0 speaks here; the others write to files, of which the end is shown where one of them failed first.
    """
    import logging

    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # Its own account of a failure is pages long, and says less than the process that failed.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="ranks-") as folder, _handlers_restored(), _threads(count):
        said: set[str] = set()
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            run_id="stage",
            max_restarts=0,
            shutdown_timeout=GRACE,
            logs_specs=DefaultLogsSpecs(folder, redirects=dict.fromkeys(range(1, count), Std.ALL)),
        )
        try:
            with _overheard(said):
                elastic_launch(config, sys.executable)(*words)
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            if rank:
                _show_end(rank, next(Path(folder).glob(f"*/attempt_0/{rank}/stderr.log")), said)
            return _shell_status(failure.exitcode)
        except SignalException as error:
            return 128 + error.sigval.value
    return 0


@contextmanager
def _overheard(said: set[str]) -> Iterator[None]:
    """Note the lines of bad input that rank 0 writes on stderr, which pass through: the others often say the same."""
    reading, writing = os.pipe()
    stderr = os.dup(2)
    os.dup2(writing, 2)
    os.close(writing)

    def pass_on() -> None:
        with os.fdopen(reading, "rb", buffering=0) as source:
            text = b""
            while chunk := source.read(65536):
                os.write(stderr, chunk)
                *lines, text = (text + chunk).split(b"\n")
                said.update(line.decode(errors="replace") for line in lines if line.startswith(b"error: "))

    thread = threading.Thread(target=pass_on, daemon=True)
    thread.start()
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        thread.join(timeout=5)  # a process that outlived its group may hold the pipe, and then both stay
        if not thread.is_alive():
            os.close(stderr)


def _show_end(rank: int, log: Path, said: set[str]) -> None:
    """The one line of bad input, if rank 0 has not `said` it, or else the last lines that a process wrote."""
    lines = log.read_text(errors="replace").splitlines()
    refused = [line for line in lines if line.startswith("error: ")]
    shown = [line for line in refused if line not in said] if refused else [f"process {rank}:", *lines[-TAIL:]]
    if shown:
        print(*shown, sep="\n", file=sys.stderr, flush=True)


@contextmanager
def _threads(processes: int) -> Iterator[None]:
    """Share the CPUs among the processes, where nobody has said how."""
    chosen = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = chosen or str(max(1, len(os.sched_getaffinity(0)) // processes))
    try:
        yield
    finally:
        if chosen is None:
            del os.environ["OMP_NUM_THREADS"]


@contextmanager
def _handlers_restored() -> Iterator[None]:
    """Put back what handled signals before: this process may go on to publish what the program made."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            _on(number, handler)


def _on(number: int, handler: Callable[[int, FrameType | None], Any] | int | None) -> None:
    if threading.current_thread() is threading.main_thread():  # Python lets no other thread handle signals
        signal.signal(number, handler)


def _shell_status(code: int) -> int:
    return 128 - code if code < 0 else code
