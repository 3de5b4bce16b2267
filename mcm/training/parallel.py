"""One network on several devices: compiled and replicated as the configuration asks."""

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mcm.training.config import TrainingConfig
from mcm.training.distributed import Processes


def parallelize(student: nn.Module, config: TrainingConfig, processes: Processes) -> nn.Module:
    """The student as the methods call it, sharing `student`'s parameters. Before the optimizer is made."""
    call = student
    if config.compile:
        call = torch.compile(student)  # type: ignore[assignment]
    if processes.world_size > 1:
        ids = [processes.device.index] if processes.device.type == "cuda" else None
        call = DistributedDataParallel(call, device_ids=ids, broadcast_buffers=False)
    return call
