"""Several processes evaluate as one: shares, their order, and the same artifact to the bit."""

import itertools
import os
import sys
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as spawning

from components.training import seeded
from mcm.artifacts import folder_md5
from mcm.denoiser import Denoiser
from mcm.evaluation.sharing import in_order, share
from mcm.model import save_denoiser
from mcm.networks.presets import build, network_config
from mcm.schedules import cosine
from mcm.training.distributed import Processes, processes
from mcm.training.loop import Trained
from tests.chain.programs import run, write_params

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


def member(rank: int, world_size: int) -> Processes:
    return Processes(rank, world_size, torch.device("cpu"))


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [0, 1, 7, 64])
def test_shares_hold_every_batch_once(count: int, world_size: int) -> None:
    size = 5
    shares = [share(count, size, member(rank, world_size)) for rank in range(world_size)]
    assert sorted(part.start for parts in shares for part in parts) == list(range(0, count, size))
    assert sorted(k for parts in shares for part in parts for k in part) == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert share(count, size) == share(count, size, member(0, 1))


def test_one_process_reads_its_own_as_they_come() -> None:
    parts = [torch.ones(2, 3), torch.zeros(0, 3), torch.ones(1, 3)]
    for group in (None, member(0, 1)):
        assert all(a is b for a, b in zip(in_order(parts, parts[1], group), parts, strict=True))


COUNTS = (1, 9, 22)  # one process has no batch; the last batch is short; the last round is not full


def _read(rank: int, world_size: int, folder: str) -> None:
    os.environ.update({key: str(rank) for key in ("RANK", "LOCAL_RANK")} | {"WORLD_SIZE": str(world_size)})
    meeting = f"file://{folder}/meeting"
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world_size)
    with processes() as group:
        for count, dtype in itertools.product(COUNTS, (torch.float32, torch.uint8)):
            numbers = torch.arange(3 * count).view(count, 3).to(dtype)
            mine = [numbers[part.start : part.stop] for part in share(count, 4, group)]
            read = torch.cat([numbers[:0], *in_order(mine, numbers[:0], group)])
            assert torch.equal(read, numbers), (rank, count, dtype)
    Path(folder, f"{rank}").touch()
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_all_processes_read_the_batches_in_their_order(tmp_path: Path) -> None:
    spawning.spawn(_read, (3, str(tmp_path)), nprocs=3)
    assert {"0", "1", "2"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.slow
def test_two_processes_write_what_one_writes(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the byte, the cached features too; 6 batches, the last one short, and pictures of both processes."""
    network = network_config("uvit_tiny", 16, 3, 2)
    denoiser = seeded(0, lambda: Denoiser(build(network)))
    weights = {name: torch.randn(value.shape) / 20 for name, value in denoiser.named_parameters()}
    trained = Trained(weights, {"ema_0.9": weights}, [{"iteration": 1, "loss": 1.0}])
    save_denoiser(tmp_path / "cd-2", trained, network, cosine(16), {"method": "cd", "student_steps": 2})
    evaluation = {"samples": 42, "batch_size": 8, "pictures": 20}
    path = write_params(tmp_path / "params.yaml", {"evaluation": evaluation})
    shared: list[str | Path] = ["--params", path, "--dataset", tiny_dataset, "--model", tmp_path / "cd-2"]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # another number of threads rounds otherwise
    for count in (1, 2):
        words: list[str | Path] = ["--work", tmp_path / f"work{count}", "--name", "cd-2"]
        words += ["--out", tmp_path / f"out{count}", "--timing", tmp_path / f"timing{count}.json"]
        start = [*TORCHRUN, str(count), "-m"] if count > 1 else [sys.executable, "-m"]
        run(*start, "components.evaluate", *shared, *words)
    features = [sorted((tmp_path / f"work{count}" / "features").iterdir()) for count in (1, 2)]
    assert [file.read_bytes() for file in features[0]] == [file.read_bytes() for file in features[1]]
    assert folder_md5(tmp_path / "out1") == folder_md5(tmp_path / "out2")
