"""The project's files at a git revision, through the program git: quick to start, and nothing is checked out.

Paths are relative to the current folder, which may lie below the repository's root.
"""

import hashlib
import os
import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from mcm.artifacts import file_md5
from mcm.errors import UserError

# refs/exps/<begin of the baseline commit>/<rest of it>/<name>; DVC's other refs below refs/exps have another form.
EXPERIMENT = re.compile(r"refs/exps/([0-9a-f]{2})/([0-9a-f]{38,62})/([^/]+)")


class NoRepositoryError(UserError):
    """Nothing can be asked of git here: there is no repository, no git, or one that git refuses."""


@dataclass(frozen=True)
class Commit:
    """A commit; `experiment` is the name that DVC gave it as an experiment."""

    id: str
    time: datetime
    subject: str
    experiment: str | None = None


class Tree(Protocol):
    """Files of the project as they are or were."""

    def read(self, path: str) -> bytes | None:
        """A file's bytes; None where there is none."""
        ...

    def names(self, paths: Iterable[str]) -> list[str]:
        """The files at or below `paths` that git knows. Ignored ones are none."""
        ...

    def md5s(self, names: Sequence[str]) -> dict[str, str]:
        """md5 of the bytes of files that `names` gave."""
        ...


class Revision:
    """The files of a commit."""

    def __init__(self, commit: str) -> None:
        self.commit = commit
        self._blobs: dict[str, str] = {}

    def read(self, path: str) -> bytes | None:
        return _git("cat-file", "blob", f"{self.commit}:./{path}")

    def names(self, paths: Iterable[str]) -> list[str]:
        found: dict[str, str] = {}
        wanted = list(paths)
        listed = (_git("ls-tree", "-r", "-z", self.commit, "--", *wanted) or b"") if wanted else b""
        for row in listed.decode(errors="surrogateescape").split("\0")[:-1]:
            kind, _, name = row.partition("\t")
            if kind.split()[1] == "blob":
                found[name] = kind.split()[2]
        self._blobs.update(found)
        return list(found)

    def md5s(self, names: Sequence[str]) -> dict[str, str]:
        asked = "".join(f"{self._blobs[name]}\n" for name in names).encode()
        data, at = (_git("cat-file", "--batch", stdin=asked) or b"") if names else b"", 0
        found: dict[str, str] = {}
        for name in names:  # each as `<id> blob <size>`, a line end, its bytes, a line end
            end = data.index(b"\n", at)
            size = int(data[at:end].split()[2])
            found[name] = hashlib.md5(data[end + 1 : end + 1 + size]).hexdigest()
            at = end + size + 2
        return found


class Workspace:
    """The files on disk."""

    def read(self, path: str) -> bytes | None:
        try:
            return Path(path).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    def names(self, paths: Iterable[str]) -> list[str]:
        wanted = list(paths)
        words = ("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--")
        try:
            listed = (_git(*words, *(f":(literal){path}" for path in wanted)) or b"") if wanted else b""
        except NoRepositoryError:  # then DVC alone knows what is data
            folders = [Path(path) for path in wanted if not Path(f"{path}.dvc").exists()]
            files = (file for folder in folders for file in ([folder] if folder.is_file() else folder.rglob("*")))
            return [file.as_posix() for file in files if file.is_file()]
        names = listed.decode(errors="surrogateescape").split("\0")[:-1]
        return [name for name in dict.fromkeys(names) if Path(name).is_file()]

    def md5s(self, names: Sequence[str]) -> dict[str, str]:
        return {name: file_md5(Path(name)) for name in names}


def find_commit(name: str) -> str | None:
    """The id of the commit that a revision names; None where git knows none of that name."""
    found = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    return found.decode().strip() if found else None


def commits_of(path: str, limit: int, start: str = "HEAD", first_parent: bool = True) -> list[Commit]:
    """The commits, newest first, that changed a file or folder on the way to `start`."""
    words = ["log", f"--max-count={limit}", "--format=%H%x00%ct%x00%s", *(["--first-parent"] if first_parent else [])]
    listed = _git(*words, start, "--", path)  # None where the repository has no commit yet
    return [_commit(*line.split("\0")) for line in (listed or b"").decode(errors="replace").splitlines()]


def experiments() -> list[Commit]:
    """DVC's experiments, newest first."""
    shown = "--format=%(refname)%00%(objectname)%00%(committerdate:unix)%00%(contents:subject)"
    listed = _git("for-each-ref", shown, "--sort=-committerdate", "refs/exps") or b""
    found = []
    for line in listed.decode(errors="replace").splitlines():
        ref, commit, seconds, subject = line.split("\0")
        if match := EXPERIMENT.fullmatch(ref):
            found.append(_commit(commit, seconds, subject, match[3]))
    return found


def references() -> list[str]:
    """Names of branches and tags."""
    listed = _git("for-each-ref", "--format=%(refname:short)", "refs/heads", "refs/tags", "refs/remotes") or b""
    return listed.decode(errors="replace").split()


def _commit(commit: str, seconds: str, subject: str, experiment: str | None = None) -> Commit:
    return Commit(commit, datetime.fromtimestamp(int(seconds), UTC), subject, experiment)


def _git(*words: str, stdin: bytes | None = None) -> bytes | None:
    """What git prints; None where it fails because what was asked for is not there."""
    settings = {**os.environ, "LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(["git", *words], input=stdin, capture_output=True, env=settings, check=False)
    except FileNotFoundError:
        raise NoRepositoryError("git: no such program, so there are no revisions; install it") from None
    if done.returncode == 0:
        return done.stdout
    said = done.stderr.decode(errors="replace")
    if "not a git repository" in said:
        raise NoRepositoryError(f"{Path.cwd().name}: no git repository; go to the project's folder")
    if "dubious ownership" in said:
        raise NoRepositoryError(
            f"{Path.cwd().name}: git refuses this repository, which belongs to another user; "
            "`git config --global --add safe.directory FOLDER` allows it"
        )
    return None
