"""What a user calls a run: a folder of records, the workspace, a run id, a git revision, an experiment, a KFP run."""

import argparse
import difflib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from components.lineage.record import Artifact, Record
from components.lineage.runs import STORE
from components.storage import is_remote
from components.storage.objects import SUFFIX
from mcm.errors import UserError
from pipelines.client import HOST
from pipelines.lineage.dvc.history import WORKSPACE, git, history, lock_records
from pipelines.lineage.dvc.lock import LOCK
from pipelines.lineage.graph import Graph, build
from pipelines.lineage.match import LAST, best, complete, made
from pipelines.lineage.part import part
from pipelines.lineage.store.records import LineageStore

MD5 = re.compile(r"[0-9a-f]{32}(\.dir)?")
PREFIX = 6  # fewest characters that may stand for a run id
LISTED = 3  # names in an error

__all__ = ["Found", "complete", "find_artifact", "is_artifact", "resolve"]


@dataclass
class _Search:
    """One name, where it was looked for so far, and what else it may have meant."""

    name: str
    stores: Sequence[LineageStore]
    args: argparse.Namespace | None
    looked: list[str] = field(default_factory=list)
    near: list[str] = field(default_factory=list)
    failure: str = ""  # says more than that nothing was found

    def unknown(self) -> UserError:
        """Nothing has that name."""
        if self.failure:
            return UserError(self.failure)
        close = difflib.get_close_matches(self.name, self.near, n=1)
        hint = f"did you mean '{close[0]}'? " if close else ""
        looked = f"{'L' if hint else 'l'}ooked at {', '.join(self.looked)}"
        return UserError(f"{self.name}: no such run; {hint}{looked}; `mcm lineage log` lists the runs")


def resolve(name: str, stores: Sequence[LineageStore], args: argparse.Namespace | None = None) -> Graph:
    """The graph of the run that a user calls `name`, completed from `stores` by the earlier runs that it took from.

    `args` may hold the options of `pipelines.client.add_connection`: a name that nothing here has is then asked of that
    server. UserError where nothing has that name, or several things.
    """
    if is_artifact(name):
        raise UserError(f"{name}: names an artifact; `mcm lineage show {name}` says which runs made and used it")
    search = _Search(name, stores, args)
    for look in (_folder, _workspace, _run, _revision, _experiment, _server):
        if (graph := look(search)) is not None:
            return graph
    raise search.unknown()


def is_artifact(name: str) -> bool:
    """Whether this is the md5 of an artifact."""
    return MD5.fullmatch(name) is not None and not Path(name).exists()


def _folder(search: _Search) -> Graph | None:
    """A folder or prefix that holds records: of one run, or a store with one run."""
    if not is_remote(search.name) and not Path(search.name).is_dir():
        return None
    place = search.name.rstrip("/") if is_remote(search.name) else Path(search.name).absolute().as_posix()
    above, _, last = place.rpartition("/")
    around = LineageStore(above) if is_remote(above) == is_remote(place) else None
    if around is not None and (records := around.records(last)):
        # Earlier runs are looked for in a store alone: a copy of a run's folder may lie among anything.
        beside = [around] if PurePath(above).name == STORE else []
        return _of_run(search.name, last, records, [*beside, *search.stores], around)
    store = LineageStore(place)
    runs = store.runs()
    if len(runs) > 1:
        raise UserError(f"{search.name}: holds {len(runs)} runs; name one of them: {_some(runs)}")
    if runs and (records := store.records(runs[0])):
        return _of_run(search.name, runs[0], records, [store, *search.stores], store)
    search.looked.append("that folder, which holds no records")
    search.failure = f"{search.name}: holds no lineage records; name the folder of a run, or a store with one run"
    return None


def _workspace(search: _Search) -> Graph | None:
    return _of_lock(search, lock_records(), WORKSPACE) if search.name == WORKSPACE else None


def _run(search: _Search) -> Graph | None:
    """A run of the stores by its id or the begin of it."""
    run = search.name
    if not any(store.has(run) for store in search.stores):
        listed = {str(store.place): store.runs() for store in search.stores}
        search.looked += [f"{len(runs)} runs in {place}" for place, runs in listed.items()] or ["no lineage store"]
        search.near += [run for runs in listed.values() for run in runs]
        begun = sorted({other for other in search.near if other.startswith(run)})
        if len(run) < PREFIX or not begun:
            return None
        if len(begun) > 1:
            search.failure = f"{run}: {len(begun)} runs begin like this: {_some(begun)}; give more of the id"
            return None
        run = begun[0]
    owners = [store for store in search.stores if store.has(run)]
    records = {record.id: record for store in owners for record in store.records(run)}
    if not records:
        raise UserError(f"{run}: no record of this run can be read{_why(owners)}")
    return _of_run(search.name, run, list(records.values()), search.stores, *owners)


