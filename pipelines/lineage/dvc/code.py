"""The files of code that a DVC stage depends on: a lock names folders by one md5, records name their files."""

import hashlib
import json
from collections.abc import Iterable, Iterator

from pipelines.lineage.dvc import git

IGNORE = ".dvcignore"
BUILT_IN = (".git/", ".hg/", ".dvc/")  # what DVC ignores without being told
TRIES = 10  # earlier revisions in which a folder is looked for that the lock's own tree holds no more
FILES, BYTES = 1000, 32 * 2**20  # a larger folder is named as a whole


class Code:
    """What git holds at or below some paths, without what DVC ignores."""

    def __init__(self, tree: git.Tree, paths: Iterable[str]) -> None:
        self.tree = tree
        self.names, self.ignored = _kept(tree, paths)
        self._known: dict[tuple[str, str], dict[str, str]] = {}

    def holds(self, path: str) -> bool:
        """Whether a path is code: a file or folder of the repository. What is not, is data."""
        return any(_within(name, path) for name in self.names)

    def files(self, path: str, md5: str, size: int, count: int) -> dict[str, str]:
        """md5 of every file of a dependency that had this md5; itself, where those files are not to be found.

        They are those of the tree, unless the lock is older than it: then those of an earlier revision.
        """
        if not md5.endswith(".dir") or count > FILES or size > BYTES:
            return {path: md5}
        if (path, md5) not in self._known:
            found = (files for files in self._candidates(path) if folder_md5(files, path) == md5)
            self._known[path, md5] = next(found, {path: md5})
        return self._known[path, md5]

    def _candidates(self, path: str) -> Iterator[dict[str, str]]:
        yield self.tree.md5s([name for name in self.names if _within(name, path)])
        start = self.tree.commit if isinstance(self.tree, git.Revision) else "HEAD"
        for commit in git.commits_of(path, TRIES, start, first_parent=False):
            tree = git.Revision(commit.id)
            yield tree.md5s(_kept(tree, [path])[0])


def _kept(tree: git.Tree, paths: Iterable[str]) -> tuple[list[str], list[str]]:
    """The files of a tree at or below paths, and those of them that DVC ignores."""
    import pathspec  # late: a lock whose stages ran with a record needs it not

    lines = (tree.read(IGNORE) or b"").decode(errors="replace").splitlines()
    spec = pathspec.GitIgnoreSpec.from_lines([*BUILT_IN, *lines])
    names = tree.names(sorted(set(paths)))
    ignored = set(spec.match_files(names))
    return [name for name in names if name not in ignored], sorted(ignored)


def _within(name: str, path: str) -> bool:
    return name == path or name.startswith(f"{path}/")


def folder_md5(files: dict[str, str], path: str) -> str:
    """DVC's md5 of a folder, from the md5 of its files."""
    rows = [{"md5": md5, "relpath": name.removeprefix(f"{path}/")} for name, md5 in files.items()]
    text = json.dumps(sorted(rows, key=lambda row: row["relpath"]), sort_keys=True)
    return f"{hashlib.md5(text.encode()).hexdigest()}.dir"
