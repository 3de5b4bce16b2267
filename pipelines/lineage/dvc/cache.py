"""DVC's cache on this machine: artifacts by md5, as far as they are there."""

import configparser
import functools
import json
import tempfile
from pathlib import Path

from components.lineage.recorder import FIGURES, figures
from components.storage.objects import SUFFIX, place

READ = (*FIGURES, "loss.csv")  # the files of an artifact that `figures` looks into


@functools.cache
def cache_folder(project: Path) -> Path:
    """Where DVC keeps the objects of the project around a folder: what its configuration names, or `.dvc/cache`."""
    root = next((folder for folder in (project, *project.parents) if (folder / ".dvc").is_dir()), project) / ".dvc"
    for name in ("config.local", "config"):
        parser = configparser.ConfigParser(interpolation=None, strict=False)
        try:
            parser.read(root / name)
        except (configparser.Error, UnicodeDecodeError):
            continue
        if named := parser.get("cache", "dir", fallback=""):
            return root / named  # relative to the file that names it
    return root / "cache"


def cached(md5: str) -> Path | None:
    """The file of that md5, which for a folder is the list of its files; None where the cache has none."""
    path = cache_folder(Path.cwd()) / place(md5)
    return path if path.is_file() else None


def cached_files(md5: str) -> dict[str, str] | None:
    """md5 of each file in a folder, by its path there; None where the cache does not know the folder."""
    listing = cached(md5) if md5.endswith(SUFFIX) else None
    if listing is None:
        return None
    try:
        return {str(row["relpath"]): str(row["md5"]) for row in json.loads(listing.read_bytes())}
    except (ValueError, TypeError, KeyError):
        return None  # a broken cache is DVC's to complain about


def cached_figures(md5: str) -> dict[str, float]:
    """What was measured or reached, from the files of a folder that say so, by the names that its record gives them."""
    listing = cached(md5) if md5.endswith(SUFFIX) else None
    return _figures(listing) if listing else {}


@functools.cache
def _figures(listing: Path) -> dict[str, float]:
    files = cached_files(listing.parent.name + listing.name) or {}
    with tempfile.TemporaryDirectory(prefix="mcm-") as scratch:
        for name in READ:
            if path := cached(files.get(name, "")):
                (Path(scratch) / name).symlink_to(path)
        try:
            return dict(figures(Path(scratch)))
        except (ValueError, KeyError, TypeError):
            return {}
