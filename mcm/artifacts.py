"""Artifacts are folders that are whole under their final name and carry what they are in `config.json`.

The bytes of an artifact are a function of its inputs, parameters and seed. Its identity is the md5 that DVC gives the
same folder, so that `dvc.lock`, pipeline metadata and lineage records name it alike.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mcm.errors import UserError

CONFIG = "config.json"


def cache_folder() -> Path:
    """The user's folder for what can be fetched or made again: packages, data sets, copies, indexes."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "multistep-consistency"


def write_json(path: Path, value: Any) -> None:
    """Write JSON by atomic rename, keys in the given order."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    with atomic_file(path) as temporary:
        temporary.write_text(text)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary sibling to write to, renamed to `path` when the block ends well and removed when it does not."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        _sync(temporary)
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary sibling folder, renamed to `path` when the block ends well; what was there before goes only then."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                _sync(file)
        temporary.chmod(0o755)
        if path.exists():
            retired = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
            path.replace(retired / path.name)
            temporary.replace(path)
            shutil.rmtree(retired)
        else:
            temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sync(file: Path) -> None:
    with file.open("rb") as opened:
        os.fsync(opened.fileno())


def write_config(folder: Path, kind: str, version: int, values: Mapping[str, Any]) -> None:
    """Name the artifact's kind and format version and keep its resolved parameters, in `config.json`."""
    write_json(Path(folder) / CONFIG, {"kind": kind, "version": version, **values})


def read_config(folder: Path, kind: str, version: int) -> dict[str, Any]:
    """The `config.json` of an artifact of this kind and version."""
    path = Path(folder) / CONFIG
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{folder}: no {CONFIG} here, so this is not a {kind}; make it first or name another") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}); make this {kind} again") from None
    if config.get("kind") != kind:
        raise UserError(f"{folder}: this is a {config.get('kind')}, and a {kind} is needed; name another folder")
    if config.get("version") != version:
        raise UserError(
            f"{folder}: format version {config.get('version')} of {kind}, and {version} is needed; make it again"
        )
    return config


# md5 by what the file system says of a file, for as long as the process lives: the stage, its lineage record and the
# task around it all name a data set, and it is read once.
_known: dict[tuple[int, ...], str] = {}
_LARGE = 2**20  # bytes, from where a thread is worth it
_SETTLED = 2_000_000_000  # ns; a younger file could change again without a new time stamp


def file_md5(path: Path) -> str:
    """md5 of a file's bytes, as DVC computes it; read anew only where device, inode, size or a time stamp changed."""
    path = Path(path)
    before = _stamp(path)
    if before in _known:
        return _known[before]
    settled = time.time_ns() - max(before[-2:]) > _SETTLED
    with path.open("rb") as opened:
        md5 = hashlib.file_digest(opened, "md5").hexdigest()
    if settled:  # a change since has given it another stamp, which never comes back
        _known[before] = md5
    return md5


def _stamp(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def folder_md5(folder: Path) -> str:
    """md5 of a folder as DVC computes it: over the sorted JSON list of its files' md5 and relative path."""
    folder = Path(folder)
    start = len(f"{folder}{os.sep}")
    paths = {text[start:].replace(os.sep, "/"): Path(text) for text in _files(folder)}
    large = {name: path for name, path in paths.items() if path.stat().st_size >= _LARGE}
    with ThreadPoolExecutor(usable_cores()) as pool:  # hashing leaves the interpreter free
        ahead = {name: pool.submit(file_md5, path) for name, path in large.items()}
        md5s = {name: file_md5(path) for name, path in paths.items() if name not in large}
    md5s |= {name: future.result() for name, future in ahead.items()}
    entries = [{"md5": md5s[name], "relpath": name} for name in sorted(md5s)]
    return hashlib.md5(json.dumps(entries, sort_keys=True).encode()).hexdigest() + ".dir"


def _files(folder: Path) -> Iterator[str]:
    """Every file below a folder; links to folders are not followed."""
    for root, _, names in os.walk(folder):
        yield from filter(os.path.isfile, (f"{root}{os.sep}{name}" for name in names))


def usable_cores() -> int:
    """Processor cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
