"""The state of a run as named tensors, to a checkpoint and back: weights, EMAs, the optimizer's moments."""

import torch
from torch import Tensor

from mcm.training.ema import EMAs


def state_tensors(parameters: dict[str, Tensor], emas: EMAs, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """All state as one flat dictionary: `weights/...`, `ema_0.999/...`, `adam.exp_avg/...`. The tensors are shared."""
    tensors = {f"weights/{name}": value.detach() for name, value in parameters.items()}
    for ema, shadow in emas.shadows.items():
        tensors |= {f"{ema}/{name}": value for name, value in shadow.items()}
    for name, value in parameters.items():
        tensors |= {f"adam.{key}/{name}": moment for key, moment in optimizer.state[value].items()}
    return tensors


@torch.no_grad()
def restore(
    tensors: dict[str, Tensor], parameters: dict[str, Tensor], emas: EMAs, optimizer: torch.optim.Optimizer
) -> None:
    """The inverse of `state_tensors`, in place."""
    for name, value in parameters.items():
        value.copy_(tensors[f"weights/{name}"])
        for ema, shadow in emas.shadows.items():
            shadow[name].copy_(tensors[f"{ema}/{name}"])
    moments = [key for key in tensors if key.startswith("adam.")]
    for key in moments:
        moment, name = key.removeprefix("adam.").split("/", 1)
        # Laid out as the parameter is, so that the update reads memory in the same order and rounds alike.
        value = torch.empty_like(parameters[name]).copy_(tensors[key]) if moment != "step" else tensors[key]
        if moment == "step" and optimizer.defaults["fused"]:  # else it is read on the host
            value = value.to(parameters[name].device)
        optimizer.state[parameters[name]][moment] = value
