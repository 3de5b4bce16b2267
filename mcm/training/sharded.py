"""State in parts: what a process holds of it, and reading it back for any other number of processes.

A file of safetensors is what one process wrote. Which pieces of which files make up what a process holds now, is found
by `torch.distributed.checkpoint`; its own formats are not used, since their index is a pickle. No process asks another
one for anything here.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

# What a state is made of.
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "I64": torch.int64}


def is_part(value: Tensor) -> bool:
    """Whether this is a DTensor: each process has a part of it. (Its class would take most of a second to import.)"""
    return hasattr(value, "to_local")


def local_part(value: Tensor) -> tuple[Tensor, tuple[int, ...] | None]:
    """What this process holds of a tensor, and the place in the whole where it begins; None where it holds all."""
    if not is_part(value):
        return value, None
    (chunk,) = value.__create_chunk_list__()  # type: ignore[attr-defined]
    return value.to_local(), tuple(chunk.offsets)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Part:
    """A file that a process wrote, and where in the whole its tensors begin; those not named are whole."""

    path: Path
    offsets: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Piece:
    """A tensor in a file, and its place in the whole."""

    path: Path
    offset: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype


class Stored(Mapping[str, Tensor]):
    """The tensors of a checkpoint on disk, by name, each read when it is asked for, whole and on the CPU."""

    def __init__(self, parts: Sequence[Part]):
        self._parts = parts

    @cached_property
    def pieces(self) -> dict[str, list[Piece]]:
        """Where the pieces of each tensor lie, from the files' headers."""
        found: dict[str, list[Piece]] = {}
        for part in self._parts:
            with safe_open(part.path, "pt") as opened:
                for name in opened.keys():  # noqa: SIM118 - it is no dictionary
                    piece = opened.get_slice(name)
                    shape = tuple(piece.get_shape())
                    offset = part.offsets.get(name, (0,) * len(shape))
                    found.setdefault(name, []).append(Piece(part.path, offset, shape, _DTYPES[piece.get_dtype()]))
        return found

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of the whole tensor: as far as its pieces reach."""
        ends = [map(sum, zip(piece.offset, piece.shape, strict=True)) for piece in self.pieces[name]]
        return tuple(map(max, zip(*ends, strict=True)))

    def __getitem__(self, name: str) -> Tensor:
        value = torch.empty(self.shape(name), dtype=self.pieces[name][0].dtype)
        for piece in self.pieces[name]:
            ends = zip(piece.offset, piece.shape, strict=True)
            with safe_open(piece.path, "pt") as opened:
                value[tuple(slice(begin, begin + length) for begin, length in ends)] = opened.get_tensor(name)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self.pieces)

    def __len__(self) -> int:
        return len(self.pieces)

    def load(self, into: Mapping[str, Tensor]) -> None:
        """Fill tensors of the names and shapes that are stored, or this process's part of them (DTensor), in place."""
        from mcm.training.pieces import read  # late: most of a second, for runs that go on

        read(self, into)
