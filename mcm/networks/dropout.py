"""Dropout whose mask is a function of a seed per image, not of a global random state.

Algorithm 1 evaluates the student twice, at s and at t, with the *same* dropout mask (synchronized dropout); and all
draws of a training step are keyed by (seed, iteration, image). Hashing (image seed, layer, element) gives both: the
same seeds give the same mask, on any device, in any batch, on any number of processes.
"""

import torch
from torch import Tensor, nn

# Multipliers and shifts of the "lowbias32" integer finalizer (Wellons 2018), a 32-bit avalanche hash.
_MULTIPLIERS = (0x7FEB352D, 0x846CA68B)
_MASK32 = 0xFFFFFFFF


def _hash32(x: Tensor) -> Tensor:
    """Avalanche hash of int64 tensors that hold 32-bit unsigned values."""
    x = x ^ (x >> 16)
    x = (x * _MULTIPLIERS[0]) & _MASK32
    x = x ^ (x >> 15)
    x = (x * _MULTIPLIERS[1]) & _MASK32
    return x ^ (x >> 16)


def keep_mask(seeds: Tensor, layer: int, rate: float, shape: tuple[int, ...]) -> Tensor:
    """Boolean mask `[B, *shape]`, True with probability 1 - rate; a pure function of (seed, layer, element).

    `seeds` is int64 `[B]`, of which the low 32 bits count.
    """
    count = 1
    for size in shape:
        count *= size
    elements = torch.arange(count, device=seeds.device)
    per_image = _hash32((seeds & _MASK32) ^ (layer * 0x9E3779B9 & _MASK32))
    bits = _hash32(_hash32(elements)[None, :] ^ per_image[:, None])
    return (bits >= int(rate * 2**32)).view(len(seeds), *shape)


class Dropout(nn.Module):
    """Inverted dropout with the mask of `keep_mask`; the identity where no seeds are given or the rate is 0."""

    def __init__(self, rate: float, layer: int):
        super().__init__()
        self.rate = rate
        self.layer = layer

    def forward(self, x: Tensor, seeds: Tensor | None) -> Tensor:
        """x `[B, ...]`, seeds int64 `[B]` or None (evaluation)."""
        if seeds is None or self.rate == 0.0:
            return x
        keep = keep_mask(seeds, self.layer, self.rate, tuple(x.shape[1:]))
        return x * keep * (1.0 / (1.0 - self.rate))

    def extra_repr(self) -> str:
        return f"rate={self.rate}, layer={self.layer}"
