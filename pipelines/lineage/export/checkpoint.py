"""A checkpoint's files: which execution made one, where its bytes lie, and what each file hashes to."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from components.lineage.record import Artifact
from components.storage import Objects, download, is_remote
from mcm.artifacts import folder_md5
from mcm.errors import UserError
from pipelines.lineage.dvc.cache import cache_folder
from pipelines.lineage.export.names import made_by
from pipelines.lineage.graph import Graph
from pipelines.lineage.part import find_node

STUDENT, TEACHER = "train_student", "train_teacher"


def maker_of(graph: Graph, stage: str | None) -> tuple[str, Artifact]:
    """The node that made the checkpoint, and that: node `stage`, else the only student, else the only teacher."""
    made = {key: found for key in graph.nodes if (found := _made(graph, key)) is not None}
    if stage is not None:
        # `cd-4` is the student, not its evaluation.
        tasks = [key for key in made if graph.nodes[key].record.task == stage]
        key = tasks[0] if len(tasks) == 1 else find_node(graph, stage)
        if key not in made:
            known = ", ".join(made) or "none of this run"
            raise UserError(f"{graph.name}: stage '{key}' made no checkpoint; those that did: {known}")
        return key, made[key]
    students = [key for key in made if graph.nodes[key].record.stage == STUDENT]
    keys = students or list(made)
    if not keys:
        raise UserError(f"{graph.name}: made no checkpoint; name a run with train_student or train_teacher")
    if len(keys) > 1:
        raise UserError(f"{graph.name}: {len(keys)} checkpoints ({', '.join(keys)}); choose one with --stage")
    return keys[0], made[keys[0]]


def _made(graph: Graph, key: str) -> Artifact | None:
    record = graph.nodes[key].record
    if record.stage not in (STUDENT, TEACHER):
        return None
    return next((artifact for artifact in made_by(record) if artifact.name == "out"), None)


@contextlib.contextmanager
def bytes_of(artifact: Artifact, name: str, places: Sequence[str | Path]) -> Iterator[Path]:
    """A folder that holds the artifact, for as long as the block lasts. `places` are the lineage stores.

    It is looked for beside each store, in DVC's cache, and among the objects beside each store. UserError where it is
    in none of these.
    """
    roots = list(dict.fromkeys(_above(place) for place in places))
    for root in roots:
        if artifact.path and not is_remote(root):
            folder = Path(root) / artifact.path
            if folder.is_dir() and folder_md5(folder) == artifact.md5:
                yield folder
                return
    broken = ""
    cache = Path(os.path.relpath(cache_folder(Path.cwd())))
    for root in ([cache] if cache.is_dir() else []) + roots:
        objects = Objects(root)
        if not objects.has(artifact.md5):
            continue
        with tempfile.TemporaryDirectory(prefix="mcm-") as temporary:
            # model-signing signs the folder's name as well.
            folder = Path(temporary) / PurePosixPath(artifact.path or name.replace(" ", "-")).name
            try:
                objects.pull(artifact.md5, folder)
            except UserError as error:
                broken = f"; {error}"
                continue
            yield folder
            return
    raise UserError(
        f"{name}: the bytes of {artifact.md5} are not in the workspace, in DVC's cache or beside the stores; "
        f"`dvc pull` them, or name the run's store with --store{broken}"
    )


def _above(place: str | Path) -> str | Path:
    """The output root of a store, which lies beside it."""
    return str(place).rstrip("/").rpartition("/")[0] if is_remote(place) else Path(place).resolve().parent


@contextlib.contextmanager
def local(checkpoint: str) -> Iterator[Path]:
    """The folder of a checkpoint; what is in a bucket is there for as long as the block lasts."""
    if not is_remote(checkpoint):
        folder = Path(checkpoint)
        if not folder.is_dir():
            raise UserError(f"{checkpoint}: no such folder; name the checkpoint's folder or gs:// prefix")
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="mcm-") as temporary:
        folder = Path(temporary) / PurePosixPath(checkpoint.rstrip("/")).name
        download(checkpoint, folder)
        if not folder.is_dir():
            raise UserError(f"{checkpoint}: is one object; name the prefix of the whole checkpoint")
        yield folder


def digests(folder: Path) -> dict[str, str]:
    """sha256 of each file by its place in the folder. UserError for what is neither a file nor a folder in it."""
    found = {}
    for parent, folders, files in os.walk(folder):
        for name in folders:
            if (Path(parent) / name).is_symlink():
                raise UserError(f"{Path(parent, name)}: is a link to a folder, which no checkpoint holds; remove it")
        for name in files:
            path = Path(parent) / name
            if not path.is_file():
                raise UserError(f"{path}: is no regular file, and a checkpoint holds nothing else; remove it")
            with path.open("rb") as opened:
                found[path.relative_to(folder).as_posix()] = hashlib.file_digest(opened, "sha256").hexdigest()
    return dict(sorted(found.items()))


def compare(where: str, stated: Mapping[str, str], found: Mapping[str, str]) -> None:
    """UserError that names the first file, by name, that is missing, too many, or of other bytes than stated."""
    for name in sorted({*stated, *found}):
        said: Any = stated.get(name)
        if name not in found:
            raise UserError(f"{where}: {name} is missing, which the statement lists; this is not that checkpoint")
        if said is None:
            raise UserError(f"{where}: {name} is not in the statement; remove it, or do not trust this checkpoint")
        if found[name] != said:
            raise UserError(
                f"{where}: {name} has sha256 {found[name][:12]}..., and the statement says {said[:12]}...; "
                "its bytes were changed, do not use it"
            )
