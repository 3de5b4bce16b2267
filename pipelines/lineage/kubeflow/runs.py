"""A run on a Kubeflow Pipelines server, read into the lineage model.

What a stage did stands in our own records, in the store that is a parameter of the run. The server adds which tasks
there were and which of them its cache answered: such a task ran no program and so left no record. The artifact API of
the releases without MLMD names the artifacts of every task, today's none: then what a task made is known from those
that read it, or from what it was asked for.
"""

import argparse
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from components.kubeflow.values import unpack
from components.lineage.record import Artifact, Record, Run, RunRecord
from components.lineage.runs import STORE
from components.runner import SECTIONS
from components.storage import is_remote
from mcm.errors import UserError
from pipelines.client import Connection, Options
from pipelines.lineage.graph import Graph, build
from pipelines.lineage.kubeflow.tasks import Task, tasks_of
from pipelines.lineage.kubeflow.wiring import fits, made_at, read_from, values_of
from pipelines.lineage.match import complete
from pipelines.lineage.store.records import LineageStore


def run_graph(run: str, stores: Sequence[LineageStore], args: argparse.Namespace | None) -> Graph:
    """The graph of a run by its id or name at the server that `args` (`add_connection`) or the environment names.

    `stores` are searched besides the run's own. UserError for an unknown run, and for a server that does not answer.
    """
    from pipelines import runs

    connection = Connection(connection_options(args))
    return _Reader(connection, runs.get(connection, runs.find(connection, run)), stores).graph(run)


def own_store(run: str, args: argparse.Namespace | None) -> list[LineageStore]:
    """The lineage store that a run at the server writes to, where it can be read from here."""
    from pipelines import runs

    connection = Connection(connection_options(args))
    home = _home(parameters_of(runs.get(connection, runs.find(connection, run))))
    return [LineageStore(home)] if home and _readable(home) else []


def connection_options(args: argparse.Namespace | None) -> Options:
    """How to reach the server, where only some of the options were asked for."""
    names = {field.name for field in fields(Options)}
    return Options(**{name: value for name, value in vars(args).items() if name in names} if args else {})


