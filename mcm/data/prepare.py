"""From a source of images to the `dataset/` artifact, once: decode, crop, resize, split, write.

Pictures are decoded by threads (Pillow leaves the interpreter free) and written in the order of the source, a few at a
time, so that memory does not grow with the set. The split is a function of each image's concept or content and the
seed: adding images moves none of the others.
"""

import contextlib
import csv
import dataclasses
import hashlib
import shutil
from array import array
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePath
from typing import Any, BinaryIO, Self, TextIO

import numpy as np

from mcm.artifacts import atomic_folder, usable_cores, write_config, write_json
from mcm.data.arrays import KIND, SPLITS, VERSION
from mcm.data.config import DataConfig
from mcm.data.images import to_pixels
from mcm.data.sources import SOURCES
from mcm.data.sources.record import Licence, Listing, Record
from mcm.errors import UserError

__all__ = ["COLUMNS", "DataConfig", "prepare", "split_of"]

COLUMNS = ("index", "split", "label", "class", "caption", "source", "sha256", "licence")

MANIFEST, WAITING = "manifest.csv", ".holdout.csv"


def _text(path: Path) -> TextIO:
    return path.open("w+", encoding="utf-8", errors="backslashreplace", newline="")


def prepare(config: DataConfig, out_folder: str | Path, workers: int | None = None) -> None:
    """Write the data set that `config` describes to `out_folder`, whole or not at all.

    `workers` threads decode and resize; None is one for each core that this process may use. Their number changes no
    byte, and so is no part of `config`. UserError for a source without images, pictures that cannot be read or are too
    small, and, with `channels: null`, grey and colour pictures in one set.
    """
    workers = usable_cores() if workers is None else workers
    if workers < 1:
        raise UserError(f"data: {workers} workers; use at least 1")
    listing = SOURCES[config.source](config)
    with contextlib.closing(listing):
        records = _thinned(listing.records, config.limit)
        if not records:
            where = f"'{config.path}'" if config.path else config.source
            raise UserError(f"data: no images in {where}; put images there or name another source")
        classes = _classes(listing)
        with atomic_folder(Path(out_folder)) as folder:
            _write(config, folder, _decoded(config, records, workers), classes, listing.distinct)


def split_of(key: str, seed: int, holdout: float) -> str:
    """`holdout` for a share `holdout` of all keys, `train` for the others: by hash, so each key for itself."""
    digest = hashlib.sha256(f"{seed}:{key}".encode("utf-8", "surrogateescape")).digest()
    return "holdout" if int.from_bytes(digest[:8], "big") < holdout * 2**64 else "train"


