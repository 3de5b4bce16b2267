"""The loop on torch_xla's own CPU: nothing is compiled or waited for in a step, and it ends as torch's CPU does.

Needs an environment with torch_xla (docs/tpu.md): `PJRT_DEVICE=CPU pytest -m tpu tests/training/test_xla.py`.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("torch_xla", reason="torch_xla is installed in an environment of its own: docs/tpu.md")

import torch_xla.debug.metrics as metrics

from mcm.data.arrays import ImageSet
from mcm.data.stream import TrainingStream, loader
from mcm.denoiser import Denoiser
from mcm.errors import UserError
from mcm.methods.consistency import Consistency, TeacherSteps
from mcm.methods.diffusion import Diffusion
from mcm.methods.interface import Batch, Draws, Method
from mcm.networks.dropout import keep_mask
from mcm.networks.presets import build
from mcm.networks.uvit import Stage, UViTConfig
from mcm.samplers import SamplerConfig, generate
from mcm.schedules import cosine
from mcm.training.checkpoint import CheckpointFolder
from mcm.training.config import TrainingConfig
from mcm.training.distributed import Processes, processes
from mcm.training.loop import Trained, train
from mcm.variance import analytic_x_var

pytestmark = pytest.mark.tpu

with processes() as group:  # before the first backward pass of any test
    XLA = group
CPU = Processes(0, 1, torch.device("cpu"))
# The rate warms up and falls, one average has its decay from update 8 on, and rows and checkpoints lie apart.
CONFIG = TrainingConfig(
    iterations=24,
    batch_size=8,
    learning_rate=2e-3,
    emas=(0.9, 0.5),
    log_every=5,
    checkpoint_every=8,
    warmup=6,
    decay=0.3,
)
SETTLED = 12  # iterations after which each kind of step, row and checkpoint was there once
METHODS = ("diffusion", "ct", "guided cd")
# One block of each kind: XLA compiles each of them for seconds.
NETWORK = UViTConfig(
    16,
    (Stage("resnet", 16, 1),),
    Stage("transformer", 32, 1, dropout=0.2),
    embedding=32,
    head_channels=16,
    num_classes=2,
)


def fresh(bf16: bool = False) -> Denoiser:
    torch.manual_seed(0)
    return Denoiser(build(NETWORK), bf16)


def method(name: str, on: Processes) -> Method:
    """A method with annealed teacher steps, and for CD a frozen teacher."""
    if name == "diffusion":
        return Diffusion(cosine(16), label_dropout=0.1, null_label=2)
    teacher = None if name == "ct" else fresh().to(on.device).eval().requires_grad_(False)
    return Consistency(
        cosine(16),
        2,
        TeacherSteps(8, 64, 20),
        teacher=teacher,
        guidance=0.5 if name == "guided cd" else 0.0,
        null_label=2,
        fixed_shapes=on.kind.fixed_shapes,
    )


def count(metric: str) -> int:
    data = metrics.metric_data(metric)
    return int(data[0]) if data else 0


class KilledError(Exception):
    pass


def run(
    dataset: Path,
    folder: Path,
    on: Processes,
    name: str = "diffusion",
    bf16: bool = False,
    stop: int | None = None,
) -> tuple[Trained, list[tuple[int, int]]]:
    """Train; and what was compiled and what was brought to the host before each iteration, and at the end."""
    stream = TrainingStream(ImageSet.open(dataset), CONFIG.batch_size, CONFIG.seed, CONFIG.mirror)
    seen = []

    def batches(start: int, end: int) -> Iterator[tuple[Batch, Draws]]:
        for iteration, item in enumerate(loader(stream, start, end), start):
            seen.append((count("CompileTime"), count("TransferFromDeviceTime")))
            if iteration == stop:
                raise KilledError
            yield item
        seen.append((count("CompileTime"), count("TransferFromDeviceTime")))

    checkpoints = CheckpointFolder(folder, "fingerprint", CONFIG.keep_checkpoints)
    return train("test", fresh(bf16), method(name, on), batches, CONFIG, checkpoints, on), seen


@pytest.mark.parametrize("name", METHODS)
def test_a_step_compiles_nothing_new_waits_for_nothing_and_ends_as_on_torchs_cpu(
    tiny_dataset: Path, tmp_path: Path, name: str
) -> None:
    assert XLA.device.type == "xla"
    expected, _ = run(tiny_dataset, tmp_path / "cpu", CPU, name)
    metrics.clear_all()
    trained, seen = run(tiny_dataset, tmp_path / "xla", XLA, name)
    compiled, brought = zip(*seen, strict=True)
    # All but the last, which makes a row and a checkpoint at once.
    assert len(set(compiled[SETTLED:-1])) == 1, f"{name}: compiled before each iteration: {compiled}"
    assert compiled[-1] <= 8
    # Nothing comes to the host but for rows and checkpoints, once Adam has looked at its rate.
    for done in range(2, CONFIG.iterations):
        if done % CONFIG.log_every and done % CONFIG.checkpoint_every:
            assert brought[done] == brought[done - 1], f"{name}: iteration {done} brought numbers to the host"
    # Operations that XLA does not have, which run on the host; a number that is read for a row is counted so too.
    fallen = {counter for counter in metrics.counter_names() if counter.startswith("aten::")}
    assert fallen <= {"aten::_local_scalar_dense"}
    for ours, theirs in zip(trained.history, expected.history, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert ours["gradient_norm"] == pytest.approx(theirs["gradient_norm"], rel=1e-3)
    apart = {key: trained.weights[key].cpu() - value for key, value in expected.weights.items()}
    assert _norm(apart) < 1e-4 * _norm(expected.weights)


def _norm(weights: dict[str, torch.Tensor]) -> float:
    return float(torch.stack([value.square().sum() for value in weights.values()]).sum().sqrt())


def test_dropout_masks_are_those_of_torchs_cpu() -> None:
    seeds = torch.tensor([0, 5, 2**31 + 7, 2**32 - 1])
    for layer in (0, 3):
        here, there = (keep_mask(seeds.to(on.device), layer, 0.2, (64,)).cpu() for on in (CPU, XLA))
        assert torch.equal(here, there)


def test_bf16_is_autocast_there_too(tiny_dataset: Path, tmp_path: Path) -> None:
    full, _ = run(tiny_dataset, tmp_path / "float32", CPU)
    metrics.clear_all()
    half, seen = run(tiny_dataset, tmp_path / "bf16", XLA, bf16=True)
    assert len({compiled for compiled, _ in seen[SETTLED:-1]}) == 1
    assert half.history != full.history
    for ours, theirs in zip(half.history, full.history, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=0.02)


def test_a_killed_run_ends_with_the_same_bits(tiny_dataset: Path, tmp_path: Path) -> None:
    whole, _ = run(tiny_dataset, tmp_path / "whole", XLA, "cd")
    with pytest.raises(KilledError):
        run(tiny_dataset, tmp_path / "killed", XLA, "cd", stop=11)
    resumed, _ = run(tiny_dataset, tmp_path / "killed", XLA, "cd")
    assert resumed.history == whole.history
    averages = zip(whole.emas.values(), resumed.emas.values(), strict=True)
    for weights, others in ((whole.weights, resumed.weights), *averages):
        assert all(torch.equal(weights[key].cpu(), others[key].cpu()) for key in weights)


@pytest.mark.parametrize("sampler", ["ddim", "addim", "ddpm", "heun"])
def test_samples_are_those_of_torchs_cpu(sampler: str) -> None:
    model = fresh().eval()
    with torch.no_grad():
        model.network.write.weight.normal_(std=0.05)  # it starts at 0, where all samplers agree

    def pictures(device: torch.device, steps: int) -> np.ndarray:
        config = SamplerConfig(name=sampler, steps=steps)
        shape = (3, 16, 16)
        made = generate(model.to(device), config, cosine(16), 0, 8, shape, 2, 4, device, analytic_x_var)
        return torch.cat([batch.cpu() for batch in made]).numpy()

    here = pictures(CPU.device, 3)
    there = pictures(XLA.device, 3)
    assert np.abs(there.astype(int) - here.astype(int)).max() <= 1 and here.std() > 10
    compiled = count("CompileTime")
    pictures(XLA.device, 6)
    # The table of levels is longer, and what cuts it into levels; the steps themselves are the same program.
    assert count("CompileTime") <= compiled + 2


def test_several_processes_are_refused_on_xlas_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="PJRT_DEVICE=CPU with 2 processes"), processes():
        pass
