"""The training loop: resumption with the same bits, micro-batches, averages, what stops it."""

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch

from mcm.data.arrays import ImageSet
from mcm.data.stream import TrainingStream, loader
from mcm.denoiser import Denoiser
from mcm.errors import UserError
from mcm.methods.consistency import Consistency, TeacherSteps
from mcm.methods.diffusion import Diffusion
from mcm.methods.interface import Batch, Draws, Method
from mcm.networks.presets import build, network_config
from mcm.networks.uvit import UViTConfig
from mcm.schedules import cosine
from mcm.training.checkpoint import CheckpointFolder
from mcm.training.config import TrainingConfig
from mcm.training.distributed import Processes
from mcm.training.ema import EMAs
from mcm.training.loop import Trained, train
from mcm.training.stop import StoppedError

ALONE = Processes(0, 1, torch.device("cpu"))
CONFIG = TrainingConfig(
    iterations=12,
    batch_size=8,
    learning_rate=2e-3,
    emas=(0.9, 0.5),
    log_every=5,
    checkpoint_every=4,
    warmup=3,
    decay=0.5,
)


def network() -> UViTConfig:
    config = network_config("uvit_tiny", 16, 3, 2, dropout=0.2)
    assert isinstance(config, UViTConfig)
    return config


def fresh() -> Denoiser:
    torch.manual_seed(0)
    return Denoiser(build(network()))


class KilledError(Exception):
    pass


def run(
    dataset: Path,
    folder: Path,
    config: TrainingConfig = CONFIG,
    method: Method | None = None,
    stop: int | None = None,
    signalled: int | None = None,
) -> Trained:
    """Train a fresh tiny network; `stop` raises KilledError before that iteration, as a kill between steps would.

    `signalled` sends this process SIGTERM before that iteration.
    """
    stream = TrainingStream(ImageSet.open(dataset), config.batch_size, config.seed, config.mirror)

    def batches(start: int, end: int) -> Iterator[tuple[Batch, Draws]]:
        for iteration, item in enumerate(loader(stream, start, end, config.workers), start):
            if iteration == stop:
                raise KilledError
            if iteration == signalled:
                os.kill(os.getpid(), signal.SIGTERM)
            yield item

    checkpoints = CheckpointFolder(folder, "fingerprint", config.keep_checkpoints)
    return train("test", fresh(), method or Diffusion(cosine(16)), batches, config, checkpoints, ALONE)


def same(a: Trained, b: Trained) -> bool:
    pairs = [(a.weights, b.weights), *((a.emas[name], b.emas[name]) for name in a.emas)]
    equal = all(torch.equal(x[key], y[key]) for x, y in pairs for key in x)
    return equal and a.history == b.history


def consistency() -> Consistency:
    """CD with a frozen teacher and dropout, so that every source of randomness takes part."""
    teacher = fresh().eval().requires_grad_(False)
    return Consistency(cosine(16), 2, TeacherSteps(8, 32, 10), teacher=teacher)


@pytest.mark.parametrize("stop", [3, 6, 11])
@pytest.mark.parametrize("method", [None, consistency()], ids=["diffusion", "cd"])
def test_a_killed_run_ends_with_the_same_bits(
    tiny_dataset: Path, tmp_path: Path, stop: int, method: Method | None
) -> None:
    whole = run(tiny_dataset, tmp_path / "whole", method=method)
    with pytest.raises(KilledError):
        run(tiny_dataset, tmp_path / "killed", method=method, stop=stop)
    assert same(whole, run(tiny_dataset, tmp_path / "killed", method=method))


@pytest.mark.parametrize("signalled", [0, 3, 5, 7])
def test_sigterm_writes_a_checkpoint_and_the_run_goes_on_with_the_same_bits(
    tiny_dataset: Path, tmp_path: Path, signalled: int
) -> None:
    whole = run(tiny_dataset, tmp_path / "whole")
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(StoppedError) as stopped:
        run(tiny_dataset, tmp_path / "stopped", signalled=signalled)
    done = signalled + 1
    assert str(stopped.value) == (f"stopped by SIGTERM at iteration {done} of 12; the same command goes on from there")
    assert signal.getsignal(signal.SIGTERM) is before
    kept = CheckpointFolder(tmp_path / "stopped", "fingerprint", 2).newest()
    assert kept is not None and kept.iteration == done
    assert same(whole, run(tiny_dataset, tmp_path / "stopped"))


def test_sigterm_in_the_last_iteration_lets_the_run_end(tiny_dataset: Path, tmp_path: Path) -> None:
    assert same(run(tiny_dataset, tmp_path / "a"), run(tiny_dataset, tmp_path / "b", signalled=11))


def test_training_outside_the_main_thread_leaves_signals_alone(tiny_dataset: Path, tmp_path: Path) -> None:
    """Python's signal handlers are set from the main thread only."""
    results: list[Trained] = []
    thread = threading.Thread(target=lambda: results.append(run(tiny_dataset, tmp_path / "thread")))
    thread.start()
    thread.join()
    assert same(results[0], run(tiny_dataset, tmp_path / "main"))


