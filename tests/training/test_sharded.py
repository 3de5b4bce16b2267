"""State in parts on disk: any split reads as the whole, and what lacks a part or mixes two starts does not count."""

from pathlib import Path

import pytest
import torch

from mcm.tensors import write_tensors
from mcm.training.checkpoint import Checkpoint, CheckpointFolder, part_files, whole
from mcm.training.distributed import Processes
from mcm.training.sharded import Part, Stored

WHOLE = {"w": torch.arange(35.0).view(7, 5), "b": torch.arange(3.0), "steps": torch.tensor(4.0)}
START, OTHER = "0a1b2c3d", "4e5f6071"


def held(rank: int, count: int) -> tuple[dict[str, torch.Tensor], dict[str, tuple[int, ...]]]:
    """What one of `count` processes holds, as FSDP2 deals it out: rows, of which the last process may have none."""
    tensors, offsets = {"steps": WHOLE["steps"]}, {}
    for name in ("w", "b"):
        rows = -(-len(WHOLE[name]) // count)
        first = min(rank * rows, len(WHOLE[name]))
        tensors[name] = WHOLE[name][first : first + rows]
        offsets[name] = (first, *(0,) * (WHOLE[name].ndim - 1))
    return tensors, offsets


def folder(path: Path, rank: int = 0, count: int = 1, start: str = START, keep: int = 2) -> CheckpointFolder:
    opened = CheckpointFolder(path, "fingerprint", keep, Processes(rank, count, torch.device("cpu"), rank, count))
    opened._start = start  # on which the processes have agreed
    return opened


def save(path: Path, iteration: int, count: int, ranks: list[int], start: str = START, keep: int = 2) -> None:
    for rank in ranks:
        tensors, offsets = held(rank, count)
        checkpoint = Checkpoint(iteration, tensors, [{"loss": float(rank)}], offsets)
        folder(path, rank, count, start, keep).save(checkpoint)


def newest(path: Path) -> int | None:
    found = folder(path).newest()
    return None if found is None else found.iteration


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_any_split_reads_as_the_whole(tmp_path: Path, count: int) -> None:
    save(tmp_path, 10, count, list(reversed(range(count))))
    found = folder(tmp_path).newest()
    assert found is not None and found.history == [{"loss": 0.0}]
    assert set(found.tensors) == set(WHOLE)
    into = {name: torch.full_like(value, torch.nan) for name, value in WHOLE.items()}
    found.tensors.load(into)  # by torch.distributed.checkpoint
    for name, value in WHOLE.items():
        assert torch.equal(found.tensors[name], value) and torch.equal(into[name], value)


def test_torch_finds_the_pieces_that_a_process_needs(tmp_path: Path) -> None:
    """Rows 0 to 2 and 3 to 6 of w lie in two files."""
    for name, rows in (("a", slice(0, 3)), ("b", slice(3, 7))):
        write_tensors(tmp_path / name, {"w": WHOLE["w"][rows]})
    stored = Stored([Part(tmp_path / "a"), Part(tmp_path / "b", {"w": (3, 0)})])
    assert stored.shape("w") == (7, 5) and torch.equal(stored["w"], WHOLE["w"])


def test_a_checkpoint_counts_once_all_parts_are_there(tmp_path: Path) -> None:
    save(tmp_path, 10, 2, [0, 1])
    save(tmp_path, 20, 2, [0])
    assert newest(tmp_path) == 10
    save(tmp_path, 20, 2, [1], start=OTHER)  # of another start: together they are no state that ever was
    assert newest(tmp_path) == 10
    save(tmp_path, 20, 2, [0], start=OTHER)
    assert newest(tmp_path) == 20


@pytest.mark.parametrize("what", ["a byte", "a file"])
def test_a_broken_part_is_passed_over(tmp_path: Path, what: str) -> None:
    save(tmp_path, 10, 2, [0, 1])
    save(tmp_path, 20, 2, [0, 1])
    broken = tmp_path / "checkpoint-00000020" / part_files(1, 2, START)[0]
    broken.write_bytes(broken.read_bytes()[:-1] + b"x") if what == "a byte" else broken.unlink()
    assert newest(tmp_path) == 10


def test_only_whole_ones_count_among_those_kept(tmp_path: Path) -> None:
    save(tmp_path, 10, 2, [0, 1], keep=1)
    save(tmp_path, 20, 2, [0], keep=1)  # whose other part never comes
    assert newest(tmp_path) == 10
    save(tmp_path, 30, 2, [1, 0], keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-00000030"]


def test_a_run_of_one_process_goes_on_in_the_same_folder(tmp_path: Path) -> None:
    save(tmp_path, 10, 2, [0, 1])
    assert newest(tmp_path) == 10
    folder(tmp_path).save(Checkpoint(20, WHOLE, []))
    assert newest(tmp_path) == 20
    folder(tmp_path).clear()
    assert not list(tmp_path.iterdir())


def test_names_of_other_files_are_no_checkpoint() -> None:
    assert whole(["state-00000-of-00002-0a1b2c3d.json", "notes.txt"]) == []
    assert whole([]) == []
