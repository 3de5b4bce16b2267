"""Where the files of a lineage store lie: `<place>/<run>/<name>.json`, in a folder or a bucket.

A log of all runs reads every file once, so a folder is read by plain system calls; a bucket through components.storage.
"""

import errno
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from components.storage import is_remote
from components.storage.store import open_store
from mcm.errors import UserError

RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")  # as in Run.id of a record
ASKED = "run.json"  # what a pipeline run was asked for; every other *.json is a record
SUFFIX = ".json"
BLOCK = 1 << 16  # bytes: most records come with one read
THREADS = 16  # reads from a bucket at a time: they wait for the network

Files = dict[str, bytes | OSError]  # of one run: bytes of each file, or why it cannot be read


class Place(Protocol):
    """The files of a store. Errors about the whole of it are UserErrors."""

    key: str  # tells this place from others
    ticks: bool  # whether stamps are times, which a clock may give twice

    def stamps(self) -> dict[str, int]:
        """Every run, with a number that changes when files of it come or go."""
        ...

    def names(self, run: str) -> list[str]:
        """The *.json files of a run, sorted; none where there is no such run."""
        ...

    def files(self, runs: Sequence[str]) -> Iterator[tuple[str, Files]]:
        """What the records of each of `runs` hold. Files that are gone by now are left out."""
        ...

    def read(self, run: str, name: str) -> bytes | None:
        """One file; None where there is none, OSError where it cannot be read."""
        ...

    def strays(self) -> list[str]:
        """*.json files that lie in no run's folder, after `stamps`."""
        ...


def open_place(place: str | Path) -> Place:
    """A store's place. Nothing is read yet."""
    return Bucket(str(place).rstrip("/")) if is_remote(place) else Folder(Path(place))


def is_run(name: str) -> bool:
    """Whether a name can be a run's. Those that begin with a dot are temporary."""
    return RUN.fullmatch(name) is not None


def missing(place: object) -> UserError:
    return UserError(f"{place}: no lineage store here; name the folder `lineage` of an output root")


class Folder:
    """A mounted folder. A run's number is its folder's modification time in nanoseconds."""

    ticks = True

    def __init__(self, root: Path):
        self.root = str(root)
        self.key = str(root.resolve())
        self._strays: list[str] = []

    def stamps(self) -> dict[str, int]:
        found = {}
        self._strays = []
        try:
            with os.scandir(self.root) as entries:
                for entry in entries:
                    if not is_run(entry.name):
                        continue
                    if entry.is_dir():
                        found[entry.name] = entry.stat().st_mtime_ns
                    elif entry.name.endswith(SUFFIX):
                        self._strays.append(entry.name)
        except OSError as error:
            raise self._explained(error) from None
        return found

    def names(self, run: str) -> list[str]:
        try:
            with os.scandir(f"{self.root}/{run}") as entries:
                return sorted(e.name for e in entries if e.name.endswith(SUFFIX) and not e.name.startswith("."))
        except FileNotFoundError:
            return []

    def files(self, runs: Sequence[str]) -> Iterator[tuple[str, Files]]:
        for run in runs:
            files: Files = {}
            try:
                names = self.names(run)
            except OSError as error:
                yield run, {"": error}
                continue
            for name in names:
                if name != ASKED:
                    try:
                        data = self.read(run, name)
                    except OSError as error:
                        files[name] = error
                    else:
                        if data is not None:
                            files[name] = data
            yield run, files

    def read(self, run: str, name: str) -> bytes | None:
        try:
            # O_NONBLOCK: a pipe of that name would otherwise be waited for. Of a file it changes nothing.
            handle = os.open(f"{self.root}/{run}/{name}", os.O_RDONLY | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        try:
            data = os.read(handle, BLOCK)
            if len(data) == BLOCK:
                parts = [data]
                while part := os.read(handle, BLOCK):
                    parts.append(part)
                data = b"".join(parts)
            return data
        finally:
            os.close(handle)

    def strays(self) -> list[str]:
        return self._strays

    def _explained(self, error: OSError) -> UserError:
        if error.errno == errno.ENOENT:
            return missing(self.root)
        if error.errno == errno.ENOTDIR:
            return UserError(f"{self.root}: a file, and a lineage store is a folder; name its folder")
        return UserError(f"{self.root}: not readable ({error.strerror}); look at its permissions")


class Bucket:
    """A prefix in a bucket. A run's number is a hash of its files' names, which one listing gives."""

    ticks = False

    def __init__(self, uri: str):
        self._uri, self._store = uri, open_store(uri)
        self.key = uri
        self._names: dict[str, list[str]] = {}
        self._strays: list[str] = []

    def stamps(self) -> dict[str, int]:
        entries = self._store.entries()
        if not entries:
            raise missing(self._uri)
        self._names, self._strays = {}, []
        for entry in entries:
            run, _, name = entry.name.rpartition("/")
            if name.startswith(".") or not name.endswith(SUFFIX):
                continue
            if is_run(run):
                self._names.setdefault(run, []).append(name)
            elif not run:
                self._strays.append(name)
        return {run: _hash("/".join(names)) for run, names in self._names.items()}

    def names(self, run: str) -> list[str]:
        listed = [entry.name.removeprefix(f"{run}/") for entry in self._store.entries(run)]
        return [n for n in listed if n.endswith(SUFFIX) and "/" not in n and not n.startswith(".")]

    def files(self, runs: Sequence[str]) -> Iterator[tuple[str, Files]]:
        listed = {run: self._names.get(run) or self.names(run) for run in runs}
        wanted = [(run, name) for run, names in listed.items() for name in names if name != ASKED]
        with ThreadPoolExecutor(THREADS) as pool:
            found: dict[str, Files] = {run: {} for run in runs}
            for (run, name), data in zip(wanted, pool.map(lambda file: self.read(*file), wanted), strict=True):
                if data is not None:
                    found[run][name] = data
        yield from found.items()

    def read(self, run: str, name: str) -> bytes | None:
        return self._store.read(f"{run}/{name}")

    def strays(self) -> list[str]:
        return self._strays


def _hash(text: str) -> int:
    """A number of 63 bits, which SQLite can hold, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