class _Reader:
    """One run: what the server says of it, completed from the records in its store and in others."""

    def __init__(self, connection: Connection, run: Any, stores: Sequence[LineageStore]) -> None:
        self.connection, self.run = connection, run
        self.id = str(run.run_id)
        self.warnings: list[str] = []
        values = parameters_of(run)
        self.params = {name: values[name] for name in SECTIONS if name in values}
        self.stores = [*stores]
        home, places = _home(values), [str(store.place) for store in stores]
        hidden = home and home not in places and not _readable(home)
        if home and home not in places and not hidden:
            self.stores.append(LineageStore(home))
            places.append(home)
        self.named = ", ".join(places) or "no store"
        self.hidden = f"its records lie at {home} in its pods: mount or copy that, and name it" if hidden else ""

    def graph(self, name: str) -> Graph:
        """The records of the run, those that its cached tasks took, and the makers of what they read."""
        found = self._own()
        self._missing(found)
        if not found:
            remedy = self.hidden or "name the store that has them"
            raise UserError(f"run {name}: no lineage records of it in {self.named}; {remedy} with --store")
        if self.hidden:
            self.warnings.append(f"run {name}: {self.hidden} with --store")
        self._say_state()
        pairs = complete(found.values(), self.stores, [r.id for r in found.values() if r.run.id != self.id])
        said = [warning for store in self.stores for warning in store.warnings]
        return build(name, "kubeflow", self.id, pairs, self._asked(), [*self.warnings, *said])

    def _own(self) -> dict[tuple[str, str], Record]:
        """What each stage of the run wrote. Of a task that was tried again, what came of it."""
        found: dict[tuple[str, str], Record] = {}
        records = {record.id: record for store in self.stores for record in store.records(self.id)}
        for record in sorted(records.values(), key=lambda r: (r.status == "succeeded", _when(r))):
            found[record.stage, record.task] = record
        return found

    def _missing(self, found: dict[tuple[str, str], Record]) -> None:
        """Find what tasks without a record took, or say that nothing is known of them."""
        for task in tasks_of(self.connection, self.run):
            if (task.stage, task.task) in found or task.state not in ("SUCCEEDED", "SKIPPED", "CACHED"):
                continue
            record = self._named(task) or self._earlier(task, found) or self._told(task)
            if record is not None:
                found[task.stage, task.task] = record
            elif task.cached:
                self.warnings.append(
                    f"{task.name}: Kubeflow's cache answered, and no record in {self.named} fits; it is left out"
                )
            else:
                self.warnings.append(f"{task.name}: it ran, and left no record in {self.named}; it is left out")

    def _named(self, task: Task) -> Record | None:
        """The record that the task's artifacts name in their metadata."""
        run, _, file = (task.record or "").partition("/")
        for store in self.stores if file else ():
            for record in store.records(run):
                if file.endswith(f"-{record.id[:12]}.json"):
                    return record
        return None

    def _earlier(self, task: Task, found: Mapping[tuple[str, str], Record]) -> Record | None:
        """The earlier execution whose result the task has: the last of those that fit."""
        known = task.outputs or tuple(_read(task, found.values()))
        asked = values_of(self.params, task.stage, task.task)
        fitting = {
            record.id: record
            for record in (self._makers(known) if known else self._like(task, found))
            if (record.stage, record.task, record.status) == (task.stage, task.task, "succeeded")
            and record.run.id != self.id
            and record.cached_from is None
            and fits(record, asked)
        }
        ordered = sorted(fitting.values(), key=_when)
        if len(ordered) > 1:
            self.warnings.append(
                f"{task.name}: Kubeflow's cache answered, and {len(ordered)} earlier executions fit; shown is the last "
                f"of them, of run {ordered[-1].run.id}"
            )
        return ordered[-1] if ordered else None

    def _makers(self, artifacts: Iterable[Artifact]) -> Iterator[Record]:
        for artifact in artifacts:
            for store in self.stores:
                yield from store.made(artifact.md5)

    def _like(self, task: Task, found: Mapping[tuple[str, str], Record]) -> Iterator[Record]:
        """Executions that read what the task read, as far as that is known from the tasks before it."""
        places = {made_at(r.stage, r.task, a.name): a.md5 for r in found.values() for a in r.outputs}
        inputs = {name: places.get(place) for name, place in read_from(task.stage, task.task).items()}
        if not inputs:  # the first stage reads nothing that has a hash here
            yield from (record for store in self.stores for run in store.runs() for record in store.records(run))
        elif None not in inputs.values():
            for store in self.stores:
                for record in store.used(next(iter(inputs.values())) or ""):
                    if {a.name: a.md5 for a in record.inputs} == inputs:
                        yield record

    def _told(self, task: Task) -> Record | None:
        """What the server alone says of a task: artifacts and what it was asked for."""
        if not task.outputs:
            return None
        self.warnings.append(f"{task.name}: no record of it in {self.named}; shown is what the server knows")
        return Record(
            id=hashlib.md5(f"{self.id}/{task.name}".encode()).hexdigest(),
            run=Run(id=self.id, by="kubeflow"),
            stage=task.stage,
            task=task.task,
            parameters=values_of(self.params, task.stage, task.task),
            inputs=task.inputs or (),
            outputs=task.outputs,
        )

    def _say_state(self) -> None:
        from pipelines.runs import DONE, outcome

        state = outcome(self.run)
        if state not in DONE:
            self.warnings.append(f"run {self.id} is {state}: what it has not done yet is missing")
        elif state != "SUCCEEDED":
            self.warnings.append(f"run {self.id} ended {state}: what it did not do is missing")

    def _asked(self) -> RunRecord:
        for store in self.stores:
            if asked := store.asked(self.id):
                return asked
        return RunRecord(run=Run(id=self.id, by="kubeflow"), params=self.params, started=self.run.created_at)


def parameters_of(run: Any) -> dict[str, Any]:
    """The values of a run's parameters, with the pipeline's defaults for those that were not given."""
    from pipelines.stages import spec_of

    inputs = spec_of(run).get("root", {}).get("inputDefinitions", {}).get("parameters", {})
    defaults = {name: about["defaultValue"] for name, about in inputs.items() if "defaultValue" in about}
    given = (run.runtime_config and run.runtime_config.parameters) or {}
    return dict(unpack({**defaults, **given}))


def _home(values: Mapping[str, Any]) -> str:
    """The lineage store of a run with these parameters; empty where it has none."""
    return f"{values['store']}/{STORE}" if values.get("store") else ""


def _readable(place: str) -> bool:
    return is_remote(place) or Path(place).is_dir()


def _when(record: Record) -> tuple[float, str]:
    return record.started.timestamp() if record.started else 0.0, record.id


def _read(task: Task, records: Iterable[Record]) -> Iterator[Artifact]:
    """What a task made, as those name it that read it."""
    own = {made_at(task.stage, task.task, name) for name in ("out", "timing")}
    for record in records:
        places = read_from(record.stage, record.task)
        for artifact in record.inputs:
            if places.get(artifact.name, artifact.name) in own and not artifact.measured:
                yield artifact
