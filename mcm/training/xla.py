"""Devices that XLA compiles for: TPUs by torch_xla or by torch_tpu, and torch_xla's own CPU.

torch_xla (device type "xla") records what a step does and runs it as one program when the step ends. torch_tpu (device
type "tpu") runs operations one by one, as CUDA does. Both compile a program for each new shape, and torch_tpu also for
each new Python number, so a step must show them neither. docs/tpu.md says how either is installed and started.
"""

import importlib.util
from collections.abc import Mapping

import torch

from mcm.errors import UserError

TORCH, TORCH_XLA, TORCH_TPU = "2.9.0", "2.9.0", "0.2.0"  # versions that belong together: docs/tpu.md
APART = f"torch_xla=={TORCH_XLA} with torch=={TORCH} in an environment of its own (docs/tpu.md)"
INSTALL = f"install torch_tpu=={TORCH_TPU} beside this torch, or {APART}"
KINDS = ("CPU", "TPU")  # values of PJRT_DEVICE that are known here


def asked(environment: Mapping[str, str], world_size: int) -> str:
    """The device type for the `PJRT_DEVICE` that is set."""
    wanted = environment["PJRT_DEVICE"]
    if wanted not in KINDS:
        raise UserError(f"PJRT_DEVICE={wanted}: known are {' and '.join(KINDS)}; set one of them, or unset it")
    if importlib.util.find_spec("torch_xla"):
        if wanted == "CPU" and world_size > 1:
            raise UserError(
                f"PJRT_DEVICE=CPU with {world_size} processes: XLA's CPU has no sums over processes; run one process, "
                "or unset PJRT_DEVICE for torch's own CPU"
            )
        return "xla"
    if wanted == "TPU" and has_torch_tpu():
        return joined_by_torch_tpu(environment, world_size)
    if wanted == "TPU" and importlib.util.find_spec("torch_tpu"):
        raise UserError("PJRT_DEVICE=TPU: torch_tpu finds no TPU here; unset PJRT_DEVICE to use what there is")
    if wanted == "TPU":
        raise UserError(f"PJRT_DEVICE=TPU: neither torch_xla nor torch_tpu can be imported; {INSTALL}")
    raise UserError(f"PJRT_DEVICE={wanted}: torch_xla cannot be imported; install {APART}")


def joined_by_torch_tpu(environment: Mapping[str, str], world_size: int) -> str:
    """The device type where torch_tpu drives the TPU: processes need what it has to be told before they start."""
    missing = [name for name in ("TORCH_TPU_SLICEBUILDER_ADDRESSES", "TORCH_TPU_TOPOLOGY") if not environment.get(name)]
    if world_size > 1 and missing:
        raise UserError(
            f"{world_size} processes on a TPU: {' and '.join(missing)} not set; set what "
            "`python -m torch.tpu.distributed` prints before torchrun (docs/tpu.md)"
        )
    return "tpu"


def check_left_idle(environment: Mapping[str, str]) -> None:
    """UserError where the node says that it has a TPU (GKE does) and nothing here could use it."""
    if name := environment.get("TPU_ACCELERATOR_TYPE"):
        if importlib.util.find_spec("torch_xla"):
            raise UserError(f"TPU {name}: torch_xla is installed and not asked for; set PJRT_DEVICE=TPU")
        raise UserError(f"TPU {name}: neither torch_tpu nor torch_xla can use it; {INSTALL}")


def has_torch_tpu() -> bool:
    """Whether torch_tpu is here and has found a TPU: only then it gives torch the device type "tpu"."""
    accelerator = torch.accelerator.current_accelerator()
    return accelerator is not None and accelerator.type == "tpu"


def device(local_rank: int) -> torch.device:
    """The device of this process. The runtime is started here, before autograd counts the devices."""
    import torch_xla

    found = torch_xla.device()
    torch.zeros((), device=found).cpu()
    return found


def tpu(local_rank: int) -> torch.device:
    """The chip of this process: each process has one, which it calls the first."""
    return torch.device("tpu")


def end_step() -> None:
    """Run what was recorded since the last step, without waiting for it."""
    import torch_xla

    torch_xla.sync()