def test_the_number_of_loader_processes_changes_no_bit(tiny_dataset: Path, tmp_path: Path) -> None:
    alone = run(tiny_dataset, tmp_path / "alone")
    helped = run(tiny_dataset, tmp_path / "helped", CONFIG.model_copy(update={"workers": 2}))
    assert same(alone, helped)


def test_another_seed_is_another_run(tiny_dataset: Path, tmp_path: Path) -> None:
    other = CONFIG.model_copy(update={"seed": 1})
    assert not same(run(tiny_dataset, tmp_path / "a"), run(tiny_dataset, tmp_path / "b", other))


def test_micro_batches_add_up_to_the_batch(tiny_dataset: Path, tmp_path: Path) -> None:
    whole = run(tiny_dataset, tmp_path / "whole")
    split = run(tiny_dataset, tmp_path / "split", CONFIG.model_copy(update={"accumulate": 4}))
    for a, b in zip(whole.history, split.history, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)


def test_a_broken_checkpoint_is_passed_over(tiny_dataset: Path, tmp_path: Path) -> None:
    whole = run(tiny_dataset, tmp_path / "whole")
    with pytest.raises(KilledError):
        run(tiny_dataset, tmp_path / "broken", stop=10)
    newest = sorted((tmp_path / "broken").glob("checkpoint-*"))[-1] / "tensors.safetensors"
    newest.write_bytes(newest.read_bytes()[:-100])
    assert same(whole, run(tiny_dataset, tmp_path / "broken"))


def test_a_broken_checkpoint_does_not_push_out_those_after_it(tiny_dataset: Path, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"keep_checkpoints": 1, "checkpoint_every": 2})
    whole = run(tiny_dataset, tmp_path / "whole", config)
    with pytest.raises(KilledError):
        run(tiny_dataset, tmp_path / "broken", config, stop=9)
    (tmp_path / "broken" / "checkpoint-00000008" / "state.json").unlink()
    with pytest.raises(KilledError):
        run(tiny_dataset, tmp_path / "broken", config, stop=5)
    kept = CheckpointFolder(tmp_path / "broken", "fingerprint", 1).newest()
    assert kept is not None and kept.iteration == 4
    assert same(whole, run(tiny_dataset, tmp_path / "broken", config))


def test_the_last_k_checkpoints_are_kept_and_others_are_not_read(tiny_dataset: Path, tmp_path: Path) -> None:
    run(tiny_dataset, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-00000008", "checkpoint-00000012"]
    assert CheckpointFolder(tmp_path, "another run", 2).newest() is None


class NotFinite:
    """Diffusion whose loss is NaN at one iteration."""

    def __init__(self, at: int):
        self.at = at

    def loss(self, student: Denoiser, batch: Batch, draws: Draws, iteration: int) -> torch.Tensor:
        loss = Diffusion(cosine(16)).loss(student, batch, draws, iteration)
        return loss * float("nan") if iteration == self.at else loss


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_what_was_there(tiny_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="iteration 6 of seed 0"):
        run(tiny_dataset, tmp_path, method=NotFinite(6))
    kept = CheckpointFolder(tmp_path, "fingerprint", 2).newest()
    assert kept is not None and kept.iteration == 4
    assert all(tensor.isfinite().all() for tensor in kept.tensors.values())


class SelfTaught(Diffusion):
    """Diffusion that watches the student's EMAs from inside, as a method with a self-teacher does."""

    def follow(self, emas: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
        object.__setattr__(self, "emas", emas)


def test_a_method_that_follows_the_emas_sees_them_as_they_are_kept(tiny_dataset: Path, tmp_path: Path) -> None:
    method = SelfTaught(cosine(16))
    trained = run(tiny_dataset, tmp_path, method=method)
    followed = method.emas  # type: ignore[attr-defined]
    assert set(followed) == {"ema_0.9", "ema_0.5"}
    assert all(torch.equal(followed[e][k], v) for e in followed for k, v in trained.emas[e].items())
    assert not torch.equal(followed["ema_0.9"]["network.write.weight"], followed["ema_0.5"]["network.write.weight"])


def test_ema_is_the_weighted_mean_of_the_weights() -> None:
    path = [torch.tensor([float(k)]) for k in (1.0, 5.0, -2.0, 7.0)]
    emas = EMAs({"w": path[0]}, (0.25,))
    expected = path[0].clone()
    for update, value in enumerate(path[1:], 1):
        decay = min(0.25, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * value
        emas.update({"w": value}, update)
    torch.testing.assert_close(emas.shadows["ema_0.25"]["w"], expected)


def test_the_learning_rate_rises_stays_and_falls() -> None:
    config = TrainingConfig(iterations=100, batch_size=1, learning_rate=1.0, warmup=10, decay=0.4)
    rates = [config.learning_rate_at(i) for i in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9:60] == pytest.approx([1.0] * 51)
    assert rates[60] == pytest.approx(1.0) and rates[80] == pytest.approx(0.5) and rates[99] == pytest.approx(0.025)
