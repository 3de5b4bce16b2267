"""DVC's history as records: every stage of `dvc.lock` in the workspace, at a git revision, or of an experiment.

A lock names what went in and came out and nothing of when and where, so these records are partial: no time, no
libraries, no hardware, and parameters as far as the lock names them. dvc itself is not needed.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from components.lineage.record import Record, Run
from mcm.errors import UserError
from pipelines.lineage.dvc import git
from pipelines.lineage.dvc.lock import LOCK, Lock

WORKSPACE = "workspace"


@dataclass(frozen=True)
class Revision:
    """What the lock of a commit says; of an experiment, `commit.experiment` is its name."""

    commit: git.Commit
    records: tuple[Record, ...]

    @property
    def name(self) -> str:
        """How a user names it: the experiment, or the begin of the commit."""
        return self.commit.experiment or self.commit.id[:7]


def lock_records(revision: str | None = None) -> list[Record]:
    """The stages of the lock at a git revision, or with None of the workspace, as partial records.

    UserError where there is no such revision, no lock, or one that cannot be read.
    """
    if revision is None:
        lock = Lock(git.Workspace(), WORKSPACE)
        return lock.records(Run(id=WORKSPACE, by="dvc"))
    commit = git.find_commit(revision)
    if commit is None:
        raise UserError(f"{revision}: git knows no such revision; `mcm lineage log` lists those with a {LOCK}")
    lock = Lock(git.Revision(commit), revision if commit.startswith(revision) else f"{revision} ({commit[:7]})")
    experiment = next((known.experiment for known in git.experiments() if known.id == commit), None)
    return lock.records(Run(id=commit, by="dvc", experiment=experiment))


def history(limit: int = 100, containing: str = "") -> Iterator[Revision]:
    """What DVC remembers, newest first: commits on the way to HEAD that changed the lock, and every experiment.

    At most `limit` commits; only locks in which the text `containing` is. Of their records, folders of code are named
    as a whole. Locks that cannot be read are left out. Nothing, where there is no git repository.
    """
    try:
        found = [*git.commits_of(LOCK, limit), *git.experiments()]
    except git.NoRepositoryError:
        return
    for commit in sorted(found, key=lambda commit: commit.time, reverse=True):
        tree = git.Revision(commit.id)
        if containing.encode() not in (tree.read(LOCK) or b""):
            continue
        try:
            lock = Lock(tree, commit.id[:7])
        except UserError:
            continue
        run = Run(id=commit.id, by="dvc", experiment=commit.experiment)
        yield Revision(commit, tuple(lock.records(run, whole_folders=True)))
