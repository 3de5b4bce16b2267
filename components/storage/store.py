"""What a place for files can do, be it a bucket or a mounted folder: objects by name, below one root."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from components.storage.checksum import crc32c
from mcm.errors import UserError

SCHEME = "gs://"


@dataclass(frozen=True)
class Entry:
    """One object. `name` is relative to the store's root, and empty where the root itself is the object."""

    name: str
    size: int  # bytes
    crc32c: int | None = None  # of the bytes; None where the store would have to read them
    generation: int | None = None  # of a bucket's object


class BrokenError(UserError):
    """An object is gone or is not what was written: asking again does not help, as it may after other errors."""


class Store(Protocol):
    """Objects by name below a root. Every error is a UserError that names the object's URI."""

    def uri(self, name: str = "") -> str:
        """How a user names the object."""
        ...

    def entries(self, below: str = "") -> list[Entry]:
        """All objects in the folder `below`, at any depth, by name; none where there is no such folder."""
        ...

    def find(self, names: Iterable[str]) -> dict[str, Entry]:
        """Those of `names` that are there."""
        ...

    def checksum(self, entry: Entry) -> int:
        """crc32c of an object's bytes."""
        ...

    def get(self, wanted: Sequence[tuple[Entry, Path]]) -> None:
        """Copy objects to files, checksums verified. The files' folders exist."""
        ...

    def put(self, files: Sequence[tuple[Path, str]]) -> None:
        """Copy files to objects, each of which appears whole; one that is there is replaced."""
        ...

    def read(self, name: str) -> bytes | None:
        """An object's bytes; None where there is none."""
        ...

    def write(self, name: str, data: bytes, if_absent: bool) -> bool:
        """Write an object at once. With `if_absent` one that is there stays. Whether the object now holds `data`."""
        ...

    def remove(self, names: Iterable[str]) -> None:
        """Remove objects; one that is not there is no error."""
        ...


def is_remote(uri: str | Path) -> bool:
    """Whether this names something in a bucket."""
    return isinstance(uri, str) and uri.startswith(SCHEME)


def split(uri: str) -> tuple[str, str]:
    """Bucket and name of a `gs://` URI, without slashes at the end."""
    bucket, _, name = uri.removeprefix(SCHEME).partition("/")
    if not bucket:
        raise UserError(f"{uri}: names no bucket; write gs://bucket/prefix")
    return bucket, name.strip("/")


def open_store(uri: str | Path) -> Store:
    """The store whose root is `uri`. Nothing is asked of a server yet."""
    if is_remote(uri):
        from components.storage.gcs import BucketStore  # late: a run on local files needs no cloud client

        return BucketStore(*split(str(uri)))
    if "://" in str(uri):
        raise UserError(f"{uri}: only gs:// and paths are known; mount other stores as a folder, or copy it there")
    from components.storage.folder import FolderStore

    return FolderStore(Path(uri))


def unequal(store: Store, files: Sequence[tuple[Path, str]], there: Mapping[str, Entry]) -> list[tuple[Path, str]]:
    """Those of `files` that are not `there` with the same size and crc32c: what a copy has to send."""

    def differs(path: Path, entry: Entry | None) -> bool:
        return entry is None or entry.size != path.stat().st_size or store.checksum(entry) != crc32c(path)

    return [(path, name) for path, name in files if differs(path, there.get(name))]


def safe_paths(folder: Path, names: Sequence[str], where: str) -> list[Path]:
    """A file below `folder` for each name, its folders made. UserError for a name that leads elsewhere."""
    parents = {parent.as_posix() for name in names for parent in PurePosixPath(name).parents}
    paths = []
    for name in names:
        parts = name.split("/")
        if name in parents or any(part in ("", ".", "..") for part in parts) or "\\" in name or "\0" in name:
            raise UserError(f"{where}: '{name}' there cannot be a file here; rename or remove that object")
        path = folder.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        paths.append(path)
    return paths
