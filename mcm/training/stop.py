"""SIGTERM while training: every process stops at the same iteration, so that a checkpoint can be written there."""

import signal
import threading
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from mcm.training.distributed import Processes

STATUS = 128 + signal.SIGTERM  # what a shell reports of a process that SIGTERM ended


class StoppedError(Exception):
    """Training was asked to stop and did, its state kept. One line; programs exit with `STATUS` on it."""

    def __init__(self, iteration: int, iterations: int):
        super().__init__(
            f"stopped by SIGTERM at iteration {iteration} of {iterations}; the same command goes on from there"
        )


class Stop:
    """Takes SIGTERM for as long as it is entered; what the signal did before is put back after.

    Only the main thread can take signals: elsewhere SIGTERM keeps its meaning, and only other processes can ask.
    """

    def __init__(self, processes: "Processes"):
        self._vote = processes.vote()
        self._asked = False
        self._takes = threading.current_thread() is threading.main_thread()

    def agreed(self) -> bool:
        """Whether all stop now, since one was asked to; every process calls this once an iteration."""
        return self._vote.cast(self._asked)

    def __enter__(self) -> Self:
        if self._takes:
            self._before = signal.signal(signal.SIGTERM, self._take)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._takes:
            signal.signal(signal.SIGTERM, self._before)

    def _take(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
