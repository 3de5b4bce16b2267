"""Attention forward and backward on this CPU: `mcm.networks.uvit.attention` against the fused kernel.

`python benchmarks/attention.py` prints the ratio fused / ours, both taken in turn in one run. Ours is plain products up
to EXPLICIT_ATTENTION_LIMIT and the fused kernel beyond, where the ratio is 1 within noise.
"""

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mcm.networks.uvit import attention

SHAPES = [(16, 2, 64, 64), (16, 4, 256, 64), (4, 8, 1024, 64)]  # batch, heads, N, channels of a head
ROUNDS = 15


def seconds(function: Callable[[Tensor, Tensor, Tensor], Tensor], inputs: list[Tensor]) -> float:
    start = time.perf_counter()
    function(*inputs).float().sum().backward()
    return time.perf_counter() - start


def main() -> None:
    for shape in SHAPES:
        inputs = [torch.randn(shape, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
        ratios = []
        for _ in range(ROUNDS):
            ours = seconds(attention, inputs)
            ratios.append(seconds(F.scaled_dot_product_attention, inputs) / ours)
        low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
        print(f"{shape}: fused / ours {middle:.2f} (min {low:.2f}, max {high:.2f})")


if __name__ == "__main__":
    main()
