"""Checkpoints in the background: a step never waits, what is written is the snapshot, and errors are not lost."""

import threading
from pathlib import Path

import pytest
import torch

from mcm.errors import UserError
from mcm.training.background import BackgroundCheckpoints
from mcm.training.checkpoint import Checkpoint, CheckpointFolder


class SlowFolder(CheckpointFolder):
    """A disk that writes nothing until it is let."""

    def __init__(self, folder: Path, fails: bool = False):
        super().__init__(folder, "run", keep=10)
        self.let, self.begun = threading.Event(), threading.Event()
        self.fails = fails
        self.saved: list[int] = []

    def save(self, checkpoint: Checkpoint) -> None:
        self.begun.set()
        assert self.let.wait(10)
        if self.fails:
            raise UserError("disk: full; make room")
        super().save(checkpoint)
        self.saved.append(checkpoint.iteration)


def checkpoint(iteration: int, weight: torch.Tensor) -> Checkpoint:
    return Checkpoint(iteration, {"weights/w": weight}, [{"iteration": float(iteration)}])


def test_what_is_written_is_the_state_at_the_time_of_the_call(tmp_path: Path) -> None:
    folder, weight = SlowFolder(tmp_path), torch.zeros(3)
    with BackgroundCheckpoints(folder) as background:
        background.save(checkpoint(1, weight))
        weight += 7  # training goes on while the disk is slow
        folder.let.set()
    newest = folder.newest()
    assert newest is not None
    assert torch.equal(newest.tensors["weights/w"], torch.zeros(3))


def test_a_slow_disk_holds_nobody_up_and_the_newest_is_written(tmp_path: Path) -> None:
    folder, weight = SlowFolder(tmp_path), torch.zeros(3)
    with BackgroundCheckpoints(folder) as background:
        for iteration in range(1, 6):
            background.save(checkpoint(iteration, weight + iteration))
            assert folder.begun.wait(10)
        assert folder.saved == []
        folder.let.set()
    assert folder.saved == [1, 5]  # the one that was under way, and the newest of those that waited


def test_a_failed_write_ends_the_run(tmp_path: Path) -> None:
    folder = SlowFolder(tmp_path, fails=True)
    folder.let.set()
    with pytest.raises(UserError, match="disk: full"), BackgroundCheckpoints(folder) as background:
        background.save(checkpoint(1, torch.zeros(3)))
    with pytest.raises(UserError, match="disk: full"), BackgroundCheckpoints(folder) as background:
        background.save(checkpoint(1, torch.zeros(3)))
        background.wait()


def test_an_error_of_the_run_is_the_one_that_is_told_and_the_write_is_finished(tmp_path: Path) -> None:
    folder = SlowFolder(tmp_path)
    with pytest.raises(ZeroDivisionError), BackgroundCheckpoints(folder) as background:
        background.save(checkpoint(1, torch.zeros(3)))
        threading.Timer(0.1, folder.let.set).start()
        raise ZeroDivisionError
    assert folder.saved == [1]
