"""All runs of the stores and DVC's history, newest first, and which of them a user asks for."""

import heapq
import json
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json

from components.lineage.record import Record
from components.storage.objects import SUFFIX
from mcm.config import suggest
from mcm.errors import UserError
from pipelines.lineage.store.index import NEWEST, Row
from pipelines.lineage.store.records import LineageStore
from pipelines.lineage.store.summary import begin, digest, executions

if TYPE_CHECKING:
    from pipelines.lineage.dvc.history import Revision

COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "!=": operator.ne,
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}
CONDITION = re.compile(r"([A-Za-z_][\w.-]*)\s*(<=|>=|!=|=|<|>)\s*(.*)")
MD5 = re.compile(r"[0-9a-f]{32}(\.dir)?")
MEASURING = ("report", "evaluate")  # stages that tell FID
ALL = 10**9  # revisions


@dataclass(frozen=True)
class Entry:
    """A run, or with `revision` a dvc.lock of DVC's history.

    `started` is in seconds of the epoch, of a revision the time of its commit. `facts` are those of a Summary, and so
    are `parameters`, where a condition asks for them.
    """

    run: str
    started: float | None
    facts: dict[str, Any]
    parameters: dict[str, dict[str, Any]]
    store: str | None = None
    revision: bool = False

    def json(self) -> dict[str, Any]:
        """What `mcm lineage log --json` says of it. `fid` is by model, or model and sampler; costs are in seconds."""
        facts = {**self.facts, "ended": _iso(self.facts["ended"])}
        head = {"run": self.run, "revision": self.revision, "store": self.store, "started": _iso(self.started)}
        return head | facts


@dataclass(frozen=True)
class Condition:
    """`name=value` and its kin. A run without that parameter never fits."""

    name: str
    sign: str
    value: Any

    @classmethod
    def parse(cls, text: str) -> "Condition":
        """UserError where the text is no condition."""
        match = CONDITION.fullmatch(text)
        if match is None:
            raise UserError(f"--param {text}: not a condition; write name=value, or with !=, <, >, <= or >=")
        name, sign, value = match.groups()
        try:
            wanted = json.loads(value)
        except ValueError:
            wanted = value
        if sign not in ("=", "!=") and not _is_number(wanted):
            raise UserError(f"--param {text}: '{value}' is not a number; compare texts with = or !=")
        return cls(name, sign, wanted)

    def fits(self, parameters: dict[str, Any]) -> bool:
        if self.name not in parameters:
            return False
        value = parameters[self.name]
        if self.sign not in ("=", "!=") and not _is_number(value):
            return False
        if isinstance(value, str) and not isinstance(self.value, str):  # `--param x=1` and the text "1"
            return COMPARISONS[self.sign](value, str(self.value))
        return COMPARISONS[self.sign](value, self.value)


@dataclass(frozen=True)
class Filters:
    """What a run must have. Of `stage` and `conditions`, all must hold of one execution."""

    stage: str | None = None
    conditions: tuple[Condition, ...] = ()
    artifact: str | None = None  # md5
    since: float | None = None  # seconds of the epoch
    until: float | None = None
    by: str | None = None

    def query(self) -> tuple[str, list[Any]]:
        """What the index can decide: a WHERE clause and its values."""
        terms = ["length(files) > 2"]  # a run of no readable record has no entry
        values: list[Any] = []
        for sign, bound in ((">=", self.since), ("<", self.until)):
            if bound is not None:
                terms.append(f"started {sign} ?")
                values.append(bound)
        if self.artifact is not None:
            terms.append("(instr(made, ?) or instr(taken, ?) or instr(used, ?))")
            values += [begin(self.artifact)] * 3
        return f"where {' and '.join(terms)}", values

    def fit(self, entry: Entry) -> bool:
        """The rest."""
        stages = entry.facts["stages"]
        if (self.by and entry.facts["by"] != self.by) or (self.stage and self.stage not in stages):
            return False
        return not self.conditions or any(
            all(condition.fits(parameters) for condition in self.conditions)
            for stage, columns in entry.parameters.items()
            if self.stage in (None, stage)
            for parameters in executions(columns)
        )


def entries(stores: Sequence[LineageStore], filters: Filters, limit: int = 0) -> list[Entry]:
    """The runs and revisions that fit, newest first, `limit` of them or with 0 all."""
    # Only what the index decides alone may end with its first rows.
    enough = limit if not (filters.stage or filters.conditions or filters.by) else 0
    sources: list[Iterable[Entry]] = [_runs(store, filters, enough) for store in stores]
    if filters.by in (None, "dvc"):
        sources.append(_revisions(stores, filters, limit if limit and filters == Filters() else ALL))
    found: dict[tuple[bool, str], Entry] = {}
    for entry in heapq.merge(*sources, key=lambda entry: -(entry.started or 0.0)):
        if filters.fit(entry):
            # A run may lie in two stores; experiments of two commits may have one name.
            found.setdefault((entry.revision, entry.facts["commit"] if entry.revision else entry.run), entry)
            if len(found) == limit:
                break
    if not found:
        _explain(stores, filters)
    return list(found.values())


