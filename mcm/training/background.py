"""Checkpoints written while training goes on: a step waits for a copy in memory, never for a disk or a bucket."""

import threading
from types import TracebackType
from typing import Self

from mcm.training.checkpoint import Checkpoint, CheckpointFolder


class BackgroundCheckpoints:
    """Takes snapshots and writes them in a thread, one after another.

    Where the disk is slower than the training, a newer snapshot takes the place of the one that waits, so that at most
    two are held; those of a state in parts are all written, so that all processes write the same ones. Leaving the
    block well waits for the last; an error of the thread is raised at the next call.
    """

    def __init__(self, checkpoints: CheckpointFolder):
        self._checkpoints = checkpoints
        self._waiting: Checkpoint | None = None
        self._writing = False
        self._error: BaseException | None = None
        self._state = threading.Condition()

    def save(self, checkpoint: Checkpoint) -> None:
        """Snapshot `checkpoint`, whose tensors may change afterwards, and write it soon."""
        snapshot = checkpoint.snapshot()
        with self._state:
            if snapshot.offsets:  # each process leaving out another one would leave none whole
                self._state.wait_for(lambda: self._waiting is None)
            self._raise()
            self._waiting = snapshot
            if not self._writing:
                self._writing = True
                threading.Thread(target=self._write, name="checkpoint").start()

    def wait(self) -> None:
        """Return once everything is written."""
        with self._state:
            self._state.wait_for(lambda: not self._writing)
            self._raise()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.wait()
        else:  # what was begun is finished, and the first error is the one that counts
            with self._state:
                self._state.wait_for(lambda: not self._writing)

    def _write(self) -> None:
        while True:
            with self._state:
                snapshot, self._waiting = self._waiting, None
                if snapshot is None:
                    self._writing = False
                    self._state.notify_all()
                    return
                self._state.notify_all()
            try:
                self._checkpoints.save(snapshot)
            except BaseException as error:  # raised where the run can end of it
                with self._state:
                    self._error = error

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error