def _revision(search: _Search) -> Graph | None:
    try:
        commit = git.find_commit(search.name)
        search.near += git.references()
    except git.NoRepositoryError as error:
        search.looked.append(f"git ({str(error).partition(';')[0]})")
        return None
    if commit is None:
        search.looked.append("git revisions")
        return None
    return _of_lock(search, lock_records(search.name), commit)


def _experiment(search: _Search) -> Graph | None:
    try:
        found = git.experiments()
    except git.NoRepositoryError:
        return None
    named = [commit for commit in found if commit.experiment == search.name]
    search.looked.append(f"{len(found)} DVC experiments")
    search.near += [commit.experiment or "" for commit in found]
    if len({commit.id for commit in named}) > 1:
        commits = _some([commit.id[:9] for commit in named])
        raise UserError(f"{search.name}: {len(named)} experiments have that name; name a commit instead: {commits}")
    return _of_lock(search, lock_records(named[0].id), named[0].id) if named else None


def _server(search: _Search) -> Graph | None:
    """A run at a Kubeflow server, where one is known."""
    host = getattr(search.args, "host", None) or os.environ.get(HOST) or os.environ.get("KF_PIPELINES_ENDPOINT")
    if not host:
        search.looked.append("no Kubeflow server (--host)")
        return None
    from pipelines.lineage.kubeflow.runs import run_graph  # late: needs kfp

    return run_graph(search.name, search.stores, search.args)


def _of_run(name: str, run: str, records: list[Record], stores: Sequence[LineageStore], *homes: LineageStore) -> Graph:
    """A run whose records are in the stores `homes`; `stores` know earlier ones."""
    asked = next((found for store in homes if (found := store.asked(run)) is not None), None)
    completed = complete(records, stores)
    return build(name, records[0].run.by, run, completed, asked, _warnings([*homes, *stores]))


def _of_lock(search: _Search, partial: list[Record], run: str) -> Graph:
    """The stages of a lock, each with the execution that it stands for; `reused` are those of earlier runs than the
    latest."""
    records = [best(record, search.stores) or record for record in partial]
    timed = [record for record in records if record.started is not None]
    latest = max(timed, key=lambda record: (record.started, record.id)).run.id if timed else None
    earlier = [record.id for record in timed if record.run.id != latest]
    completed = complete(records, search.stores, earlier)
    return build(search.name, "dvc", run, completed, warnings=_warnings(search.stores))


def _warnings(stores: Sequence[LineageStore]) -> list[str]:
    return list(dict.fromkeys(warning for store in stores for warning in store.warnings))


def _why(stores: Sequence[LineageStore]) -> str:
    warnings = _warnings(stores)
    return f"; {warnings[0]}" if warnings else "; look into its folder"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


@dataclass(frozen=True)
class Found:
    """An artifact: the executions that made and used it, newest first, and the graph of all that led to it."""

    artifact: Artifact
    made: tuple[Record, ...]
    used: tuple[Record, ...]
    graph: Graph


def find_artifact(name: str, stores: Sequence[LineageStore]) -> Found:
    """The artifact with an md5 (a folder's `.dir` may be left out), from the stores, and where they do not know who
    made it, from DVC's history. UserError where nothing knows it.
    """
    wanted = (name,) if name.endswith(SUFFIX) else (name, f"{name}{SUFFIX}")
    makers = [record for md5 in wanted for record in made(stores, md5)]
    users = {record.id: record for md5 in wanted for store in stores for record in store.used(md5)}
    partial, run = ([], "") if makers else _lock_with(wanted)
    known = [best(record, stores) or record for record in partial]
    makers += [record for record in known if any(artifact.md5 in wanted for artifact in record.outputs)]
    users |= {record.id: record for record in known if any(artifact.md5 in wanted for artifact in record.inputs)}
    named = [a for record in (*makers, *users.values()) for a in (*record.outputs, *record.inputs) if a.md5 in wanted]
    if not named:
        places = ", ".join(str(store.place) for store in stores) or "no lineage store"
        raise UserError(
            f"{name}: no run made or used an artifact with this md5; looked at {places} and the history of {LOCK}, "
            "name another store with --store"
        )
    if makers and run:
        whole = _of_lock(_Search(name, stores, None), partial, run)
        graph = part(whole, up=next(key for key, node in whole.nodes.items() if node.record.id == makers[0].id))
    else:
        led = complete(makers[:1], stores)
        graph = build(name, (makers or [*users.values()])[0].run.by, run or name, led, warnings=_warnings(stores))
    newest = sorted(users.values(), key=lambda record: record.ended or LAST, reverse=True)
    return Found(named[0], tuple(makers), tuple(newest), graph)


def _lock_with(wanted: Sequence[str]) -> tuple[list[Record], str]:
    """The records of the newest lock that names an artifact, and the id of its revision; empty where none does."""
    if Path(LOCK).is_file() and wanted[0] in Path(LOCK).read_text(errors="replace"):
        return lock_records(), WORKSPACE
    revision = next(history(containing=wanted[0]), None)
    return (list(revision.records), revision.commit.id) if revision else ([], "")
