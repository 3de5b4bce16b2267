"""Several processes train as one does, with whole copies or parts of the state, and go on with what others left.

Two processes are started once, and go through all runs that the tests then compare.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from mcm.data.arrays import ImageSet
from mcm.data.stream import TrainingStream, loader
from mcm.denoiser import Denoiser
from mcm.methods.consistency import Consistency, TeacherSteps
from mcm.methods.interface import Batch, Draws
from mcm.networks.presets import build
from mcm.schedules import cosine
from mcm.training.checkpoint import CheckpointFolder, Saved
from mcm.training.config import TrainingConfig
from mcm.training.distributed import Processes
from mcm.training.loop import Trained, train
from mcm.training.parallel import parallelize
from tests.training.test_loop import ALONE, CONFIG, KilledError, network, same

pytestmark = pytest.mark.slow

SPLIT = CONFIG.model_copy(update={"accumulate": 2, "sample_every": 3})
PARTS = SPLIT.model_copy(update={"parallel": "fsdp", "recompute": True})
BF16 = {"precision": "bf16", "iterations": 6}
STOP = 10  # where runs are killed; their newest checkpoint is that of iteration 8


def fresh(config: TrainingConfig) -> Denoiser:
    """A network none of whose parameters is zero, so that a wrong one shows."""
    torch.manual_seed(0)
    denoiser = Denoiser(build(network()), config.precision == "bf16")
    with torch.no_grad():
        for value in denoiser.parameters():
            value += 0.02 * torch.randn_like(value)
    denoiser.network.recompute = config.recompute
    return denoiser


def run(dataset: Path, folder: Path, config: TrainingConfig, processes: Processes, stop: int | None = None) -> Trained:
    """Distill on all processes, with previews; killed before iteration `stop`."""
    stream = TrainingStream(ImageSet.open(dataset), config.batch_size, 0, True, processes.rank, processes.world_size)

    def batches(start: int, end: int) -> Iterator[tuple[Batch, Draws]]:
        for iteration, item in enumerate(loader(stream, start, end), start):
            if iteration == stop:
                raise KilledError
            yield item

    def preview(model: nn.Module) -> np.ndarray:
        with torch.inference_mode():
            level = cosine(16)(torch.full((2,), 0.5, dtype=torch.float64))
            model(torch.ones(2, 3, 16, 16), level, torch.zeros(2, dtype=torch.int64))
        return np.zeros((8, 8, 3), np.uint8)

    teacher = parallelize(fresh(config).eval().requires_grad_(False), config, processes)
    method = Consistency(cosine(16), 2, TeacherSteps(8, 32, 10), teacher=teacher)
    checkpoints = CheckpointFolder(folder, "fingerprint", 2, processes)
    return train("test", fresh(config), method, batches, config, checkpoints, processes, preview=preview)


def killed(dataset: Path, folder: Path, config: TrainingConfig, processes: Processes) -> None:
    with pytest.raises(KilledError):
        run(dataset, folder, config, processes, STOP)


def two(rank: int, dataset: Path, folder: Path) -> None:
    """What each of two processes does; the leading one keeps the results."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    group = Processes(rank, 2, torch.device("cpu"), rank, 2)

    def keep(name: str, trained: Trained) -> None:
        if group.leads:
            torch.save(vars(trained), folder / f"{name}.pt")
        group.barrier()

    keep("copies", run(dataset, folder / "copies", SPLIT, group))
    keep("parts", run(dataset, folder / "parts", PARTS, group))
    killed(dataset, folder / "killed", PARTS, group)
    if group.leads:
        shutil.copytree(folder / "killed", folder / "for-one")
    group.barrier()
    keep("resumed", run(dataset, folder / "killed", PARTS, group))
    keep("restored", run(dataset, folder / "one", PARTS.model_copy(update={"iterations": 8}), group))
    keep("after-one", run(dataset, folder / "one", PARTS, group))
    keep("bf16-copies", run(dataset, folder / "c16", SPLIT.model_copy(update=BF16), group))
    keep("bf16-parts", run(dataset, folder / "p16", PARTS.model_copy(update=BF16), group))
    dist.destroy_process_group()


@dataclass(frozen=True)
class Runs:
    folder: Path
    one: Trained
    after_two: Trained

    def __getitem__(self, name: str) -> Trained:
        return Trained(**torch.load(self.folder / f"{name}.pt"))

    def checkpoint(self, name: str, iteration: int) -> Saved:
        found = CheckpointFolder(self.folder / name, "fingerprint", 2)._open(iteration, (0, 1))
        assert found is not None
        return found


@pytest.fixture(scope="module")
def runs(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("two")
    killed(tiny_dataset, folder / "one", SPLIT, ALONE)
    mp.spawn(two, (tiny_dataset, folder), 2)
    one = run(tiny_dataset, folder / "alone", SPLIT, ALONE)
    return Runs(folder, one, run(tiny_dataset, folder / "for-one", PARTS, ALONE))


def tensors(trained: Trained) -> dict[str, Tensor]:
    emas = {f"{ema}/{name}": value for ema, shadow in trained.emas.items() for name, value in shadow.items()}
    return {f"weights/{name}": value for name, value in trained.weights.items()} | emas


def close(a: Trained, b: Trained, rounding: float) -> None:
    """Weights move by about the learning rate a step; Adam makes much of the rounding of a gradient near zero."""
    assert tensors(a).keys() == tensors(b).keys()
    for name, value in tensors(a).items():
        torch.testing.assert_close(value, tensors(b)[name], rtol=rounding, atol=rounding)
    for one, other in zip(a.history, b.history, strict=True):
        assert one == pytest.approx(other, rel=rounding)


@pytest.mark.parametrize("name", ["copies", "parts"])
def test_two_processes_train_as_one(runs: Runs, name: str) -> None:
    close(runs.one, runs[name], 2e-5)


def test_in_parts_bf16_weights_are_sent_as_autocast_would_cast_them(runs: Runs) -> None:
    close(runs["bf16-copies"], runs["bf16-parts"], 2e-5)


def test_a_run_in_parts_that_was_killed_ends_with_the_same_bits(runs: Runs) -> None:
    assert same(runs["parts"], runs["resumed"])


def test_a_state_in_parts_is_the_whole_one(runs: Runs) -> None:
    """Weights, averages and moments of every parameter, by name."""
    parts, copies = runs.checkpoint("parts", 12).tensors, runs.checkpoint("copies", 12).tensors
    assert set(parts) == set(copies) and any(name.startswith("adam.exp_avg_sq/") for name in parts)
    for name in copies:
        torch.testing.assert_close(parts[name], copies[name], rtol=2e-5, atol=2e-5)
    assert all(torch.equal(parts[name], value) for name, value in tensors(runs["parts"]).items())


def test_what_two_left_one_goes_on_with(runs: Runs) -> None:
    close(runs["parts"], runs.after_two, 2e-5)


def test_what_one_left_two_go_on_with(runs: Runs) -> None:
    stored = runs.checkpoint("one", 8).tensors
    assert all(torch.equal(stored[name], value) for name, value in tensors(runs["restored"]).items())
    close(runs.one, runs["after-one"], 2e-5)
