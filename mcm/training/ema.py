"""Exponential moving averages of the weights, several decays side by side."""

from collections.abc import Callable

import torch
from torch import Tensor


def ema_name(decay: float) -> str:
    """How the EMA of a decay is called in files, tables and reports: `ema_0.999`."""
    return f"ema_{decay:g}"


class EMAs:
    """One shadow copy of the parameters for each decay, updated by fused multi-tensor operations.

    The decay at update i (counted from 1) is `min(decay, (1 + i) / (10 + i))`, so that short runs are not averages of
    their first weights.
    """

    def __init__(self, parameters: dict[str, Tensor], decays: tuple[float, ...]):
        self.decays = decays
        self.shadows = {ema_name(d): {k: v.detach().clone() for k, v in parameters.items()} for d in decays}

    @torch.no_grad()
    def update(
        self, parameters: dict[str, Tensor], updates: int, number: Callable[[float], float | Tensor] = float
    ) -> None:
        """Move every shadow toward `parameters`; `updates` is the number of optimizer steps done, this one included.

        `number` makes the weight of the new values what the device takes (`Processes.number`).
        """
        weights = [value.detach() for value in parameters.values()]
        for decay in self.decays:
            shadow = list(self.shadows[ema_name(decay)].values())
            weight = number(1.0 - min(decay, (1 + updates) / (10 + updates)))
            torch._foreach_lerp_(shadow, weights, [weight] * len(shadow) if isinstance(weight, Tensor) else weight)
