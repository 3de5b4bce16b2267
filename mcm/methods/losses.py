"""Distances between x-predictions, weighted as the v-loss (Alg. 1, last line; Kingma & Gao 2023 for SNR + 1)."""

from collections.abc import Callable

import torch
from torch import Tensor

from mcm.schedules import NoiseLevel
from mcm.steps import norm_sq, per_image

Distance = Callable[[Tensor, NoiseLevel, float], Tensor]


def v_difference(x_diff: Tensor, t: NoiseLevel) -> Tensor:
    """`sqrt(SNR(t) + 1) x_diff`, which is `x_diff / sigma_t`: a difference of x read in v-space. t > 0."""
    return x_diff / per_image(t.sigma, x_diff)


def pseudo_huber(x_diff: Tensor, t: NoiseLevel, huber_epsilon: float) -> Tensor:
    """`sqrt(||u||^2 + c^2) - c` with u in v-space (Song & Dhariwal 2023), `[B]`."""
    return (norm_sq(v_difference(x_diff, t)) + huber_epsilon**2).sqrt() - huber_epsilon


def squared(x_diff: Tensor, t: NoiseLevel, huber_epsilon: float) -> Tensor:
    """`||u||^2 / d` with u in v-space: the diffusion v-loss, `[B]`."""
    return norm_sq(v_difference(x_diff, t)) / x_diff[0].numel()


def weighted_norm(x_diff: Tensor, t: NoiseLevel, huber_epsilon: float) -> Tensor:
    """`(SNR(t) + 1) sqrt(||x_diff||^2 + c^2)`: the literal reading of Alg. 1's last line, `[B]`."""
    weight = (1 / t.sigma.square()).to(x_diff)
    return weight * (norm_sq(x_diff) + huber_epsilon**2).sqrt()


DISTANCES: dict[str, Distance] = {
    "pseudo_huber": pseudo_huber,
    "squared": squared,
    "weighted_norm": weighted_norm,
}


def multiscale(v_diff: Tensor, levels: int) -> Tensor:
    """Mean square of a v-difference at full resolution and after each of `levels` 2x2 average pools, `[B]`.

    The multiscale loss of simple diffusion (Hoogeboom et al. 2023, section 3.2) weights each resolution alike.
    """
    total = norm_sq(v_diff) / v_diff[0].numel()
    for _ in range(levels):
        v_diff = torch.nn.functional.avg_pool2d(v_diff, 2)
        total = total + norm_sq(v_diff) / v_diff[0].numel()
    return total / (levels + 1)
