"""Put records into a lineage store: one file each, whole or not at all, and never changed."""

import json
import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.lineage.record import Cost, Origin, Record, RunRecord, parse_record
from components.lineage.runs import this_run
from components.storage import list_names, read_bytes, write_bytes
from mcm.errors import UserError


def keep(place: Path | str, record: Record) -> str:
    """Add a record to a store. Its name there."""
    name = record_name(record)
    write_bytes(f"{place}/{name}", record.model_dump_json(indent=1).encode() + b"\n", if_absent=True)
    return name


def record_name(record: Record) -> str:
    """`<run>/<stage>-<task>-<begin of the id>.json`."""
    words = [record.stage, *filter(None, ["".join(c if c.isalnum() or c in "._-" else "_" for c in record.task)])]
    return f"{record.run.id}/{'-'.join([*words, record.id[:12]])}.json"


def keep_run(place: Path | str, run: RunRecord) -> None:
    """Add what a run was asked for; a second time it stays as it is."""
    write_bytes(f"{place}/{run.run.id}/run.json", run.model_dump_json(indent=1).encode() + b"\n", if_absent=True)


def find(place: Path | str, run: str, record_id: str) -> str | None:
    """Name of a record in a store, from its run and id."""
    end = f"-{record_id[:12]}.json"
    return next((f"{run}/{name}" for name in list_names(f"{place}/{run}") if name.endswith(end)), None)


def keep_taken(place: Path | str, origin: str) -> str | None:
    """Record that a task took the result of an earlier execution, whose record is `origin` in this store."""
    try:
        earlier = parse_record(json.loads(read_bytes(f"{place}/{origin}")), f"{place}/{origin}")
    except (UserError, ValueError) as error:
        print(f"warning: no lineage record of what was taken: {error}", file=sys.stderr)
        return None
    now = datetime.now(UTC)
    values: dict[str, Any] = {
        "id": uuid.uuid4().hex,
        "run": this_run(),
        "started": now,
        "ended": now,
        "cost": Cost(seconds=0, device_seconds=0),
        "cached_from": Origin(run=earlier.run.id, record=earlier.id),
    }
    return keep(place, earlier.model_copy(update=values))
