"""Dropout whose mask is a function of a seed per image, not of a global random state.

Algorithm 1 evaluates the student twice, at s and at t, with the *same* dropout mask (synchronized dropout); and all
draws of a training step are keyed by (seed, iteration, image). Hashing (image seed, layer, element) gives both: the
same seeds give the same mask, on any device, in any batch, on any number of processes.
"""

import math

import torch
from torch import Tensor, nn

# Multipliers of "lowbias32", an avalanche hash of 32 bits (Wellons 2018); the second as int32 holds it.
_MULTIPLIERS = (0x7FEB352D, 0x846CA68B - 2**32)
_GOLDEN = 0x9E3779B9


def _int32(value: int) -> int:
    """The int32 that has the low 32 bits of `value`."""
    return (value + 2**31) % 2**32 - 2**31


def _shift(x: Tensor, bits: int) -> Tensor:
    """Unsigned shift to the right of int32: the sign that came in from the left is masked away."""
    if x.device.type == "xla":  # torch_xla divides, and so rounds what is negative up
        return ((x & 2**31 - 1) >> bits) + (x < 0).int() * 2 ** (31 - bits)
    return (x >> bits).bitwise_and_(2 ** (32 - bits) - 1)


def _hash32(x: Tensor) -> Tensor:
    """Avalanche hash of int32 tensors, whose products wrap; half the memory and twice the speed of int64."""
    x = x ^ _shift(x, 16)
    x = x * _MULTIPLIERS[0]
    x ^= _shift(x, 15)
    x *= _MULTIPLIERS[1]
    x ^= _shift(x, 16)
    return x


def keep_mask(seeds: Tensor, layer: int, rate: float, shape: tuple[int, ...]) -> Tensor:
    """Boolean mask `[B, *shape]`, True with probability 1 - rate; a pure function of (seed, layer, element).

    `seeds` is int64 `[B]`, of which the low 32 bits count.
    """
    elements = torch.arange(math.prod(shape), dtype=torch.int32, device=seeds.device)
    per_image = _hash32(seeds.to(torch.int32) ^ _int32(layer * _GOLDEN))
    bits = _hash32(_hash32(elements)[None, :] ^ per_image[:, None])
    # Of the bits, read as unsigned, those below rate 2^32 drop; both sides moved by 2^31 to compare as signed.
    return ((bits ^ -(2**31)) >= int(rate * 2**32) - 2**31).view(len(seeds), *shape)


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
