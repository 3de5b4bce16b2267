"""Kinds of devices that training runs on, one row each: what the loop has to know of them."""

from collections.abc import Callable
from dataclasses import dataclass


def _nothing() -> None:
    """Work begins at once, and nobody has to say that a step is over."""


@dataclass(frozen=True)
class DeviceKind:
    """A row of the table."""

    backend: str  # of torch.distributed
    fixed_shapes: bool = False  # each shape, and each number that is part of a step, is compiled anew
    fused_optimizer: bool = True  # Adam as one kernel
    end_step: Callable[[], None] = _nothing


# By type of torch.device.
DEVICES: dict[str, DeviceKind] = {
    "cpu": DeviceKind("gloo"),
    "cuda": DeviceKind("nccl"),
}
