"""What the index keeps of a run: enough to list it, to filter by parameter, and to find who made or used an artifact.

Made of every run of a store in one go, so it works on parsed JSON. Only a record that does not look like one is checked
in full, for a message that says what is wrong with it.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic_core import from_json

from components.lineage.record import KIND, VERSION, NewerError, parse_record
from mcm.errors import UserError
from pipelines.lineage.store.places import Files

LINK = struct.Struct(">8sI")  # begin of an artifact's md5, and which of the run's files names it
FID, TEACHER = ".fid", "teacher"


@dataclass(frozen=True)
class Summary:
    """A run in brief. `parameters` are those of each stage, see `_columns`.

    `made`, `taken` and `used` are rows of LINK: outputs of what ran, outputs of what was cached, and inputs.
    `warnings` name the files that were left out; where they are not `lasting`, a file may be mended under its name.
    """

    run: str
    started: float | None  # seconds of the epoch
    facts: dict[str, Any]
    parameters: dict[str, dict[str, Any]]
    files: list[str]
    made: bytes
    taken: bytes
    used: bytes
    warnings: list[str]
    lasting: bool


def parse(data: bytes | OSError, where: str) -> Any:
    """The JSON of a file; UserError where it holds none."""
    if isinstance(data, OSError):
        raise UserError(f"{where}: not readable ({data.strerror}); look at it, or move it out of the store")
    try:
        return from_json(data, cache_strings="keys")  # values differ, and remembering them costs more
    except ValueError:
        raise UserError(f"{where}: cut short or no JSON, and left out; delete it, the others are whole") from None


def all_newer(count: int) -> str:
    """What there is to say of a run that a newer version wrote."""
    return f"all records of this run ({count}) have a newer version than this program reads; upgrade it"


def begin(md5: str) -> bytes:
    """What stands for an artifact in a LINK."""
    return bytes.fromhex(md5[:16])


def summarise(run: str, files: Files, where: str) -> Summary:
    """The records among `files`; what else is there becomes warnings. `where` is the store's place."""
    records: dict[str, dict[str, Any]] = {}
    warnings, newer = [], 0
    for name, data in files.items():
        place = f"{where}/{run}/{name}".rstrip("/")
        try:
            values = parse(data, place)
            if type(values) is not dict or values.get("kind") != KIND or values.get("version") != VERSION:
                parse_record(values, place)
            records[name] = values
        except UserError as error:
            warnings.append(str(error))
            newer += isinstance(error, NewerError)
    lasting = newer == len(warnings)
    if newer and newer == len(files):
        warnings = [f"{where}/{run}: {all_newer(newer)}"]
    try:
        return digest(run, records, warnings, lasting)
    except (KeyError, TypeError, ValueError, AttributeError):
        good = {}
        for name, values in records.items():
            try:
                parse_record(values, f"{where}/{run}/{name}")
                good[name] = values
            except UserError as error:
                warnings.append(str(error))
        return digest(run, good, warnings, False)


def digest(run: str, records: dict[str, dict[str, Any]], warnings: list[str], lasting: bool = True) -> Summary:
    """A run in brief, from its records as JSON by name of their files."""
    begun: list[float] = []
    ended: list[float] = []
    costs: list[float] = []
    made, taken, used = bytearray(), bytearray(), bytearray()
    stages: dict[str, list[dict[str, Any]]] = {}
    tasks: dict[str, list[str]] = {}
    counts = {"executed": 0, "cached": 0, "unfinished": 0}
    fids: dict[str, dict[str, float]] = {"report": {}, "evaluate": {}}  # what measured wins over what repeats it
    last: tuple[float, dict[str, Any]] = (-1.0, {})
    for number, r in enumerate(records.values()):
        stage, task, metrics = r["stage"], r.get("task", ""), r.get("metrics", {})
        stages.setdefault(stage, []).append(r["parameters"])
        tasks.setdefault(stage, []).append(task)
        time = _seconds(r.get("started"))
        if time is not None:
            begun.append(time)
        if (end := _seconds(r.get("ended"))) is not None:
            ended.append(end)
        if (cost := r.get("cost")) is not None:
            costs.append(cost["device_seconds"])
        counts[_how(r)] += 1
        outputs = taken if r.get("cached_from") else made
        for artifact in r["outputs"]:
            outputs += LINK.pack(begin(artifact["md5"]), number)
        for artifact in r["inputs"]:
            used += LINK.pack(begin(artifact["md5"]), number)
        if stage in fids:
            fids[stage].update(_fid(stage, task, metrics))
        if (time or 0.0) >= last[0]:
            last = (time or 0.0, r)
    newest = last[1]
    code, of_run = newest.get("code") or {}, newest.get("run") or {"by": None}
    facts = {
        "by": of_run["by"],
        "experiment": of_run.get("experiment"),
        "ended": max(ended, default=None),
        **counts,
        "device_seconds": sum(costs) if costs else None,
        "commit": code.get("commit"),
        "dirty": code.get("dirty"),
        "stages": tasks,
        "fid": fids["report"] | fids["evaluate"],
    }
    columns = {stage: _columns(rows) for stage, rows in stages.items()}
    links = bytes(made), bytes(taken), bytes(used)
    return Summary(run, min(begun, default=None), facts, columns, list(records), *links, warnings, lasting)


def _how(record: dict[str, Any]) -> str:
    if record.get("status", "succeeded") != "succeeded":
        return "unfinished"
    return "cached" if record.get("cached_from") else "executed"


def _seconds(time: str | None) -> float | None:
    return None if time is None else datetime.fromisoformat(time).timestamp()


def _fid(stage: str, task: str, metrics: dict[str, float]) -> Iterator[tuple[str, float]]:
    """FID by name of the model, and with the sampler where it is not the only one: `cd-4`, `teacher.ddim-64`."""
    found = {name.removesuffix(FID): value for name, value in metrics.items() if name.endswith(FID)}
    for name, value in found.items():
        model, _, sampler = name.partition(".") if stage == "report" else (task or "model", "", name)
        alone = model != TEACHER and (stage == "report" or len(found) == 1)
        yield model if alone or not sampler else f"{model}.{sampler}", value


def _columns(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Parameters of a stage's executions: `same` in all of them, and `differ` by name and number of the execution."""
    first = rows[0]
    names: set[str] = set()
    for row in rows:
        if row != first:
            names.update(name for name, value in row.items() if first.get(name, ...) != value)
            names |= first.keys() - row.keys()
    return {
        "count": len(rows),
        "same": {name: value for name, value in first.items() if name not in names} if names else first,
        "differ": {name: {n: row[name] for n, row in enumerate(rows) if name in row} for name in sorted(names)},
    }


def executions(columns: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The parameters of each execution again, from what `_columns` made of them and JSON kept."""
    for number in map(str, range(columns["count"])):
        own = {name: values[number] for name, values in columns["differ"].items() if number in values}
        yield {**columns["same"], **own}
