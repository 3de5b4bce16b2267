"""A folder of images: class subfolders as torchvision's ImageFolder has them, or a flat folder without classes.

A text file beside an image, of the same name but for the ending `.txt`, is its caption.
"""

from pathlib import Path

from mcm.data.config import DataConfig
from mcm.data.sources import layout
from mcm.data.sources.record import Listing, Record
from mcm.errors import UserError


def listing(config: DataConfig) -> Listing:
    """Every image below `data.path`, sorted by relative path."""
    if config.path is None:
        raise UserError("data.path: missing; name the folder that holds your images")
    root = Path(config.path)
    if not root.is_dir():
        raise UserError(f"data.path: no folder '{root}'; make it, or name another")
    paths = {path.relative_to(root).as_posix(): path for path in root.rglob("*")}
    names = sorted(name for name, path in paths.items() if layout.is_image(name) and path.is_file())
    licence = layout.own_licence(root.name, config)
    records = [
        Record(
            name=name,
            read=paths[name].read_bytes,
            licence=licence,
            label=layout.class_of(label, config),
            caption=_caption(paths[name].with_suffix(layout.CAPTION_SUFFIX)),
        )
        for name, label in zip(names, layout.labels(names, str(root)), strict=True)
    ]
    return Listing(records)


def _caption(path: Path) -> str | None:
    if not path.is_file():
        return None
    try:
        return " ".join(path.read_text(encoding="utf-8").split())
    except UnicodeDecodeError:
        raise UserError(f"{path}: this caption is not UTF-8; save it as UTF-8") from None
