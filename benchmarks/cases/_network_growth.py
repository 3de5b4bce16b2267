"""Training steps of networks of many sizes: their time in turn, and their memory, each in a process of its own."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from benchmarks.harness import Timings, in_turn
from benchmarks.machine import device
from benchmarks.memory import Growth
from mcm.denoiser import Denoiser
from mcm.methods.diffusion import Diffusion
from mcm.methods.interface import Batch, Draws
from mcm.networks.presets import PRESETS, build
from mcm.networks.uvit import UViTConfig
from mcm.planning.flops import Passes, step_flops
from mcm.schedules import CosineSchedule
from mcm.training.devices import DEVICES
from mcm.training.ema import EMAs

FLOAT = 4  # bytes
MOST_STEPS = 8  # that count as one call, where a step is short


@dataclass(frozen=True)
class Size:
    """One size of a training step. `units` is what the axis counts: images, pixels, channels or blocks."""

    units: int
    config: UViTConfig
    batch: int

    @property
    def flops(self) -> int:
        """Of one step of diffusion training."""
        return self.batch * step_flops(self.config, Passes())


@dataclass(frozen=True)
class Memory:
    """Bytes of one size: what the weights and what belongs to them need, what is kept for backward, and the peak."""

    state: int  # weights, gradients, Adam's two moments, one EMA
    kept: int
    peak: int

    @property
    def counted(self) -> int:
        return self.state + self.kept


def axes(quick: bool) -> dict[str, list[Size]]:
    """From 1x to 64x, around the network of the default parameters; blocks to 16x, counted in the middle."""
    default = PRESETS["uvit_cpu32"]
    assert isinstance(default, UViTConfig)
    steps = (1, 4) if quick else (1, 2, 4, 8)

    def widened(by: int) -> UViTConfig:
        stages = [replace(stage, channels=stage.channels * by // 2) for stage in (*default.down, default.middle)]
        return replace(default, down=tuple(stages[:-1]), middle=stages[-1], embedding=default.embedding * by // 2)

    def deepened(by: int) -> UViTConfig:
        stages = [replace(stage, blocks=stage.blocks * by) for stage in (*default.down, default.middle)]
        return replace(default, down=tuple(stages[:-1]), middle=stages[-1])

    return {
        "images a batch": [Size(k * k, default, k * k) for k in steps],
        "pixels": [Size((16 * k) ** 2, replace(default, resolution=16 * k), 4) for k in steps],
        "channels": [Size(widened(k).middle.channels, widened(k), 4) for k in steps],
        "blocks": [Size(k * default.middle.blocks, deepened(k), 4) for k in (*steps, 2 * steps[-1])],
    }


class Step:
    """Diffusion training of a fresh network on one seeded batch: what the loop does in a step, without its logs."""

    def __init__(self, size: Size):
        place = device()
        torch.manual_seed(0)
        resolution, batch = size.config.resolution, size.batch
        self.denoiser = Denoiser(build(size.config), bf16=True).to(place)
        self.parameters: dict[str, nn.Parameter] = dict(self.denoiser.named_parameters())
        self.optimizer = torch.optim.Adam(self.parameters.values(), lr=1e-4, fused=DEVICES[place.type].fused_optimizer)
        self.emas = EMAs(dict(self.parameters), (0.999,))
        self.method = Diffusion(CosineSchedule(resolution, 32, 32))
        shape = (batch, size.config.image_channels, resolution, resolution)
        uniform = torch.rand(3, batch, dtype=torch.float64)
        self.batch = Batch(torch.rand(shape, device=place) * 2 - 1, None)
        seeds = torch.arange(batch, device=place)
        self.draws = Draws(torch.randn(shape, device=place), uniform[0], uniform[1], uniform[2], seeds)
        self.done = 0

    def loss(self) -> Tensor:
        return self.method.loss(self.denoiser, self.batch, self.draws, self.done).mean()

    def __call__(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.loss().backward()
        nn.utils.clip_grad_norm_(self.parameters.values(), 1.0)
        self.optimizer.step()
        self.done += 1
        self.emas.update(dict(self.parameters), self.done)


def times(sizes: list[Size], rounds: int) -> Timings:
    """Seconds of a step of each size, timed in turn; short steps are repeated until they count as much as others."""
    most = max(size.flops for size in sizes)
    repeats = {str(size.units): max(1, min(MOST_STEPS, most // size.flops)) for size in sizes}
    steps = {str(size.units): Step(size) for size in sizes}

    def repeated(name: str) -> Callable[[], None]:
        def call() -> None:
            for _ in range(repeats[name]):
                steps[name]()

        return call

    taken = in_turn({name: repeated(name) for name in steps}, rounds)
    return Timings({name: [second / repeats[name] for second in seconds] for name, seconds in taken.seconds.items()})


def memory(size: Size) -> Memory:
    """The memory of three steps of one size; to be called in a process of its own."""
    small = PRESETS["uvit_tiny"]
    assert isinstance(small, UViTConfig)
    Step(Size(1, small, 1))()  # loads what torch loads at its first step
    with Growth(on_gpu=device().type == "cuda") as growth:
        step = Step(size)
        for _ in range(3):
            step()
    state = FLOAT * 5 * sum(parameter.numel() for parameter in step.parameters.values())
    return Memory(state, _kept(step), growth.bytes)


def _kept(step: Step) -> int:
    """Bytes that a forward pass keeps for the backward one, each piece of memory once, without the weights."""
    own = {parameter.untyped_storage().data_ptr() for parameter in step.parameters.values()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = step.loss()
        total = sum(kept.values())
    del loss
    return total
