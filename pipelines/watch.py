"""Looking on while a run goes: through lost connections and rotated tokens, as a table, as lines or as JSON."""

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, TextIO

from mcm.errors import UserError
from pipelines.client import ApiError, Connection, pauses
from pipelines.runs import DONE, get, outcome
from pipelines.stages import Row, rows
from pipelines.tokens import duration

INTERVAL = 5.0  # seconds between two looks
RENEWAL = 60.0  # seconds in which a refused token may be rotated
SUCCEEDED, FAILED, CANCELED, STILL_RUNNING = 0, 1, 3, 4  # exit statuses of waiting; 2 is bad input, as everywhere
COLOURS = {"SUCCEEDED": "green", "RUNNING": "cyan", "FAILED": "red", "CANCELED": "yellow", "CANCELING": "yellow"}


class LostSightError(UserError):
    """We stopped looking, and the run goes on."""


@contextlib.contextmanager
def looking(run_id: str) -> Iterator[None]:
    """Leaving early leaves the run alone, and says so."""
    try:
        yield
    except LostSightError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(STILL_RUNNING)
    except KeyboardInterrupt:
        print(f"interrupted; {_goes_on(run_id)}", file=sys.stderr)
        sys.exit(130)


def add_waiting(parser: argparse.ArgumentParser, only: str = "") -> None:
    """How long to wait, and how often to look."""
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help=f"{only}stop waiting after this long")
    parser.add_argument(
        "--interval", type=float, default=INTERVAL, metavar="SECONDS", help="between two looks (%(default).0f)"
    )


def snapshots(connection: Connection, run_id: str, interval: float, timeout: float | None = None) -> Iterator[Any]:
    """The run at every look, the last time when it is over. LostSightError after `timeout` seconds, or when the server
    was lost for `connection.patience`."""
    begun = good = time.monotonic()
    pause = pauses()
    while True:
        now = time.monotonic()
        left = None if timeout is None else begun + timeout - now
        try:
            run = get(connection, run_id, patient=False)
        except ApiError as error:
            bound = connection.patience if error.transient else RENEWAL if connection.may_renew(error) else None
            if bound is None:
                raise
            wait = next(pause)
            if now + wait > good + bound or (left is not None and wait > left):
                raise LostSightError(f"{error}; {_goes_on(run_id)}") from None
            print(f"{error}; trying again", file=sys.stderr)
        else:
            good, pause, wait = now, pauses(), interval
            yield run
            if outcome(run) in DONE:
                return
            if left is not None and wait > left:
                raise LostSightError(f"run {run_id}: {outcome(run)} after {duration(timeout or 0)}; {_goes_on(run_id)}")
        time.sleep(wait)


def _goes_on(run_id: str) -> str:
    return f"the run goes on, and `mcm pipeline wait {run_id}` looks again"


def exit_status(run: Any) -> int:
    """Of waiting for a run that is over."""
    return {"SUCCEEDED": SUCCEEDED, "SKIPPED": SUCCEEDED, "CANCELED": CANCELED}.get(outcome(run), FAILED)


def summary(connection: Connection, run: Any, stages: list[Row] | None = None) -> dict[str, Any]:
    """A run for machines."""
    return {
        "run_id": run.run_id,
        "name": run.display_name,
        "state": outcome(run),
        "created": _iso(run.created_at),
        "finished": _iso(run.finished_at),
        "message": str((run.error and run.error.message) or ""),
        "link": connection.link(str(run.run_id)),
        "stages": [row.json() for row in (rows(run) if stages is None else stages)],
    }


def headline(run: Any) -> str:
    """One line: name, id, state, how long."""
    begun, over = _real(run.created_at), _real(run.finished_at)
    took = f", {duration(((over or datetime.now(UTC)) - begun).total_seconds())}" if begun else ""
    said = f": {run.error.message}" if run.error and run.error.message else ""
    return f"{run.display_name} ({run.run_id}): {outcome(run)}{took}{said}"


def table(run: Any) -> Any:
    """The stages as a rich table."""
    from rich.table import Table
    from rich.text import Text

    now = datetime.now(UTC)
    grid = Table(title=headline(run), title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("stage", "state", "started", "took", "tries", "pod", ""):
        grid.add_column(column, no_wrap=column in ("stage", "state"), overflow="fold", justify="left")
    for row in rows(run):
        seconds = row.seconds(now)
        tries = f"{row.attempts}/{row.attempts_allowed}" if row.attempts else ""
        grid.add_row(
            Text(row.name),
            Text("CACHED" if row.cached else row.state, style=COLOURS.get(row.state, "dim")),
            row.started.astimezone().strftime("%m-%d %H:%M:%S") if row.started else "",
            duration(seconds) if seconds is not None and not row.cached else "",
            tries,
            Text(row.pod or ""),
            Text(row.message),
        )
    return grid


def show(connection: Connection, run: Any, as_json: bool) -> None:
    """One snapshot on stdout."""
    if as_json:
        print(json.dumps(summary(connection, run), indent=2))
        return
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=200)
    console.print(table(run))


def live(looks: Iterator[Any]) -> None:
    """Redraw the table at every look until the run is over."""
    from rich.live import Live

    with Live(auto_refresh=False, vertical_overflow="visible") as display:
        for run in looks:
            display.update(table(run), refresh=True)


def lines(connection: Connection, looks: Iterator[Any], to: TextIO, as_json: bool = False) -> None:
    """A line for every change of a stage or of the run; with JSON, the whole run for every change."""
    before: dict[str, str] = {}
    for run in looks:
        stages = rows(run)
        states = {row.name: _line(row) for row in stages} | {"": outcome(run)}
        if as_json and states != before:
            print(json.dumps(summary(connection, run, stages)), file=to, flush=True)
        elif states != before:
            for row in stages:
                if row.state != "WAITING" and before.get(row.name) != states[row.name]:
                    print(states[row.name], file=to, flush=True)
            if before.get("") != states[""]:
                print(headline(run), file=to, flush=True)
        before = states


def _line(row: Row) -> str:
    tries = f", attempt {row.attempts} of {row.attempts_allowed}" if row.attempts > 1 else ""
    said = f": {row.message}" if row.message else ""
    return f"{row.name}: {'CACHED' if row.cached else row.state}{tries}{said}"


def _real(moment: datetime | None) -> datetime | None:
    return moment if moment is not None and moment.year > 2000 else None


def _iso(moment: datetime | None) -> str | None:
    real = _real(moment)
    return real.isoformat() if real else None
