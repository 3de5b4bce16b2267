"""Model FLOPs, counted from the network itself on the meta device. A multiplication and an addition are 2 FLOPs.

Counted are matrix products and convolutions, forward and backward, as the dispatcher sees them; elementwise work is
not, and neither is what activation checkpointing computes a second time.
"""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mcm.networks.mlp import MLPConfig
from mcm.networks.presets import NetworkConfig, build


@dataclass(frozen=True)
class Passes:
    """Evaluations of the network for each image of a training step: with graph and backward, and without.

    Diffusion is 1 and 0, CT 1 and 1 (the reference), CD 1 and 2 (the teacher), guided CD 1 and 3. Images whose
    reference pass is skipped (s == t_step) are counted as if it ran: the model's work, whatever a step saves of it.
    """

    trained: int = 1
    plain: int = 0


def image_shape(config: NetworkConfig) -> tuple[int, ...]:
    """Shape of one input of the network: `(C, H, W)`, or `(D,)` of points."""
    if isinstance(config, MLPConfig):
        return (config.dimensions,)
    return (config.image_channels, config.resolution, config.resolution)


def forward_flops(config: NetworkConfig) -> int:
    """FLOPs of one evaluation of one image."""
    return _traced(config)[0]


def step_flops(config: NetworkConfig, passes: Passes) -> int:
    """FLOPs that a training step spends on one image."""
    forward, backward = _traced(config)
    return passes.trained * (forward + backward) + passes.plain * forward


@functools.cache
def _traced(config: NetworkConfig) -> tuple[int, int]:
    """FLOPs of the forward and of the backward pass of one image: shapes are traced, nothing is computed."""
    with torch.device("meta"):
        network = build(config)
        z, logsnr = torch.empty(1, *image_shape(config)), torch.empty(1)
    with FlopCounterMode(display=False) as forward:
        v: Tensor = network(z, logsnr)
    with FlopCounterMode(display=False) as backward:
        v.sum().backward()
    return forward.get_total_flops(), backward.get_total_flops()
