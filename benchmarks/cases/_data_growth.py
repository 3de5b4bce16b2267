"""Preparing, loading and evaluating sets of many sizes: time, and memory that must not grow with the set."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.harness import Timings, in_turn
from benchmarks.memory import Growth, status
from mcm.data.arrays import KIND, VERSION, ImageSet
from mcm.data.config import DataConfig
from mcm.data.prepare import prepare
from mcm.data.stream import TrainingStream, loader
from mcm.evaluation import evaluate as evaluation
from mcm.evaluation.extractors import EXTRACTORS, Extractor, ExtractorSpec, Network

SIDE, BATCH, FEATURES = 16, 64, 64
BATCH_BYTES, FEATURE_BYTES = BATCH * SIDE * SIDE * 3 * 4, FEATURES * 4  # float32, of a batch and of an image
REFERENCE = 1000  # images that evaluated samples are compared with
PLAIN = "plain pixels"


def write_pictures(folder: Path, counts: list[int]) -> None:
    """Folders of PNGs of noise, one for each count: `<folder>/<count>/`. They share their files."""
    draw = np.random.default_rng(0)
    most = folder / str(max(counts))
    most.mkdir(parents=True)
    for number in range(max(counts)):
        Image.fromarray(draw.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(most / f"{number:06d}.png")
    for count in set(counts) - {max(counts)}:
        (folder / str(count)).mkdir()
        for picture in sorted(most.iterdir())[:count]:
            (folder / str(count) / picture.name).hardlink_to(picture)


def _prepare(folder: Path, count: int, out: Path) -> None:
    prepare(DataConfig(source="folder", path=str(folder / str(count)), resolution=SIDE), out / str(count))


def prepare_times(folder: Path, counts: list[int], rounds: int) -> Timings:
    """Seconds to prepare the folders that `write_pictures` made."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as out:
        functions = {str(count): lambda count=count: _prepare(folder, count, Path(out)) for count in counts}
        return in_turn(functions, rounds, warmup=0)


def prepare_memory(folder: Path, count: int, first: int) -> int:
    """Bytes by which preparing `count` pictures grows, once `first` of them have loaded what Pillow loads."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as out:
        _prepare(folder, first, Path(out))
        with Growth() as growth:
            _prepare(folder, count, Path(out))
    return growth.bytes


def make_set(folder: Path, count: int) -> Path:
    """A data set of `count` black images without labels: its bytes are those of a hole in a file."""
    out = folder / str(count)
    out.mkdir(parents=True)
    for split, images in (("train", count), ("holdout", 0)):
        shape = (images, SIDE, SIDE, 3)
        with (out / f"{split}_images.npy").open("wb") as opened:
            np.lib.format.write_array_header_1_0(opened, {"descr": "|u1", "fortran_order": False, "shape": shape})
            opened.truncate(opened.tell() + int(np.prod(shape)))
        np.save(out / f"{split}_labels.npy", np.zeros(images, dtype=np.int64))
    counts = {"train": count, "holdout": 0}
    about = {"kind": KIND, "version": VERSION, "classes": [], "resolution": SIDE, "channels": 3, "counts": counts}
    (out / "config.json").write_text(json.dumps(about))
    return out


def _batches(folder: Path, count: int, batches: int) -> None:
    """Load batches from all epochs of a set, so that each has a new order of its images now and then."""
    stream = TrainingStream(ImageSet.open(folder / str(count)), BATCH, 0, mirror=True)
    for _ in loader(stream, 0, batches):
        pass


def loading_times(folder: Path, counts: list[int], batches: int, rounds: int) -> Timings:
    """Seconds to open a set of `make_set` and load this many batches."""
    functions = {str(count): lambda count=count: _batches(folder, count, batches) for count in counts}
    return in_turn(functions, rounds)


def loading_memory(folder: Path, count: int, batches: int) -> int:
    """Bytes of its own that a process holds more after loading; pages of the set's file are the system's to reclaim."""
    _batches(folder, count, 4)
    before = status("RssAnon")
    stream = TrainingStream(ImageSet.open(folder / str(count)), BATCH, 0, mirror=True)
    for _ in loader(stream, 0, batches):
        pass
    return status("RssAnon") - before


def _plain(device: torch.device) -> Network:
    """Features for which a processor has next to nothing to do: some of the pixels."""

    def features(images: Tensor) -> Tensor:
        return images.reshape(len(images), -1)[:, :FEATURES].float()

    return features


def _noise(count: int) -> Iterator[np.ndarray]:
    draw = np.random.default_rng(0)
    for start in range(0, count, BATCH):
        yield draw.integers(0, 256, (min(BATCH, count - start), SIDE, SIDE, 3), dtype=np.uint8)


def _extractor() -> Extractor:
    EXTRACTORS[PLAIN] = ExtractorSpec(PLAIN, FEATURES, _plain)
    return Extractor(PLAIN)


def evaluation_memory(count: int) -> int:
    """Bytes by which the figures of `count` samples grow a process, against a reference of fixed size."""
    extractor = _extractor()
    features = torch.cat([extractor(images) for images in _noise(REFERENCE)]).numpy()
    against = evaluation.make_reference(features, "", "train")
    evaluation.evaluate(_noise(BATCH), against, extractor, {})
    with Growth() as growth:
        evaluation.evaluate(_noise(count), against, extractor, {})
    return growth.bytes


def features_memory(folder: Path, count: int) -> int:
    """Bytes of its own that a process grows by while it computes the features of a set of `make_set` and keeps them."""
    extractor = _extractor()
    images = ImageSet.open(folder / str(count)).images
    before = status("RssAnon")
    with tempfile.TemporaryDirectory(prefix="benchmark-") as cache:
        features = evaluation.split_features(images, extractor, "md5", "train", Path(cache))
        held = status("RssAnon") - before
        del features
    return held
