"""Moving folders and files between a place and here. What arrives is checked, and appears whole or not at all."""

import fcntl
import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from components.storage.store import is_remote, open_store, safe_paths, split, unequal
from mcm.artifacts import CONFIG, atomic_file, atomic_folder
from mcm.errors import UserError


def download(uri: str | Path, to: Path) -> None:
    """Copy an object to the file `to`, or all objects below a prefix to the folder `to`, replacing what is there.

    UserError where there is nothing, no bucket, no permission, or where an object's bytes do not have its checksum.
    """
    store = open_store(uri)
    one = store.find([""]).get("")
    if one is not None:
        with atomic_file(to) as temporary:
            store.get([(one, temporary)])
        return
    entries = store.entries()
    if not entries:
        raise UserError(f"{uri}: nothing is there; check the name, or make it first")
    with atomic_folder(to) as folder:
        names = [entry.name for entry in entries]
        store.get(list(zip(entries, safe_paths(folder, names, str(uri)), strict=True)))


def upload(path: Path, uri: str | Path, last: str = CONFIG) -> None:
    """Copy a file or folder to `uri`, which then holds this and nothing else. What is equal there is not sent again.

    A bucket cannot rename, so the file `last`, which readers look for, is removed first where anything changes and
    comes after all others: an interrupted copy is not taken for a whole one, and the same call completes it.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: nothing is there to copy to {uri}; make it first")
    if not is_remote(uri):
        _copy(path, Path(uri))
        return
    if not split(str(uri))[1]:
        raise UserError(f"{uri}: is a whole bucket; name a prefix in it, such as {str(uri).rstrip('/')}/artifact")
    store = open_store(uri)
    if path.is_file():
        store.put(unequal(store, [(path, "")], store.find([""])))
        return
    names = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    if not names:
        raise UserError(f"{path}: holds no files to copy to {uri}; make it first")
    there = {entry.name: entry for entry in store.entries()}
    stale = there.keys() - {*names, last}
    first = unequal(store, [(path / name, name) for name in names if name != last], there)
    if last in there and (first or stale or last not in names):
        store.remove([last])
        del there[last]
    store.put(first)
    store.remove(stale)
    if last in names:
        store.put(unequal(store, [(path / last, last)], there))


def exists(uri: str | Path) -> bool:
    """Whether an object, or anything below a prefix, is there."""
    store = open_store(uri)
    return bool(store.find([""]) or store.entries())


def read_bytes(uri: str | Path) -> bytes:
    """The bytes of one object. UserError where it is not there."""
    data = open_store(uri).read("")
    if data is None:
        raise UserError(f"{uri}: nothing is there; check the name, or make it first")
    return data


def write_bytes(uri: str | Path, data: bytes, if_absent: bool = False) -> bool:
    """Write one object. With `if_absent` one that is there stays as it is. Whether the object now holds `data`."""
    return open_store(uri).write("", data, if_absent)


def delete(uri: str | Path) -> None:
    """Remove an object and all that lies below the prefix; nothing there is no error."""
    if not is_remote(uri):
        shutil.rmtree(uri) if Path(uri).is_dir() else Path(uri).unlink(missing_ok=True)
        return
    if not split(str(uri))[1]:
        raise UserError(f"{uri}: is a whole bucket; name a prefix in it")
    store = open_store(uri)
    store.remove(["", *(entry.name for entry in store.entries())])


def list_names(uri: str | Path) -> list[str]:
    """Names of all objects below a prefix, relative to it, sorted."""
    return [entry.name for entry in open_store(uri).entries()]


def listing_version(uri: str | Path) -> str:
    """Hash of the names, sizes and crc32c of all files below `uri` (or of the one): equal exactly for equal content."""
    store = open_store(uri)
    entries = list(store.find([""]).values()) or store.entries()
    if not entries:
        raise UserError(f"{uri}: nothing is there; check the name, or make it first")
    rows = [[entry.name, entry.size, store.checksum(entry)] for entry in entries]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def fetch(uri: str | Path, cache: Path) -> Path:
    """A local path for `uri`: itself where it is local, else a copy below `cache`, made once for its content.

    The copy keeps the last part of the URI as its name. Several processes of a machine may ask at once: one copies.
    """
    if not is_remote(uri):
        return Path(uri)
    uri = str(uri).rstrip("/")
    key = hashlib.sha256(f"{uri} {listing_version(uri)}".encode()).hexdigest()[:16]
    copy = Path(cache) / key / PurePosixPath(split(uri)[1] or split(uri)[0]).name
    with _locked(Path(cache) / f"{key}.lock"):
        if not copy.exists():
            download(uri, copy)
    return copy


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Alone among the processes of this machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield


def _copy(path: Path, to: Path) -> None:
    if path.is_file():
        with atomic_file(to) as temporary:
            shutil.copyfile(path, temporary)
    else:
        with atomic_folder(to) as folder:
            shutil.copytree(path, folder, dirs_exist_ok=True)
