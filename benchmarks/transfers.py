"""Transfers to and from a bucket: side by side, as `components.storage` makes them, against one by one.

`python benchmarks/transfers.py gs://bucket/prefix` writes below the prefix, removes it again, and prints the ratio
one by one / side by side of uploads and downloads, each taken in one run. STORAGE_EMULATOR_HOST names another server.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from components import storage
from components.storage import gcs

SETS = {"64 files of 256 KiB": (64, 2**18), "1 file of 96 MiB": (1, 96 * 2**20)}


def seconds(threads: int, work: Callable[..., None], *places: Path | str) -> float:
    gcs.THREADS = threads
    start = time.perf_counter()
    work(*places)
    return time.perf_counter() - start


def main() -> None:
    uri, threads = sys.argv[1], gcs.THREADS
    for name, (count, size) in SETS.items():
        with tempfile.TemporaryDirectory() as scratch:
            folder, back = Path(scratch) / "sent", Path(scratch) / "back"
            folder.mkdir()
            for index in range(count):
                (folder / str(index)).write_bytes(os.urandom(size))
            up = seconds(1, storage.upload, folder, f"{uri}/1") / seconds(threads, storage.upload, folder, f"{uri}/2")
            down = seconds(1, storage.download, f"{uri}/1", back) / seconds(threads, storage.download, f"{uri}/2", back)
            print(f"{name}: one by one / {threads} side by side: up {up:.1f}, down {down:.1f}")
        storage.delete(uri)


if __name__ == "__main__":
    main()
