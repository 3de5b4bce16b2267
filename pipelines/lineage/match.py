"""Executions in lineage stores: which one made what a lock names, and which ones made what a record read."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from components.lineage.record import Artifact, Record
from pipelines.lineage.store.records import LineageStore

WAYS = ("kubeflow", "mcm", "dvc")  # the later, the nearer to a lock
LAST = datetime.max.replace(tzinfo=UTC)


def best(partial: Record, stores: Sequence[LineageStore]) -> Record | None:
    """The execution that a partial record stands for: the same stage and task, inputs and outputs, and no other value
    of a parameter. Of several, those with the same measured outputs, and of these one with the same code, rather DVC's
    own than a pipeline's of the same bytes, the latest.
    """
    whole = [artifact.md5 for artifact in partial.outputs]
    lasting = [artifact.md5 for artifact in partial.outputs if not artifact.measured]
    read = [artifact.md5 for artifact in partial.inputs if not artifact.measured]
    candidates = made(stores, *whole) if whole else []
    if not any(_is_execution(partial, record) for record in candidates):
        if lasting:
            candidates = made(stores, *lasting)
        elif read:
            candidates = [record for store in stores for record in store.used(*read)]

    def rank(record: Record) -> tuple[Any, ...]:
        ran = record.cached_from is None
        return _same_code(partial, record), WAYS.index(record.run.by), ran, record.ended or LAST

    return max((r for r in candidates if _is_execution(partial, r)), key=rank, default=None)


def complete(
    records: Iterable[Record], stores: Sequence[LineageStore], reused: Iterable[str] = ()
) -> list[tuple[Record, bool]]:
    """Records with whether they are reused: those given, and the earlier ones that made what they read, and so on.

    Of the given ones, those with an id in `reused` are. One execution is taken for one artifact: of those that ended
    before it was first read the one that made most of what is needed, and of these the last.
    """
    found = {record.id: record for record in records}
    runs = {record.run.id for record in found.values()}
    taken = set(reused)
    known = {artifact.md5 for record in found.values() if record.status == "succeeded" for artifact in record.outputs}
    wanted = _reads(found.values(), known)
    while wanted:
        makers = [maker for md5 in wanted if (maker := _maker(md5, wanted, stores)) is not None]
        known |= wanted.keys() | {artifact.md5 for maker in makers for artifact in maker.outputs}
        new = {maker.id: maker for maker in makers if maker.id not in found}
        found |= new
        taken |= {key for key, maker in new.items() if maker.run.id not in runs}
        wanted = _reads(new.values(), known)
    return [(record, key in taken) for key, record in found.items()]


def made(stores: Sequence[LineageStore], *md5s: str) -> list[Record]:
    """The executions that made all these artifacts, newest first, each once."""
    found = {record.id: record for store in stores for record in store.made(*md5s)}
    return sorted(found.values(), key=lambda record: record.ended or LAST, reverse=True)


def agrees(raw: Any, resolved: Any) -> bool:
    """Whether a value as params.yaml gives it is the resolved one: defaults added, numbers and texts made alike."""
    if isinstance(raw, Mapping) and isinstance(resolved, Mapping):
        return all(name in resolved and agrees(value, resolved[name]) for name, value in raw.items())
    if isinstance(raw, list) and isinstance(resolved, list):
        return len(raw) == len(resolved) and all(map(agrees, raw, resolved))
    if isinstance(raw, bool) or isinstance(resolved, bool) or raw is None or resolved is None:
        return raw is resolved
    try:
        return raw == resolved or float(raw) == float(resolved)
    except (TypeError, ValueError):
        return False


def _reads(records: Iterable[Record], known: set[str]) -> dict[str, datetime]:
    """What is read and not known, and when first."""
    wanted: dict[str, datetime] = {}
    for record in records:
        for artifact in record.inputs:
            if artifact.md5 not in known:
                wanted[artifact.md5] = min(wanted.get(artifact.md5, LAST), record.started or LAST)
    return wanted


def _maker(md5: str, wanted: Mapping[str, datetime], stores: Sequence[LineageStore]) -> Record | None:
    """The execution that an artifact is taken from; where clocks say that none had ended by then, some other."""

    def rank(record: Record) -> tuple[Any, ...]:
        ended = record.ended or LAST
        return ended <= wanted[md5], sum(artifact.md5 in wanted for artifact in record.outputs), ended

    return max((r for r in made(stores, md5) if r.status == "succeeded"), key=rank, default=None)


def _is_execution(partial: Record, record: Record) -> bool:
    if record.status != "succeeded" or record.name != partial.name:
        return False
    if _bytes(record.outputs) != _bytes(partial.outputs):
        return False
    if partial.stage != "prepare_data":  # of given pictures a lock knows a folder around them
        read = {artifact.name: artifact.md5 for artifact in record.inputs}
        if any(read.get(name) != md5 for name, md5 in _bytes(partial.inputs).items()):
            return False
    resolved = record.parameters
    return all(agrees(value, resolved[name]) for name, value in partial.parameters.items() if name in resolved)


def _bytes(artifacts: Iterable[Artifact]) -> dict[str, str]:
    return {artifact.name: artifact.md5 for artifact in artifacts if not artifact.measured}


def _same_code(partial: Record, record: Record) -> bool:
    ours = (partial.code and partial.code.files) or {}
    theirs = (record.code and record.code.files) or {}
    return all(md5 == theirs[name] for name, md5 in ours.items() if name in theirs)
