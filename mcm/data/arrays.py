"""The memory-mapped set of images that `prepare` writes, and the way from its bytes to the network's range and back.

Nothing is decoded here: a split is one `.npy` of uint8 pixels and one of labels, opened without copying.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from mcm.artifacts import read_config
from mcm.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

KIND = "dataset"
VERSION = 1
SPLITS = ("train", "holdout")


@dataclass(frozen=True, eq=False)
class ImageSet:
    """One split of a `dataset/` folder. `labels` are all 0 and `num_classes` is 0 where the set has no classes."""

    folder: Path
    split: str
    images: np.ndarray  # memory-mapped uint8 [N, H, W, C]
    labels: np.ndarray  # int64 [N]
    classes: tuple[str, ...]
    resolution: int
    channels: int

    @classmethod
    def open(cls, folder: str | Path, split: str = "train") -> Self:
        """Open a split (`train` or `holdout`) of the data set in `folder`; UserError where it is not whole."""
        folder = Path(folder)
        if split not in SPLITS:
            raise UserError(f"{folder}: no split '{split}'; name one of {', '.join(SPLITS)}")
        config = read_config(folder, KIND, VERSION)
        try:
            classes = tuple(str(name) for name in config["classes"])
            resolution, channels = int(config["resolution"]), int(config["channels"])
            count = int(config["counts"][split])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{folder}/config.json: {error!r} in a data set's config; prepare the data again") from None
        images = _load(folder / f"{split}_images.npy", np.uint8, (count, resolution, resolution, channels), mapped=True)
        labels = _load(folder / f"{split}_labels.npy", np.int64, (count,), mapped=False)
        if count and not 0 <= int(labels.min()) <= int(labels.max()) < max(1, len(classes)):
            raise UserError(
                f"{folder}/{split}_labels.npy: labels {labels.min()} to {labels.max()}, and the set has "
                f"{len(classes)} classes; prepare the data again"
            )
        return cls(folder, split, images, labels, classes, resolution, channels)

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 for a set without."""
        return len(self.classes)

    def __len__(self) -> int:
        return len(self.images)

    def __reduce__(self) -> tuple[Any, ...]:
        # A pickled memory map would carry its pixels: another process opens the files itself.
        return ImageSet.open, (self.folder, self.split)


def _load(path: Path, dtype: Any, shape: tuple[int, ...], mapped: bool) -> np.ndarray:
    """A `.npy` of exactly this type and shape."""
    try:
        array = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{path}: missing; prepare the data again") from None
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"{path}: not a whole array ({error}); prepare the data again") from None
    if array.dtype != dtype or array.shape != shape:
        raise UserError(
            f"{path}: {array.dtype} of shape {array.shape}, and config.json says {np.dtype(dtype)} of shape {shape}; "
            "prepare the data again"
        )
    return array


def to_float(images: np.ndarray | Tensor) -> Tensor:
    """uint8 pixels `[B, H, W, C]` as float32 `[B, C, H, W]` in [-1, 1], where 0 is -1 and 255 is 1."""
    import torch

    pixels = torch.from_numpy(np.array(images)) if isinstance(images, np.ndarray) else images
    return pixels.permute(0, 3, 1, 2).contiguous().float().div_(127.5).sub_(1.0)


def quantized(images: Tensor) -> Tensor:
    """Images `[B, C, H, W]` in [-1, 1], clipped and rounded to uint8 `[B, H, W, C]`, on the device where they are."""
    import torch

    pixels = images.detach().float().add(1.0).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).contiguous()


def to_uint8(images: Tensor) -> np.ndarray:
    """The same as an array in this process: the inverse of `to_float`."""
    return quantized(images).cpu().numpy()
