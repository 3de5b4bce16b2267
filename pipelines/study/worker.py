"""A worker process of a study: makes one artifact after the other. Nothing heavy is imported before its environment is.

It ends with the process that started it, however that one ends, and by SIGTERM: training keeps a checkpoint first.
"""

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

if TYPE_CHECKING:
    from pipelines.study.jobs import Job
    from pipelines.study.store import Store

BEAT = 2.0  # seconds between looks at the clock and at the process that started this one


@dataclass(frozen=True)
class Reply:
    """What became of a job. `busy`: another process is at it, or was until now; ask again."""

    status: Literal["done", "busy", "failed"]
    message: str = ""
    seconds: float = 0.0


def main(connection: Connection, work: Path, environment: Mapping[str, str], about: Mapping[str, Any]) -> None:
    """Serve jobs that come over `connection` until it closes, with `environment` set before torch is imported.

    `about` (the commit) is kept beside what is measured.
    """
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the one that started us decides
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()
    from pipelines.study.store import Store

    store = Store(work)
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        connection.send(_serve(job, store, about))


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _watch(parent: int) -> None:
    """End this process once the one that started it is gone, as SIGTERM would."""
    while os.getppid() == parent:
        time.sleep(BEAT / 2)
    os.kill(os.getpid(), signal.SIGTERM)


def _serve(job: "Job", store: "Store", about: Mapping[str, Any]) -> Reply:
    from mcm.errors import UserError
    from mcm.training.stop import STATUS, StoppedError
    from pipelines.study.stages import run

    try:
        with store.claim(job) as ours:
            if not ours:
                return Reply("done" if store.done(job) else "busy")
            with _printing_to(store.log(job)):
                try:
                    store.describe(job)
                    with Clock(job, store, about) as clock:
                        run(job, store)
                    return Reply("done", seconds=clock.seconds)
                except StoppedError as stopped:
                    print(stopped, flush=True)
                    sys.exit(STATUS)
                except UserError as error:
                    return Reply("failed", str(error))
                except Exception as error:  # a study goes on with its other rows; the log has the whole of it
                    traceback.print_exc()
                    what = " ".join(str(error).split()) or "no message"
                    return Reply("failed", f"{type(error).__name__}: {what}; {store.log(job)} has the whole of it")
    except OSError as error:  # of the store itself, which has no place for a log then
        return Reply("failed", f"{error.filename or store.work}: {error.strerror}; free it, or choose another --work")


class Clock:
    """Measures a job and keeps it beside the artifact, every BEAT seconds, so that a killed attempt counts too.

    Kept are sums over all attempts: what an attempt did after its last checkpoint and the next did again is in them.
    `seconds` is by the wall, `processor_seconds` what this process's threads used.
    """

    def __init__(self, job: "Job", store: "Store", about: Mapping[str, Any]):
        import torch

        self._job, self._store, self._about = job, store, about
        before = store.measured(job)
        self._before = {} if before.get("finished") else before
        cuda = torch.cuda.is_available()
        self._device = torch.cuda.get_device_name() if cuda else f"cpu, {torch.get_num_threads()} threads"
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    @property
    def seconds(self) -> float:
        """Of this attempt, by the wall."""
        return time.perf_counter() - self._start

    def __enter__(self) -> Self:
        self._start, self._processor = time.perf_counter(), time.process_time()
        self._keep(finished=False)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._keep(finished=kind is None)

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            self._keep(finished=False)

    def _keep(self, finished: bool) -> None:
        from mcm.artifacts import write_json

        now = {"seconds": self.seconds, "processor_seconds": time.process_time() - self._processor, "attempts": 1}
        sums = {key: round(value + self._before.get(key, 0), 3) for key, value in now.items()}
        values = {**sums, "finished": finished, "device": self._device, **self._about}
        write_json(self._store.beside(self._job, "timing"), values)


@contextlib.contextmanager
def _printing_to(path: Path) -> Iterator[None]:
    """What this process and its libraries print goes to the end of a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = [os.dup(1), os.dup(2)]
    with path.open("ab") as opened:
        sys.stdout.flush()
        for number in (1, 2):
            os.dup2(opened.fileno(), number)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, original in zip((1, 2), kept, strict=True):
                os.dup2(original, number)
                os.close(original)
