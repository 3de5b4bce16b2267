"""Evaluation by several processes: each makes its share of the batches, and what they make is read in their order.

Batch k falls to process `k mod W`. The leading one reads all of them in turn, so that its figures are those of one
process, to the bit where the devices round alike.
"""

from collections.abc import Iterable, Iterator
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor


class Group(Protocol):
    """The processes that torchrun started (`mcm.training.distributed.Processes`)."""

    @property
    def rank(self) -> int: ...
    @property
    def world_size(self) -> int: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def leads(self) -> bool: ...
    def agree(self, value: int) -> int:
        """The value that the leading process gives."""
        ...


def share(count: int, size: int, group: Group | None = None) -> list[range]:
    """This process's batches of 0 to `count - 1`: every W-th batch of `size`, the last one of all shorter."""
    starts = range(0, count, size)
    mine = starts if group is None else starts[group.rank :: group.world_size]
    return [range(start, min(start + size, count)) for start in mine]


def in_order(parts: Iterable[Tensor], like: Tensor, group: Group | None = None) -> Iterator[Tensor]:
    """What all processes made of their shares, in the order of the batches; every process reads to the end.

    `parts` and `like` are `[any, ...]`, of one dtype, device and shape but for the rows. Of several processes, each
    round of batches is two collective calls.
    """
    if group is None or group.world_size == 1:
        yield from parts
        return
    iterator = iter(parts)
    while True:
        part = next(iterator, like[:0])  # one process may have run out of batches a round before others
        counts = [int(n) for n in _everyones(torch.tensor(len(part), device=like.device), group.world_size)]
        if not any(counts):
            return
        padded = part.new_zeros(max(counts), *part.shape[1:])
        padded[: len(part)] = part
        for count, theirs in zip(counts, _everyones(padded, group.world_size), strict=True):
            if count:
                yield theirs[:count]


def _everyones(value: Tensor, world_size: int) -> list[Tensor]:
    found = [torch.empty_like(value) for _ in range(world_size)]
    dist.all_gather(found, value)
    return found
