"""Fashion-MNIST: 70,000 grey 28 x 28 pictures of clothes in 10 classes (Xiao, Rasul, Vollgraf 2017), MIT.

Its idx files are taken from `data.path`, else from Debian's package `dataset-fashion-mnist`, else fetched by
torchvision. The published training and test parts are pooled; the split is this project's.
"""

import functools
import gzip
from pathlib import Path
from typing import Any

import numpy as np

from mcm.artifacts import cache_folder
from mcm.data.config import DataConfig
from mcm.data.images import Picture
from mcm.data.sources.layout import class_of
from mcm.data.sources.record import Licence, Listing, Record
from mcm.data.sources.torchvision import build
from mcm.errors import UserError

LICENCE = Licence("fashion-mnist", "2017", "MIT", "Fashion-MNIST, copyright 2017 Zalando SE")
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
PARTS = ("train", "t10k")


def listing(config: DataConfig) -> Listing:
    """All pictures, the published training part first."""
    root = _root(config)
    records = []
    for part in PARTS:
        images = read_idx(_file(root, f"{part}-images-idx3-ubyte"), dimensions=3)
        labels = read_idx(_file(root, f"{part}-labels-idx1-ubyte"), dimensions=1)
        if len(images) != len(labels) or (len(labels) and labels.max() >= len(CLASSES)):
            raise UserError(f"{root}: {part} has {len(images)} images and {len(labels)} labels; fetch the files again")
        for index, label in enumerate(labels):
            records.append(
                Record(
                    name=f"fashion-mnist/{part}/{index}",
                    read=functools.partial(images.__getitem__, index),
                    licence=LICENCE,
                    label=class_of(CLASSES[label], config),
                    caption=CLASSES[label].lower(),
                    decode=_decoded,
                )
            )
    return Listing(records, classes=CLASSES)


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """An idx file of uint8 (gzipped or not): four bytes of magic, big-endian sizes, then the values."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise UserError(f"{path}: unreadable ({error}); fetch it again") from None
    head = 4 + 4 * dimensions
    shape = tuple(int(size) for size in np.frombuffer(data[4:head], dtype=">u4"))
    if data[:4] != bytes([0, 0, 8, dimensions]) or len(data) != head + int(np.prod(shape)):
        raise UserError(f"{path}: not a whole idx file of {dimensions}-dimensional bytes; fetch it again")
    return np.frombuffer(data, dtype=np.uint8, offset=head).reshape(shape)


def _root(config: DataConfig) -> Path:
    """The folder of the idx files."""
    if config.path is not None:
        return Path(config.path)
    if DEBIAN.is_dir():
        return DEBIAN
    from mcm.vision import torchvision

    cache = cache_folder() / "torchvision"
    build(torchvision.datasets.FashionMNIST, cache, "FashionMNIST")
    return cache / "FashionMNIST" / "raw"


def _file(root: Path, name: str) -> Path:
    for path in (root / f"{name}.gz", root / name):
        if path.is_file():
            return path
    raise UserError(f"{root}: no {name} here; install dataset-fashion-mnist (Debian), or leave data.path out")


def _decoded(raw: Any, name: str) -> Picture:
    return raw
