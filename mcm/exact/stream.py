"""Training batches of a mixture: every point is new, and a function of (seed, iteration, place in the batch)."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from mcm.data.stream import generator
from mcm.methods.interface import Batch, Draws
from mcm.mixtures import GaussianMixture

# Streams of a seed, beside those of mcm.data.stream and mcm.samplers.
TRAINING, NOISE, DATA, STEP, VARIANCE = 10, 11, 12, 13, 14


def keyed(seed: int, stream: int, first: int = 0) -> torch.Generator:
    """A generator on the CPU for one cell of a stream of `seed`."""
    return torch.Generator().manual_seed(int(generator(seed, stream, first).integers(2**63)))


@dataclass(frozen=True)
class MixtureStream:
    """The loop's loader: `stream(start, stop)` yields the batches of iterations start..stop-1.

    A phase that begins at iteration `begin` of its student sees no point of the phases before.
    """

    mixture: GaussianMixture
    batch_size: int
    seed: int
    begin: int = 0

    def __call__(self, start: int, stop: int) -> Iterator[tuple[Batch, Draws]]:
        for iteration in range(self.begin + start, self.begin + stop):
            cell = keyed(self.seed, TRAINING, iteration)
            points = self.mixture.sample(self.batch_size, cell).float()
            segment, time, label = torch.rand(3, self.batch_size, generator=cell, dtype=torch.float64).unbind()
            draws = Draws(
                eps=torch.randn(points.shape, generator=cell),
                segment=segment,
                time=time,
                label=label,
                dropout_seeds=torch.randint(2**32, (self.batch_size,), generator=cell),
            )
            yield Batch(points, None), draws
