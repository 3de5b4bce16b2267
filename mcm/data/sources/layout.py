"""The layout that folders and archives share: class subfolders (ImageFolder), or one flat folder without classes."""

from pathlib import PurePosixPath

from mcm.data.config import DataConfig
from mcm.data.sources.record import Licence
from mcm.errors import UserError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pnm"})
CAPTION_SUFFIX = ".txt"


def is_image(name: str) -> bool:
    """Whether a path is one of an image: by its ending, and not hidden or of a Mac's archive fork."""
    path = PurePosixPath(name)
    return path.suffix.lower() in SUFFIXES and not any(p.startswith(".") or p == "__MACOSX" for p in path.parts)


def labels(names: list[str], where: str) -> list[str | None]:
    """The class of each image, by its path relative to the root.

    Folders that all images share are passed over. What then comes first is the class folder (deeper ones do not count);
    with no folders left there are no classes. Both kinds together are an error.
    """
    parents = [PurePosixPath(name).parts[:-1] for name in names]
    shared = 0
    while parents and all(len(p) > shared and p[shared] == parents[0][shared] for p in parents):
        shared += 1
    found: list[str | None] = [p[shared] if len(p) > shared else None for p in parents]
    if None in found and any(found):
        loose = names[found.index(None)]
        raise UserError(
            f"{where}: '{loose}' lies beside class folders; give it a class folder, or put all images in one folder"
        )
    return found


def class_of(label: str | None, config: DataConfig) -> str | None:
    """The label that the configuration asks for, of a source whose only classes are its own."""
    if config.labels not in ("source", "none"):
        raise UserError(
            f"data.labels: '{config.labels}' is for emoji, and source '{config.source}' has its own classes; "
            "set 'source' or 'none'"
        )
    return label if config.labels == "source" else None


def own_licence(name: str, config: DataConfig) -> Licence:
    """The licence entry of images that the user brought."""
    return Licence(name, "", config.licence, config.attribution)
