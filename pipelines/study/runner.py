"""The jobs of a study, in the order of what they need, by a pool of processes: as many at once as cores or GPUs."""

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

from components.lineage.surroundings import checkout, code_md5
from mcm.artifacts import usable_cores
from mcm.errors import UserError
from mcm.training.devices import chosen
from mcm.training.stop import STATUS
from pipelines.study.estimate import left, spoken
from pipelines.study.jobs import FOUNDATIONS, Job
from pipelines.study.store import Store
from pipelines.study.worker import Reply
from pipelines.study.worker import main as serve

AGAIN = 1.0  # seconds before a job that another process is at is asked for again
PATIENCE = 60.0  # seconds that workers have to keep a checkpoint and end
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


def slots(jobs: int | None, kind: str) -> list[dict[str, str]]:
    """The environment of each worker for a study of this `kind`; mixtures are for CPUs.

    On a CPU every worker has one thread: figures depend on the number of threads, and not on that of workers.
    `jobs` None is one worker for each core, or for each visible GPU; more than that share GPUs.
    """
    if jobs is not None and jobs < 1:
        raise UserError(f"--jobs {jobs}: give 1 or more")
    if kind == "mixture" or (device := chosen()) == "cpu":
        return [{**ONE_THREAD, "CUDA_VISIBLE_DEVICES": ""} for _ in range(jobs or usable_cores())]
    if device != "cuda":
        return [{}]  # a TPU has one process
    import torch

    asked = os.environ.get("CUDA_VISIBLE_DEVICES")
    visible = asked.split(",") if asked else [str(k) for k in range(torch.cuda.device_count())]
    count = jobs or len(visible)
    threads = {name: str(max(1, usable_cores() // count)) for name in ONE_THREAD}
    return [{"CUDA_VISIBLE_DEVICES": visible[k % len(visible)], **threads} for k in range(count)]


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    environment: Mapping[str, str]
    job: Job | None = None


@dataclass
class Run:
    """What is to do, what was done, and what could not be.

    `jobs` are all of a study, `todo` those that are to be done, in an order in which each follows its inputs.
    """

    jobs: Mapping[str, Job]
    todo: dict[str, Job]
    store: Store
    failed: dict[str, str] = field(default_factory=dict)  # why, by name
    skipped: dict[str, str] = field(default_factory=dict)  # the failed job that it needs, by name

    def __post_init__(self) -> None:
        self._done = len(self.jobs) - len(self.todo)
        self._wait_until: dict[str, float] = {}

    def all(self, environments: list[dict[str, str]]) -> None:
        """Do everything. Data and what they are compared with come first: without them nothing is trained."""
        with _Pool(self.store.work, environments, min(len(environments), len(self.todo))) as pool:
            foundations = {name for name, job in self.todo.items() if job.kind in FOUNDATIONS}
            self._round(pool, foundations)
            if not self.failed:
                self._round(pool, set(self.todo))

    def _round(self, pool: "_Pool", names: set[str]) -> None:
        """Do the jobs `names`, except those that need one that failed."""
        while names & self.todo.keys() or pool.at_work():
            for worker in pool.idle():
                if (job := self._next(names, pool)) is None:
                    break
                pool.give(worker, job)
            if not pool.at_work() and not names & self.todo.keys():
                return
            for job, reply in pool.replies(AGAIN if self._wait_until else None):
                self._take(job, reply, pool)

    def _next(self, names: set[str], pool: "_Pool") -> Job | None:
        now, at_work = time.monotonic(), {job.name for job in pool.at_work()}
        for name, job in self.todo.items():
            ready = not any(needed.name in self.todo for needed in job.inputs.values())
            if name in names and name not in at_work and ready and self._wait_until.get(name, 0) <= now:
                return job
        return None

    def _take(self, job: Job, reply: Reply, pool: "_Pool") -> None:
        self._wait_until.pop(job.name, None)
        if reply.status == "busy":
            self._wait_until[job.name] = time.monotonic() + AGAIN
            return
        del self.todo[job.name]
        self._done += 1
        if reply.status == "failed":
            self.failed[job.name] = f"{job.kind} {job.label}: {reply.message}"
            print(f"failed: {self.failed[job.name]}", flush=True)
            for name, other in list(self.todo.items()):
                if any(needed.name == job.name for needed in other.chain()):
                    del self.todo[name]
                    self.skipped[name] = job.name
                    self._done += 1
        took = f"{reply.seconds:.0f} s" if reply.seconds else "done by another process"
        remaining = left(self.todo.values(), self.jobs.values(), self.store)
        about = f", about {spoken(remaining / pool.size)} left" if self.todo and remaining is not None else ""
        if reply.status == "done":
            print(f"[{self._done}/{len(self.jobs)}] {job.kind} {job.label}: {took}{about}", flush=True)


class _Pool:
    """Workers that live as long as the block; they end with it, by SIGTERM where it was left early."""

    def __init__(self, work: Path, environments: list[dict[str, str]], size: int):
        self._context = multiprocessing.get_context("spawn")
        self._work, self._environments, self.size = work, environments[:size], size
        commit, dirty = checkout()
        self._about: dict[str, Any] = {"commit": commit, "dirty": dirty, "code": code_md5()}
        self._workers: list[_Worker] = []

    def __enter__(self) -> "_Pool":
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(_sigterm_raises())
        self._workers = [self._start(environment) for environment in self._environments]
        return self

    def __exit__(self, *_: object) -> None:
        with self._stack:
            for worker in self._workers:
                if worker.job is not None:
                    worker.process.terminate()
                worker.connection.close()  # which ends a worker that waits for a job
            until = time.monotonic() + PATIENCE
            try:
                for worker in self._workers:
                    worker.process.join(max(0.0, until - time.monotonic()))
            finally:  # asked twice, or out of patience
                for worker in self._workers:
                    if worker.process.is_alive():
                        worker.process.kill()

    def _start(self, environment: Mapping[str, str]) -> _Worker:
        ours, theirs = self._context.Pipe()
        arguments = (theirs, self._work, environment, self._about)
        process = self._context.Process(target=serve, args=arguments, name="study worker")
        with _sigint_ignored():  # which a new process inherits: Ctrl-C is for the one that started it
            process.start()
        theirs.close()
        return _Worker(process, ours, environment)

    def idle(self) -> list[_Worker]:
        """Workers that wait for a job. One that died waiting failed none, and another starts."""
        for place, worker in enumerate(self._workers):
            if worker.job is None and not worker.process.is_alive():
                worker.connection.close()
                self._workers[place] = self._start(worker.environment)
        return [worker for worker in self._workers if worker.job is None]

    def at_work(self) -> list[Job]:
        """Jobs that are with a worker."""
        return [worker.job for worker in self._workers if worker.job is not None]

    def give(self, worker: _Worker, job: Job) -> None:
        worker.job = job
        with contextlib.suppress(OSError):  # its end is seen by `replies`
            worker.connection.send(job)

    def replies(self, timeout: float | None) -> Iterator[tuple[Job, Reply]]:
        """What workers answered by now, after the first answer or `timeout` seconds. One that died has failed."""
        heard = wait([worker.connection for worker in self._workers if worker.job is not None], timeout)
        for place, worker in enumerate(self._workers):
            job = worker.job
            if job is None or worker.connection not in heard:
                continue
            try:
                reply = worker.connection.recv()
                worker.job = None
            except (EOFError, OSError):
                worker.process.join(PATIENCE)
                reply = Reply("failed", f"its process ended with status {worker.process.exitcode}; run it again")
                self._workers[place] = self._start(worker.environment)
            yield job, reply


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    def raise_it(number: int, frame: FrameType | None) -> None:
        print("stopped by SIGTERM; the same command goes on from there", file=sys.stderr)
        sys.exit(STATUS)

    before = signal.signal(signal.SIGTERM, raise_it)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _sigint_ignored() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
