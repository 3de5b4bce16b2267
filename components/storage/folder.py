"""A mounted folder as a store: every file appears whole, by rename."""

import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from components.storage.checksum import crc32c
from components.storage.store import Entry
from mcm.artifacts import atomic_file


class FolderStore:
    """Objects are files below `root`; see `Store`."""

    def __init__(self, root: Path):
        self.root = root

    def uri(self, name: str = "") -> str:
        return str(self._path(name))

    def entries(self, below: str = "") -> list[Entry]:
        files = [path for path in self._path(below).rglob("*") if path.is_file()]
        return sorted(
            (Entry(path.relative_to(self.root).as_posix(), path.stat().st_size) for path in files),
            key=lambda entry: entry.name,
        )

    def find(self, names: Iterable[str]) -> dict[str, Entry]:
        return {name: Entry(name, self._path(name).stat().st_size) for name in names if self._path(name).is_file()}

    def checksum(self, entry: Entry) -> int:
        return crc32c(self._path(entry.name))

    def get(self, wanted: Sequence[tuple[Entry, Path]]) -> None:
        for entry, path in wanted:
            shutil.copyfile(self._path(entry.name), path)

    def put(self, files: Sequence[tuple[Path, str]]) -> None:
        for path, name in files:
            with atomic_file(self._path(name)) as temporary:
                shutil.copyfile(path, temporary)

    def read(self, name: str) -> bytes | None:
        path = self._path(name)
        return path.read_bytes() if path.is_file() else None

    def write(self, name: str, data: bytes, if_absent: bool) -> bool:
        path = self._path(name)
        if not if_absent:
            with atomic_file(path) as temporary:
                temporary.write_bytes(data)
            return True
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(prefix=f".{path.name}.", dir=path.parent) as temporary:
            temporary.write(data)
            temporary.flush()
            try:
                os.link(temporary.name, path)  # fails where the name is taken, and never shows half a file
            except FileExistsError:
                return path.read_bytes() == data
        path.chmod(0o644)
        return True

    def remove(self, names: Iterable[str]) -> None:
        for name in names:
            self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self.root / name if name else self.root