def _runs(store: LineageStore, filters: Filters, limit: int) -> Iterator[Entry]:
    where, values = filters.query()
    parameters = "parameters" if filters.conditions else "x'7b7d'"  # {}
    query = f"select run, started, facts, {parameters} from runs {where} {NEWEST} limit ?"

    def read(rows: list[Row]) -> list[Entry]:
        return [
            Entry(run, started, from_json(facts), from_json(columns), str(store.place))
            for run, started, facts, columns in rows
        ]

    yield from store.index.ask(query, [*values, limit or -1], read)


def _revisions(stores: Sequence[LineageStore], filters: Filters, limit: int) -> Iterator[Entry]:
    from pipelines.lineage.dvc.history import history  # late: it reads YAML

    md5 = (filters.artifact or "").removesuffix(SUFFIX)
    for revision in history(limit, md5):
        time = revision.commit.time.timestamp()
        if filters.since is not None and time < filters.since:
            return
        named = (a.md5.removesuffix(SUFFIX) for record in revision.records for a in (*record.inputs, *record.outputs))
        if (filters.until is None or time < filters.until) and (not md5 or md5 in named):
            yield _entry(revision, time, stores)


def _entry(revision: "Revision", time: float, stores: Sequence[LineageStore]) -> Entry:
    records = {record.id: record.model_dump(mode="json") for record in _measured(revision.records, stores)}
    summary = digest(revision.name, records, [])
    commit = {"experiment": revision.commit.experiment, "commit": revision.commit.id, "dirty": False}
    return Entry(revision.name, time, summary.facts | commit, _as_kept(summary.parameters), revision=True)


def _as_kept(parameters: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """As the index gives them back, with texts for the numbers of executions."""
    return dict(json.loads(json.dumps(parameters)))


def _measured(records: Sequence[Record], stores: Sequence[LineageStore]) -> list[Record]:
    """Records of a lock with figures: from DVC's cache, or of executions in the stores that made the same bytes.

    The report has them all; where it is not known, the evaluations.
    """
    if not any(record.metrics for record in records if record.stage in MEASURING):
        for stage in MEASURING:
            found = {r.id: _figures(r, stores) for r in records if r.stage == stage}
            if any(found.values()):
                return [r.model_copy(update={"metrics": found[r.id]}) if found.get(r.id) else r for r in records]
    return list(records)


def _figures(record: Record, stores: Sequence[LineageStore]) -> dict[str, float]:
    out = next((artifact.md5 for artifact in record.outputs if artifact.name == "out"), None)
    makers = (maker for store in stores if out for maker in store.made(out))
    return next((maker.metrics for maker in makers if maker.metrics), {})


def _explain(stores: Sequence[LineageStore], filters: Filters) -> None:
    """UserError where nothing can fit, because no run has a stage or parameter of that name."""
    if not (filters.stage or filters.conditions):
        return
    stages: set[str] = set()
    names: set[str] = set()
    for store in stores:
        for columns in store.index.ask("select parameters from runs", (), lambda rows: [from_json(c) for (c,) in rows]):
            stages |= columns.keys()
            names.update(name for column in columns.values() for kept in ("same", "differ") for name in column[kept])
    if filters.stage and stages and filters.stage not in stages:
        raise UserError(f"--stage {filters.stage}: no run has such a stage; {suggest(filters.stage, list(stages))}")
    for condition in filters.conditions:
        if names and condition.name not in names:
            raise UserError(
                f"--param {condition.name}: no run has such a parameter; {suggest(condition.name, list(names))}"
            )


def artifact(text: str) -> str:
    """An md5 as the user gave it. UserError where it is none."""
    if not MD5.fullmatch(text):
        raise UserError(f"--artifact {text}: not an md5; give all 32 digits, as in dvc.lock")
    return text


def seconds(option: str, text: str) -> float:
    """A date or time, of this machine's zone unless it says, in seconds of the epoch. `--until` a date is its end."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UserError(f"{option} {text}: not a date; write 2026-11-21 or 2026-11-21T10:00") from None
    if option == "--until" and len(text) <= len("2026-11-21"):
        moment += timedelta(days=1)
    return moment.timestamp()


def _iso(time: float | None) -> str | None:
    return None if time is None else datetime.fromtimestamp(time, UTC).isoformat(timespec="seconds")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
