"""The state of a run as named tensors, to a checkpoint and back: weights, EMAs, the optimizer's moments."""

import torch
from torch import Tensor

from mcm.training.ema import EMAs
from mcm.training.sharded import Stored


def state_tensors(parameters: dict[str, Tensor], emas: EMAs, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """All state as one flat dictionary: `weights/...`, `ema_0.999/...`, `adam.exp_avg/...`. The tensors are shared.

    Where processes share the weights by parts, so they do with all of it but the number of steps.
    """
    tensors = {f"weights/{name}": value.detach() for name, value in parameters.items()}
    for ema, shadow in emas.shadows.items():
        tensors |= {f"{ema}/{name}": value for name, value in shadow.items()}
    for name, value in parameters.items():
        tensors |= {f"adam.{key}/{name}": moment for key, moment in optimizer.state[value].items()}
    return tensors


@torch.no_grad()
def restore(stored: Stored, parameters: dict[str, Tensor], emas: EMAs, optimizer: torch.optim.Optimizer) -> None:
    """The inverse of `state_tensors`, in place: each process reads what it holds, however it was held before."""
    targets = {f"weights/{name}": value.detach() for name, value in parameters.items()}
    for ema, shadow in emas.shadows.items():
        targets |= {f"{ema}/{name}": value for name, value in shadow.items()}
    # Adam's own choice: a fused or capturable update reads the number of steps where the weights are.
    there = optimizer.defaults.get("fused") or optimizer.defaults.get("capturable")
    steps_on = next(iter(parameters.values())).device if there else torch.device("cpu")
    for key in stored:
        if key.startswith("adam."):
            moment, name = key.removeprefix("adam.").split("/", 1)
            # Laid out as the parameter is, so that the update reads memory in the same order and rounds alike.
            value = torch.zeros((), device=steps_on) if moment == "step" else torch.empty_like(parameters[name])
            optimizer.state[parameters[name]][moment] = targets[key] = value
    stored.load(targets)