def _write(
    config: DataConfig,
    folder: Path,
    decoded: Iterator[tuple[Record, np.ndarray]],
    classes: tuple[str, ...],
    distinct: bool,
) -> None:
    licences: dict[Licence, None] = {}
    labels: dict[str, array[int]] = {split: array("q") for split in SPLITS}
    places = {name: place for place, name in enumerate(classes)}
    seen: set[str] = set()
    dropped = {"blank": 0, "repeated": 0}
    channels = 0
    first = ""
    with contextlib.ExitStack() as stack:
        arrays: dict[str, _Growing] = {}
        # Rows of the holdout come last in the manifest, and wait in a file: no row stays in memory.
        names = {"train": MANIFEST, "holdout": WAITING}
        opened = {split: stack.enter_context(_text(folder / name)) for split, name in names.items()}
        manifest = {split: csv.writer(file, lineterminator="\n") for split, file in opened.items()}
        manifest["train"].writerow(COLUMNS)
        for record, pixels in decoded:
            if not arrays:
                channels, first = pixels.shape[2], record.name
                for split in SPLITS:
                    arrays[split] = stack.enter_context(_Growing(folder / f"{split}_images.npy", pixels.shape))
            if pixels.shape[2] != channels:
                raise UserError(_mixed(first, record.name, channels))
            sha256 = hashlib.sha256(pixels.tobytes()).hexdigest()
            if distinct:
                blank = bool((pixels == pixels[0, 0]).all())
                dropped["blank"] += blank
                dropped["repeated"] += not blank and sha256 in seen
                if blank or sha256 in seen:
                    continue
                seen.add(sha256)
            split = split_of(record.concept or sha256, config.seed, config.holdout)
            arrays[split].append(pixels)
            licences.setdefault(record.licence)
            label = places[record.label] if classes and record.label is not None else 0
            values = (len(labels[split]), split, label, classes[label] if classes else "", record.caption or "",
                      record.name, sha256, record.licence.licence)  # fmt: skip
            manifest[split].writerow(values)
            labels[split].append(label)
        opened["holdout"].seek(0)
        shutil.copyfileobj(opened["holdout"], opened["train"])
    (folder / WAITING).unlink()
    if not labels["train"]:
        raise UserError("data: every image fell to the holdout; add images or lower data.holdout")
    for split in SPLITS:
        np.save(folder / f"{split}_labels.npy", np.array(labels[split], dtype=np.int64))
    write_json(folder / "licences.json", [dataclasses.asdict(licence) for licence in licences])
    per_class = Counter(labels["train"])
    values_of = config.resolved() | {
        # Where the images lay is no part of what they are.
        "path": PurePath(config.path).name if config.path else None,
        "num_classes": len(classes),
        "classes": list(classes),
        "channels": channels,
        "counts": {split: len(labels[split]) for split in SPLITS},
        "train_per_class": {name: per_class[place] for name, place in places.items()},
        "dropped": dropped,
    }
    write_config(folder, KIND, VERSION, values_of)


def _decoded(config: DataConfig, records: list[Record], workers: int) -> Iterator[tuple[Record, np.ndarray]]:
    """Records with their pixels, in order; read here, decoded and resized by threads a little ahead."""

    def work(record: Record, raw: Any) -> np.ndarray:
        return to_pixels(record.decode(raw, record.name), config.resolution, config.channels, record.name)

    ahead: deque[tuple[Record, Future[np.ndarray]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for record in records:
                ahead.append((record, pool.submit(work, record, record.read())))
                if len(ahead) > 4 * workers:
                    done, future = ahead.popleft()
                    yield done, future.result()
            while ahead:
                done, future = ahead.popleft()
                yield done, future.result()
        finally:
            pool.shutdown(cancel_futures=True)


class _Growing:
    """A `.npy` of uint8 whose number of rows is known at the end: numpy leaves room for it in the header."""

    def __init__(self, path: Path, row: tuple[int, ...]):
        self._path, self._row, self._count = path, row, 0

    def __enter__(self) -> Self:
        self._file: BinaryIO = self._path.open("wb")
        self._start = self._header()
        return self

    def append(self, pixels: np.ndarray) -> None:
        """Add one row."""
        self._file.write(np.ascontiguousarray(pixels).tobytes())
        self._count += 1

    def __exit__(self, *_: object) -> None:
        with self._file:
            self._file.seek(0)
            if self._header() != self._start:
                raise RuntimeError(f"{self._path}: the header grew over the first image")

    def _header(self) -> int:
        described = {"descr": "|u1", "fortran_order": False, "shape": (self._count, *self._row)}
        np.lib.format.write_array_header_1_0(self._file, described)
        return self._file.tell()


def _thinned(records: list[Record], limit: int | None) -> list[Record]:
    """At most `limit` records, evenly spread."""
    if limit is None or limit >= len(records):
        return records
    return [records[k * len(records) // limit] for k in range(limit)]


def _classes(listing: Listing) -> tuple[str, ...]:
    """Names of the classes in the order of their labels; none where there are fewer than two."""
    found = {record.label for record in listing.records if record.label is not None}
    if len(found) < 2:
        return ()
    return listing.classes or tuple(sorted(found))


def _mixed(first: str, other: str, channels: int) -> str:
    grey, colour = (first, other) if channels == 1 else (other, first)
    return (
        f"data: '{grey}' is grey and '{colour}' has colour; set data.channels to 3 (all to RGB) or 1 (all to grey), "
        "or make them alike"
    )
