"""Checkpoints in a bucket: another machine goes on with the same bits, from what is whole there."""

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch

from components import storage
from components.storage import checkpoints as mirrored
from components.storage import gcs
from components.storage.checkpoints import MirroredCheckpoints
from mcm.errors import UserError
from mcm.training.background import BackgroundCheckpoints
from mcm.training.checkpoint import STATE, TENSORS, Checkpoint, CheckpointFolder
from mcm.training.distributed import Processes
from tests.storage.server import BUCKET, Server, Wire
from tests.storage.test_transfer import refused
from tests.training import test_loop as loop


def mirror(folder: Path, uri: str, keep: int = 2) -> "closing[MirroredCheckpoints]":
    return closing(MirroredCheckpoints(folder, "fingerprint", keep, uri, loop.ALONE))


def checkpoint(iteration: int) -> Checkpoint:
    return Checkpoint(iteration, {"w": torch.full((1000,), float(iteration))}, [{"loss": 1.0 / iteration}])


def newest(folder: Path, uri: str) -> int | None:
    """The iteration that a machine with this folder begins with."""
    with mirror(folder, uri) as opened:
        found = opened.newest()
    return None if found is None else found.iteration


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`loop.run` with checkpoints in the bucket: the folder's name says which run, its parent which machine."""

    def open_mirror(folder: Path, fingerprint: str, keep: int) -> MirroredCheckpoints:
        opened.append(
            MirroredCheckpoints(folder, fingerprint, keep, f"gs://{BUCKET}/runs/{folder.name}/checkpoints", loop.ALONE)
        )
        return opened[-1]

    opened: list[MirroredCheckpoints] = []
    monkeypatch.setattr(loop, "CheckpointFolder", open_mirror)
    yield
    for one in opened:
        one.close()


@pytest.mark.parametrize("stop", [3, 6, 11])
def test_another_machine_ends_with_the_same_bits(
    server: Server, trained: None, tiny_dataset: Path, tmp_path: Path, stop: int
) -> None:
    whole = loop.run(tiny_dataset, tmp_path / "one" / f"whole-{stop}")
    with pytest.raises(loop.KilledError):
        loop.run(tiny_dataset, tmp_path / "two" / f"killed-{stop}", stop=stop)
    # What was on its way when the machine went may have arrived or not; any whole one gives the same bits.
    assert loop.same(whole, loop.run(tiny_dataset, tmp_path / "three" / f"killed-{stop}"))


def test_what_was_saved_is_found_elsewhere(uri: str, tmp_path: Path) -> None:
    assert newest(tmp_path / "one", uri) is None
    with mirror(tmp_path / "one", uri) as saved:
        for iteration in (10, 20, 30):
            saved.save(checkpoint(iteration))
            assert f"checkpoint-{iteration:08d}/{STATE}" in storage.list_names(uri)
    names = [f"checkpoint-{k:08d}/{name}" for k in (20, 30) for name in (STATE, TENSORS)]
    assert storage.list_names(uri) == names
    with mirror(tmp_path / "two", uri) as opened:
        found = opened.newest()
    assert found is not None and found.iteration == 30 and found.history == checkpoint(30).history
    assert torch.equal(found.tensors["w"], checkpoint(30).tensors["w"])
    with mirror(tmp_path / "two", uri) as opened:
        opened.clear()
    assert not storage.exists(uri) and not list((tmp_path / "two").iterdir())


