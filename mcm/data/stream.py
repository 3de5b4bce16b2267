"""What training reads at iteration i: images and random draws, both functions of (seed, iteration, position) alone.

Position is an image's place in the global batch. Every draw comes from a counter-based generator (Philox) whose key is
the seed and whose counter is (iteration, position), and the order of images from permutations keyed by (seed, epoch).
So neither batch size per process, worker count, resuming nor world size changes any of them.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mcm.data.arrays import ImageSet, to_float
from mcm.errors import UserError
from mcm.methods.interface import Batch, Draws

# Second word of the Philox key: keeps the streams of one seed apart.
DRAWS = 1
ORDER = 2


def generator(seed: int, stream: int, first: int, second: int = 0) -> np.random.Generator:
    """The generator of one cell (first, second) of a stream of `seed`; each cell has 2**128 blocks of its own."""
    key = np.array([seed, stream], dtype=np.uint64)
    counter = np.array([0, 0, second, first], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


class Cells:
    """`generator` for one cell after another of a stream, without making anew what is the same for all of them."""

    def __init__(self, seed: int, stream: int):
        self._generator = generator(seed, stream, 0)
        self._start = self._generator.bit_generator.state

    def at(self, first: int, second: int) -> np.random.Generator:
        """The generator of a cell, valid until the next one is asked for."""
        self._start["state"]["counter"][2:] = second, first
        self._generator.bit_generator.state = self._start
        return self._generator


class TrainingStream(Dataset[tuple[Batch, Draws]]):
    """Map-style: index = iteration, item = this rank's part of the global batch and its draws.

    Rank r of W holds positions [r B/W, (r+1) B/W) of the global batch of B. UserError where W does not divide B, or
    the set has fewer than B images.
    """

    def __init__(
        self, image_set: ImageSet, batch_size: int, seed: int, mirror: bool, rank: int = 0, world_size: int = 1
    ):
        if batch_size < 1 or batch_size % world_size:
            raise UserError(
                f"batch size {batch_size} over {world_size} processes: not a whole number each; "
                f"set batch_size to a multiple of {world_size}"
            )
        if not 0 <= rank < world_size:
            raise UserError(f"rank {rank} of {world_size} processes: out of range; count ranks from 0")
        if not 0 <= seed < 2**63:
            raise UserError(f"seed {seed}: out of range; set it to 0 or more, below 2**63")
        if len(image_set) < batch_size:
            raise UserError(
                f"{image_set.folder}: {len(image_set)} {image_set.split} images, fewer than a batch of {batch_size}; "
                "set a smaller batch_size or add images"
            )
        self.image_set = image_set
        self.batch_size = batch_size
        self.seed = seed
        self.mirror = mirror
        self.positions = range(rank * batch_size // world_size, (rank + 1) * batch_size // world_size)
        self._orders: dict[int, np.ndarray] = {}

    def __getitem__(self, iteration: int) -> tuple[Batch, Draws]:
        """Batch and draws of training iteration `iteration`, counted from 0."""
        images = np.asarray(self.image_set.images)
        indices = np.array([self.index(iteration, position) for position in self.positions])
        pixels = images[indices]
        size = len(indices)
        shape = (self.image_set.channels, self.image_set.resolution, self.image_set.resolution)
        eps = np.empty((size, *shape), dtype=np.float32)
        uniforms = np.empty((size, 3), dtype=np.float64)
        dropout_seeds = np.empty(size, dtype=np.int64)
        cells = Cells(self.seed, DRAWS)
        for row, position in enumerate(self.positions):
            draw = cells.at(iteration, position)
            uniforms[row] = draw.random(3)
            dropout_seeds[row] = draw.integers(2**32)
            coin = draw.random() < 0.5
            draw.standard_normal(dtype=np.float32, out=eps[row])
            if self.mirror and coin:
                pixels[row] = pixels[row, :, ::-1]
        labels: Tensor | None = None
        if self.image_set.num_classes:
            labels = torch.from_numpy(self.image_set.labels[indices])
        segment, time, label = torch.from_numpy(uniforms).unbind(1)
        draws = Draws(
            eps=torch.from_numpy(eps),
            segment=segment.contiguous(),
            time=time.contiguous(),
            label=label.contiguous(),
            dropout_seeds=torch.from_numpy(dropout_seeds),
        )
        return Batch(to_float(pixels), labels), draws

    def index(self, iteration: int, position: int) -> int:
        """Which image stands at `position` of the global batch of `iteration`: one pass over the set an epoch."""
        epoch, place = divmod(iteration * self.batch_size + position, len(self.image_set))
        if epoch not in self._orders:
            # A batch touches at most two epochs, since it is no larger than the set.
            self._orders = {known: order for known, order in self._orders.items() if abs(known - epoch) == 1}
            self._orders[epoch] = generator(self.seed, ORDER, epoch).permutation(len(self.image_set))
        return int(self._orders[epoch][place])


def _as_it_is(item: Any) -> Any:
    return item


def loader(
    stream: TrainingStream, start: int, stop: int, workers: int = 0, pinned: bool = False
) -> Iterator[tuple[Batch, Draws]]:
    """Items of iterations start .. stop - 1 in order, made ahead by `workers` processes (0: in this one).

    Batches of workers travel through shared memory (/dev/shm on Linux), which has to hold 2 of them per worker. For a
    GPU they lie in `pinned` memory, whence they are copied while it computes. The global random state of torch is left
    alone.
    """
    batches: DataLoader[Any] = DataLoader(
        stream,
        batch_size=None,
        sampler=range(start, stop),
        num_workers=workers,
        collate_fn=_as_it_is,
        generator=torch.Generator(),
        pin_memory=pinned,
    )
    return iter(batches)
