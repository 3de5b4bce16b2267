"""Memory of one device in a training run, by part: what lies there all the time, and what a step adds at its worst.

Weights, gradients, Adam's two moments, EMAs and the teacher are counted from the network's parameters; what a step
holds beside them is traced (`mcm.planning.trace`). Not counted: the device's own context, libraries' workspaces and
what an allocator loses between blocks; `mcm.planning.devices` keeps a share of the memory free for them.
"""

import bisect
import functools
import math
from dataclasses import asdict, dataclass, replace
from typing import Literal

from torch import Tensor, nn

from mcm.networks.mlp import MLPBlock
from mcm.networks.presets import NetworkConfig
from mcm.networks.uvit import BLOCKS
from mcm.planning.trace import Gradients, MethodName, Step, build_on_meta, trace

FLOAT32 = 4  # bytes of a master weight, of a gradient, of a moment and of an EMA
FEW, MORE = 16, 32  # micro-batches that tell how a step grows with its images


@dataclass(frozen=True)
class Setting:
    """How a network is trained. `batch` is the global batch; it splits evenly over devices and micro-batches."""

    network: NetworkConfig
    method: MethodName
    batch: int
    devices: int = 1
    parallel: Literal["ddp", "fsdp"] = "ddp"
    accumulate: int = 1
    recompute: bool = False
    bf16: bool = True
    emas: int = 1
    kind: Literal["cpu", "gpu"] = "gpu"

    @property
    def images(self) -> int:
        """Images of a micro-batch."""
        return self.batch // (self.devices * self.accumulate)

    @property
    def fits_evenly(self) -> bool:
        return self.batch % (self.devices * self.accumulate) == 0


def memory(setting: Setting) -> dict[str, int]:
    """Bytes of each part, on one device, at the moment when most is alive."""
    alone = setting.devices == 1
    sharded = setting.parallel == "fsdp" and not alone
    weights = sum(_bytes(weight, setting.devices if sharded else 1) for weight in _parameters(setting.network))
    parts = {
        "weights": weights,
        "Adam moments": 2 * weights,
        "EMAs": setting.emas * weights,
        "teacher": weights if setting.method in ("cd", "guided") else 0,
        **_of_step(setting, sharded),
    }
    if sharded:
        parts["gradients"] = weights
        if setting.accumulate > 1:  # summed over processes with the last micro-batch, and whole until then
            parts["gradients"] += sum(_bytes(weight) for weight in _parameters(setting.network))
        parts["gathered"] = _gathered(setting.network)
    elif not alone:
        parts["DDP buckets"] = weights
    return {name: size for name, size in parts.items() if size}


def largest_micro_batch(setting: Setting, capacity: float) -> int:
    """Images of the largest micro-batch that a device of `capacity` bytes takes, to a few; 0 where not one fits."""

    def total(images: int) -> int:
        one = replace(setting, batch=images * setting.devices, accumulate=1)
        # Whether gradients wait for more micro-batches is the setting's, not this search's.
        return sum(memory(one).values()) if setting.accumulate == 1 else sum(memory(_added(one)).values())

    growth = (total(MORE) - total(FEW)) / (MORE - FEW)
    guess = FEW + math.floor((capacity - total(FEW)) / growth)
    if guess > FEW:  # once more from there, since what a step holds bends a little
        return guess + math.floor((capacity - total(guess)) / growth)
    return bisect.bisect_right(range(1, FEW + 1), capacity, key=total)


def _added(one: Setting) -> Setting:
    """The same micro-batch as the second of two."""
    return replace(one, batch=2 * one.batch, accumulate=2)


def _of_step(setting: Setting, sharded: bool) -> dict[str, int]:
    """What a step adds, for a micro-batch of `setting.images`."""
    gradients: Gradients = "sent" if sharded else "added" if setting.accumulate > 1 else "kept"
    # At its worst a step of CT holds what one of CD does: the teacher's pass is over by then.
    method = "cd" if setting.method == "ct" else setting.method
    step = Step(setting.network, method, setting.images, setting.bf16, setting.recompute, gradients, setting.kind)
    parts: dict[str, int] = asdict(trace(step))
    parts["batch"] *= setting.accumulate  # all micro-batches of a step come at once
    return parts


def _gathered(network: NetworkConfig) -> int:
    """What FSDP puts together for a while, in float32.

    The parameters that belong to no block stay whole through the step. Of the blocks two are whole at a time, the one
    at work and the one fetched ahead; and in the backward pass the gradient of one, beside the copy that is sent.
    """
    blocks = [sum(_bytes(weight) for weight in block.parameters()) for block in _blocks(network)]
    outside = sum(_bytes(weight) for weight in _parameters(network)) - sum(blocks)
    return outside + 4 * max(blocks)


def _bytes(parameter: Tensor, devices: int = 1) -> int:
    """Bytes of the largest part of a parameter that is split over its first dimension, as FSDP does."""
    if not parameter.dim():
        return FLOAT32
    return FLOAT32 * math.ceil(parameter.shape[0] / devices) * math.prod(parameter.shape[1:])


@functools.cache
def _network(network: NetworkConfig) -> nn.Module:
    return build_on_meta(network)


def _parameters(network: NetworkConfig) -> list[nn.Parameter]:
    return list(_network(network).parameters())


def _blocks(network: NetworkConfig) -> list[nn.Module]:
    kinds = (MLPBlock, *BLOCKS.values())
    return [module for module in _network(network).modules() if isinstance(module, kinds)]
