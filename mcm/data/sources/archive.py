"""A zip or tar of images, in the layout of a folder. Members are read one by one into memory; nothing is unpacked."""

import functools
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from mcm.data.config import DataConfig
from mcm.data.sources import layout
from mcm.data.sources.record import Listing, Record
from mcm.errors import UserError

_LARGEST_MEMBER = 2**28  # bytes; a picture is never that large, an archive bomb is
_BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError)


def listing(config: DataConfig) -> Listing:
    """Every image in the archive `data.path`, in the archive's order (a compressed tar can only be read forwards)."""
    if config.path is None:
        raise UserError("data.path: missing; name the zip or tar that holds your images")
    path = Path(config.path)
    if not path.is_file():
        raise UserError(f"data.path: no file '{path}'; name a zip or tar")
    try:
        if tarfile.is_tarfile(path):
            members, read, close = _tar(path)
        elif zipfile.is_zipfile(path):
            members, read, close = _zip(path)
        else:
            raise UserError(f"{path}: neither zip nor tar; name another file, or use source 'folder'")
        sizes = {name: size for name, size in members if _inside(name, path)}
        names = [name for name in sizes if layout.is_image(name)]
        captions = {
            name: " ".join(_member(read, name, sizes[name], path).decode("utf-8", errors="replace").split())
            for name in sizes
            if name.endswith(layout.CAPTION_SUFFIX)
        }
    except _BROKEN as error:
        raise UserError(f"{path}: broken archive ({error}); make it again") from None
    licence = layout.own_licence(path.name, config)
    records = [
        Record(
            name=name,
            read=functools.partial(_member, read, name, sizes[name], path),
            licence=licence,
            label=layout.class_of(label, config),
            caption=captions.get(str(PurePosixPath(name).with_suffix(layout.CAPTION_SUFFIX))),
        )
        for name, label in zip(names, layout.labels(names, str(path)), strict=True)
    ]
    return Listing(records, close=close)


Members = tuple[list[tuple[str, int]], Callable[[str], bytes], Callable[[], None]]


def _zip(path: Path) -> Members:
    """Names and sizes of regular members, a reader of one by name, and the way to close."""
    opened = zipfile.ZipFile(path)
    members = [(info.filename, info.file_size) for info in opened.infolist() if not info.is_dir()]
    return members, opened.read, opened.close


def _tar(path: Path) -> Members:
    """The same of a tar, compressed or not. Links, devices and folders are no members here."""
    opened = tarfile.open(path)  # noqa: SIM115 (the caller closes it)
    infos = {info.name: info for info in opened if info.isreg()}

    def read(name: str) -> bytes:
        stream = opened.extractfile(infos[name])
        return stream.read() if stream else b""

    return [(name, info.size) for name, info in infos.items()], read, opened.close


def _inside(name: str, path: Path) -> bool:
    """Refuses a member whose name leaves the archive: it could do no harm here, but nobody packs one in good faith."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if ".." in parts or (parts and (parts[0] == "/" or ":" in parts[0])):
        raise UserError(f"{path}: member '{name}' points outside the archive; make it again without that member")
    return True


def _member(read: Callable[[str], bytes], name: str, size: int, path: Path) -> bytes:
    if size > _LARGEST_MEMBER:
        raise UserError(f"{path}: member '{name}' would take {size} bytes; remove it")
    try:
        return read(name)
    except _BROKEN as error:
        raise UserError(f"{path}: member '{name}' cannot be read ({error}); make the archive again") from None
