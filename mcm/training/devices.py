"""Kinds of devices that training runs on, one row each: what the loop has to know of them, and which one is here."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from mcm.training import xla


def _nothing() -> None:
    """Work begins at once, and nobody has to say that a step is over."""


def _cpu(local_rank: int) -> torch.device:
    return torch.device("cpu")


def _cuda(local_rank: int) -> torch.device:
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device


@dataclass(frozen=True)
class DeviceKind:
    """A row of the table."""

    backend: str  # of torch.distributed
    place: Callable[[int], torch.device]  # the device of a process, by its number on this machine; after it has joined
    init_method: str | None = None  # where processes meet; None is what torchrun says in the environment
    fixed_shapes: bool = False  # each shape, and each number that is part of a step, is compiled anew
    fused_optimizer: bool = True  # Adam as one kernel
    compiles: bool = True  # whether torch.compile has anything to add
    shards: bool = True  # whether FSDP2 knows it
    end_step: Callable[[], None] = _nothing


# By type of torch.device. "xla" is torch_xla's, a TPU or its CPU; "tpu" is that of torch_tpu.
DEVICES: dict[str, DeviceKind] = {
    "cpu": DeviceKind("gloo", _cpu),
    "cuda": DeviceKind("nccl", _cuda),
    "xla": DeviceKind(
        "xla",
        xla.device,
        init_method="xla://",
        fixed_shapes=True,
        fused_optimizer=False,
        compiles=False,
        shards=False,
        end_step=xla.end_step,
    ),
    "tpu": DeviceKind("tpu_dist", xla.tpu, fixed_shapes=True, fused_optimizer=False),
}


def chosen(environment: Mapping[str, str] = os.environ, world_size: int = 1) -> str:
    """The type of device of this process: what `PJRT_DEVICE` asks for, else a TPU, else a GPU, else the CPU.

    UserError where a TPU is asked for, or is there by its node's account, and no library can drive it.
    """
    if environment.get("PJRT_DEVICE"):
        return xla.asked(environment, world_size)
    if xla.has_torch_tpu():
        return xla.joined_by_torch_tpu(environment, world_size)
    if torch.cuda.is_available():
        return "cuda"
    xla.check_left_idle(environment)
    return "cpu"
