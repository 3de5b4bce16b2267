"""The sample grids of a diff: pictures that evaluations kept, found by content wherever their bytes are at hand.

A picture adorns: where its bytes are missing, broken or out of reach there is none, and no error.
"""

import fnmatch
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from components.storage import Objects, is_remote
from components.storage.objects import SUFFIX, place
from mcm.artifacts import folder_md5
from mcm.errors import UserError
from pipelines.lineage.dvc.cache import cache_folder
from pipelines.lineage.page.order import natural

STAGE, FILES = "evaluate", "samples*.npy"
COLUMNS, ROWS, GAP = 4, 4, 2  # of a grid; pixels between its pictures
SIDE = 64  # most pixels of a picture in the grid
OUTPUT_ROOT = Path("artifacts")
READERS = 8  # objects that are read at once

Read = Callable[[], bytes | None]


class HasPlace(Protocol):
    """A lineage store, by the one thing that matters here."""

    @property
    def place(self) -> str | Path: ...


def sample_grids(
    diff: Mapping[str, Any], stores: Iterable[HasPlace], project: Path = Path()
) -> dict[str, tuple[bytes | None, bytes | None]]:
    """PNG grids of the first samples in A and in B, by node key, for each evaluation whose samples are found.

    Looked through are the output roots of `stores`, `project`'s artifacts and its DVC cache.
    """
    finder = _Finder([_root(store.place) for store in stores], project)
    sides: dict[str, tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]] = {
        node["key"]: (_output(node["a"]), _output(node["b"])) for node in diff["nodes"] if node["stage"] == STAGE
    }
    outputs = {output["md5"]: output for pair in sides.values() for output in pair if output}
    with ThreadPoolExecutor(READERS) as pool:
        found = dict(zip(outputs, pool.map(finder.samples, outputs.values()), strict=True))
        wanted = {}
        for key, pair in sides.items():
            files = [found[output["md5"]] if output else {} for output in pair]
            name = _shown(files)
            wanted[key] = [file.get(name) for file in files]
        reads = list(dict.fromkeys(read for pair in wanted.values() for read in pair if read))
        grids: dict[Read | None, bytes | None] = dict(zip(reads, pool.map(_grid_of, reads), strict=True))
    pairs = {key: (grids.get(one), grids.get(other)) for key, (one, other) in wanted.items()}
    return {key: pair for key, pair in pairs.items() if pair != (None, None)}


def grid(data: bytes) -> bytes | None:
    """The first pictures of a `.npy` of uint8 `[K, H, W, C]`, C 1 or 3, as one PNG; None where it is none."""
    import numpy as np
    from PIL import Image

    try:
        pictures = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError, MemoryError):
        return None
    good = isinstance(pictures, np.ndarray) and pictures.dtype == np.uint8 and pictures.ndim == 4
    if not good or pictures.shape[-1] not in (1, 3) or not pictures.size:
        return None
    step = -(-max(pictures.shape[1:3]) // SIDE)
    pictures = pictures[: COLUMNS * ROWS, ::step, ::step]
    count, height, width, channels = pictures.shape
    columns = min(COLUMNS, count)
    rows = -(-count // columns)
    sheet = np.full((rows * (height + GAP), columns * (width + GAP), channels), 255, dtype=np.uint8)
    for number, picture in enumerate(pictures):
        top, left = (at * (length + GAP) for at, length in zip(divmod(number, columns), (height, width), strict=True))
        sheet[top : top + height, left : left + width] = picture
    sheet = sheet[:-GAP, :-GAP]
    out = io.BytesIO()
    Image.fromarray(sheet[..., 0] if channels == 1 else sheet).save(out, format="PNG", optimize=True)
    return out.getvalue()


class _Finder:
    """Finds the samples files of an evaluation by the md5 of its folder."""

    def __init__(self, roots: Sequence[str | Path], project: Path):
        self.folders = [root for root in roots if isinstance(root, Path)]
        if project / OUTPUT_ROOT not in self.folders:
            self.folders.append(project / OUTPUT_ROOT)
        self.objects = [Objects(root) for root in (cache_folder(project.absolute()), *roots)]
        self.broken: set[int] = set()  # places that gave an error, and are not asked again

    def samples(self, output: Mapping[str, Any]) -> dict[str, Read]:
        """How to read each samples file of an output, by name; none where its bytes are not at hand."""
        for folder in self.folders:
            path = folder / (output["path"] or "")
            # The folder of that name may hold what another run made.
            if output["path"] and path.is_dir() and folder_md5(path) == output["md5"]:
                return {file.name: file.read_bytes for file in sorted(path.glob(FILES))}
        for number, objects in enumerate(self.objects):
            listed = self._listed(number, objects, output["md5"])
            if listed:
                return listed
        return {}

    def _listed(self, number: int, objects: Objects, md5: str) -> dict[str, Read]:
        text = self._read(number, objects, md5)
        try:
            rows = [(row["relpath"], row["md5"]) for row in json.loads(text)] if text else []
        except (ValueError, TypeError, KeyError):
            return {}

        def reader(file: str) -> Read:
            return lambda: self._read(number, objects, file)

        return {name: reader(file) for name, file in rows if fnmatch.fnmatchcase(name, FILES)}

    def _read(self, number: int, objects: Objects, md5: str) -> bytes | None:
        """An object whose bytes are what its name says."""
        if number in self.broken:
            return None
        try:
            data = objects.store.read(place(md5))
        except (UserError, OSError):
            self.broken.add(number)
            return None
        return data if data is not None and hashlib.md5(data).hexdigest() == md5.removesuffix(SUFFIX) else None


def _root(place: str | Path) -> str | Path:
    """The output root of a lineage store: the folder or prefix that it lies in."""
    return str(place).rstrip("/").rpartition("/")[0] if is_remote(place) else Path(place).resolve().parent


def _output(record: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The folder that an evaluation made."""
    outputs = record["outputs"] if record else ()
    return next((o for o in outputs if o["md5"].endswith(SUFFIX) and not o["measured"]), None)


def _shown(files: Sequence[Mapping[str, Read]]) -> str:
    """The file that both have, of several the last: of a teacher, its sampler with the most steps."""
    held = [set(names) for names in files if names]
    common = set.intersection(*held) if held else set()
    return max(common or set().union(*held), key=natural, default="")


def _grid_of(read: Read) -> bytes | None:
    try:
        data = read()
    except OSError:
        return None
    return grid(data) if data else None
