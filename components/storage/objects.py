"""Files and folders named by their content, laid out as DVC 3 lays out a remote.

`<root>/files/md5/ab/cdef...` holds a file of that md5; a folder is a list of its files, `<md5>.dir`. So what a run on a
cluster pushed, `dvc pull` finds at home where a remote has the same root, and the other way round.
"""

import hashlib
import json
from pathlib import Path

from components.storage.store import Entry, open_store, safe_paths, unequal
from mcm.artifacts import atomic_file, atomic_folder, file_md5
from mcm.errors import UserError

SUFFIX = ".dir"


class Objects:
    """A content-addressed store at `root`: `gs://bucket/prefix` or a mounted folder."""

    def __init__(self, root: str | Path):
        self.root = root
        self.store = open_store(root)

    def push(self, path: Path) -> str:
        """Keep a file or folder; its md5, which for a folder is `mcm.artifacts.folder_md5`. The list comes last."""
        path = Path(path)
        if path.is_file():
            md5 = file_md5(path)
            self._put({md5: path})
            return md5
        if not path.is_dir():
            raise UserError(f"{path}: nothing is there to keep in {self.root}; make it first")
        names = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
        listed = [{"md5": file_md5(path / name), "relpath": name} for name in names]
        self._put({row["md5"]: path / row["relpath"] for row in listed})
        text = json.dumps(listed, sort_keys=True).encode()
        md5 = _md5(text) + SUFFIX
        self.store.write(place(md5), text, if_absent=False)
        return md5

    def has(self, md5: str) -> bool:
        """Whether a file, or a folder's list and every file in it, is there."""
        if not md5.endswith(SUFFIX):
            return bool(self.store.find([place(md5)]))
        text = self.store.read(place(md5))
        if text is None or _md5(text) + SUFFIX != md5:
            return False
        wanted = {place(row["md5"]) for row in json.loads(text)}
        return wanted <= set(self.store.find(sorted(wanted)))

    def pull(self, md5: str, to: Path) -> None:
        """Bring a file or folder to `to`, whole or not at all. UserError that names what is missing or corrupted."""
        if not md5.endswith(SUFFIX):
            with atomic_file(to) as temporary:
                self._get({temporary: md5}, md5)
            return
        text = self.store.read(place(md5))
        if text is None:
            raise UserError(self._missing(md5, "the list of the folder"))
        if _md5(text) + SUFFIX != md5:
            raise UserError(self._corrupted(md5))
        rows = json.loads(text)
        with atomic_folder(to) as folder:
            paths = safe_paths(folder, [row["relpath"] for row in rows], self.store.uri(place(md5)))
            self._get({path: row["md5"] for path, row in zip(paths, rows, strict=True)}, md5)

    def _put(self, files: dict[str, Path]) -> None:
        named = [(path, place(md5)) for md5, path in files.items()]
        self.store.put(unequal(self.store, named, self.store.find([name for _, name in named])))

    def _get(self, wanted: dict[Path, str], whole: str) -> None:
        there = self.store.find(sorted({place(md5) for md5 in wanted.values()}))
        copies: list[tuple[Entry, Path]] = []
        for path, md5 in wanted.items():
            entry = there.get(place(md5))
            if entry is None:
                raise UserError(self._missing(md5, f"a part of {whole}" if md5 != whole else "the file"))
            copies.append((entry, path))
        self.store.get(copies)
        for path, md5 in wanted.items():
            if file_md5(path) != md5:
                raise UserError(self._corrupted(md5))

    def _missing(self, md5: str, what: str) -> str:
        return f"{self.store.uri(place(md5))}: {what} is missing; run the stage that makes it again, without cache"

    def _corrupted(self, md5: str) -> str:
        return (
            f"{self.store.uri(place(md5))}: corrupted, its bytes have another md5; delete it, and run the stage "
            "that makes it again, without cache"
        )


def place(md5: str) -> str:
    """Where DVC 3 keeps an object, below the root of its remote."""
    return f"files/md5/{md5[:2]}/{md5[2:]}"


def _md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()