def test_training_does_not_wait_for_a_copy(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrived, upload = threading.Event(), mirrored.upload

    def slow(path: Path, to: str, last: str) -> None:
        arrived.wait(30)
        upload(path, to, last)

    monkeypatch.setattr(mirrored, "upload", slow)
    with mirror(tmp_path / "one", uri) as saved, BackgroundCheckpoints(saved) as background:
        background.save(checkpoint(10))
        assert not storage.exists(uri)
        arrived.set()
    assert newest(tmp_path / "two", uri) == 10


def test_half_a_copy_is_no_checkpoint(uri: str, tmp_path: Path) -> None:
    with mirror(tmp_path / "one", uri) as saved:
        for iteration in (10, 20):
            saved.save(checkpoint(iteration))
    storage.delete(f"{uri}/checkpoint-00000020/{STATE}")
    assert newest(tmp_path / "two", uri) == 10


def test_a_copy_that_was_cut_is_no_checkpoint(
    wired: tuple[Server, Wire], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("components.storage.gcs.PATIENT", 1.0)
    server, wire = wired
    uri = f"gs://{BUCKET}/run"
    large = Checkpoint(20, {"w": torch.zeros(gcs.CHUNK)}, [])
    with pytest.raises(UserError, match="does not answer"), mirror(tmp_path / "one", uri) as saved:
        saved.save(checkpoint(10))
        wire.cut_up, wire.after_cut = [wire.up + gcs.CHUNK + 1], server.stop
        saved.save(large)
    server.start()
    assert f"checkpoint-00000020/{STATE}" not in storage.list_names(uri)
    assert newest(tmp_path / "two", uri) == 10


@pytest.mark.parametrize("how", ["corrupted", "another run", "gone"])
def test_a_broken_one_is_passed_over(server: Server, uri: str, tmp_path: Path, how: str) -> None:
    with mirror(tmp_path / "one", uri) as saved:
        for iteration in (10, 20):
            saved.save(checkpoint(iteration))
    tensors = f"{uri}/checkpoint-00000020/{TENSORS}"
    if how == "corrupted":
        server.corrupt(tensors)
    elif how == "gone":
        storage.delete(tensors)
    else:
        CheckpointFolder(tmp_path / "other", "another run", 2).save(checkpoint(20))
        storage.upload(tmp_path / "other" / "checkpoint-00000020", f"{uri}/checkpoint-00000020", last=STATE)
    assert newest(tmp_path / "two", uri) == 10
    with mirror(tmp_path / "two", uri, keep=1) as opened:  # and it does not push out what comes after it
        opened.newest()
        opened.save(checkpoint(15))
    assert newest(tmp_path / "three", uri) == 15


def test_an_outage_does_not_begin_the_run_again(
    wired: tuple[Server, Wire], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("components.storage.gcs.PATIENT", 1.0)
    server, wire = wired
    uri = f"gs://{BUCKET}/run"
    with mirror(tmp_path / "one", uri) as saved:
        for iteration in (10, 20):
            saved.save(Checkpoint(iteration, {"w": torch.zeros(gcs.CHUNK // 2)}, []))
    wire.cut_down, wire.after_cut = [wire.down + gcs.CHUNK], server.stop
    with pytest.raises(UserError, match="does not answer"):
        newest(tmp_path / "two", uri)
    server.start()
    assert newest(tmp_path / "two", uri) == 20


def test_what_is_in_the_bucket_counts(uri: str, tmp_path: Path) -> None:
    """A later one on this machine alone is not used: other nodes of the same run cannot see it."""
    with mirror(tmp_path / "one", uri, keep=1) as saved:
        saved.save(checkpoint(10))
    CheckpointFolder(tmp_path / "one", "fingerprint", 9).save(checkpoint(20))
    assert newest(tmp_path / "one", uri) == 10
    with mirror(tmp_path / "one", uri, keep=1) as saved:
        saved.newest()
        saved.save(checkpoint(15))
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["checkpoint-00000015"]


def test_a_copy_that_fails_is_told(wired: tuple[Server, Wire], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.storage.gcs.PATIENT", 1.0)
    server, _ = wired
    saved = MirroredCheckpoints(tmp_path, "fingerprint", 2, f"gs://{BUCKET}/run", loop.ALONE)
    server.stop()
    assert "does not answer" in refused(lambda: saved.save(checkpoint(10)))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-00000010"]


def test_logs_are_copied_beside_and_never_fail_a_run(
    wired: tuple[Server, Wire], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server, _ = wired
    uri = f"gs://{BUCKET}/run"
    for machine in ("one", "two"):
        (tmp_path / machine / "logs").mkdir(parents=True)
        (tmp_path / machine / "logs" / f"events.{machine}").write_text("said")
        with mirror(tmp_path / machine / "checkpoints", f"{uri}/checkpoints") as saved:
            saved.save(checkpoint(10))
    assert storage.list_names(f"{uri}/logs") == ["events.one", "events.two"]
    with mirror(tmp_path / "two" / "checkpoints", f"{uri}/checkpoints"):
        server.stop()
    assert capsys.readouterr().err.startswith(f"logs were not copied: {uri}/logs: ")


def test_a_copy_that_fails_at_the_end_of_a_run_is_told(server: Server, tmp_path: Path) -> None:
    saved = MirroredCheckpoints(tmp_path, "fingerprint", 2, "gs://none/run", loop.ALONE)
    with pytest.raises(UserError, match="gs://none: no such bucket"), BackgroundCheckpoints(saved) as background:
        background.save(checkpoint(10))


def part(rank: int, iteration: int) -> Checkpoint:
    """What one of two processes holds: rows of w, and what both have."""
    tensors = {"w": torch.full((3, 5), 10.0 * iteration + rank), "steps": torch.tensor(float(iteration))}
    return Checkpoint(iteration, tensors, [{"loss": 1.0}], {"w": (3 * rank, 0)})


def two(folder: Path, uri: str) -> list[MirroredCheckpoints]:
    """Two processes, each on a machine of its own."""
    opened = []
    for rank in range(2):
        one = MirroredCheckpoints(folder / str(rank), "fingerprint", 2, uri, Processes(rank, 2, torch.device("cpu")))
        one._start = "0a1b2c3d"  # on which they have agreed
        opened.append(one)
    return opened


def test_every_process_copies_its_part_and_a_machine_fetches_those_of_others(uri: str, tmp_path: Path) -> None:
    first, second = two(tmp_path, uri)
    for iteration in (10, 20, 30, 40):
        second.save(part(1, iteration))
        if iteration == 40:  # the other machine is gone before its part is there
            break
        first.save(part(0, iteration))
    assert sorted(path.name[-2:] for path in (tmp_path / "1").iterdir()) == ["20", "30", "40"]
    with mirror(tmp_path / "third", uri) as opened:
        found = opened.newest()
        assert found is not None and found.iteration == 30 and found.history == [{"loss": 1.0}]
        assert torch.equal(found.tensors["w"], torch.tensor([300.0, 301.0]).repeat_interleave(3)[:, None].expand(6, 5))
        assert float(found.tensors["steps"]) == 30
    names = [name for name in storage.list_names(uri) if name.startswith("checkpoint-00000030")]
    storage.delete(f"{uri}/{next(name for name in names if 'tensors-00001' in name)}")
    assert newest(tmp_path / "fourth", uri) == 20
    with mirror(tmp_path / "fourth", uri) as opened:  # one process goes on from there, and its own push the parts out
        opened.newest()
        for iteration in (30, 50):
            opened.save(checkpoint(iteration))
    assert {name.split("/")[0][-2:] for name in storage.list_names(uri)} == {"30", "40", "50"}
    assert newest(tmp_path / "fifth", uri) == 50
