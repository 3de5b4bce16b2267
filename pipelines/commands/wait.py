"""`mcm pipeline wait`: look on until a run is over; the exit status says how it ended."""

import argparse
import json
import sys
from collections.abc import Iterator
from typing import Any

from components.runner import command
from pipelines.client import add_connection
from pipelines.watch import add_waiting


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="mcm pipeline wait",
        description="Wait for the end of a run. Exit status: 0 it succeeded, 1 it failed, 2 bad input, 3 it was "
        "cancelled, 4 we stopped looking (--timeout, or the server was lost) and it goes on.",
    )
    parser.add_argument("run", help="id or name of the run, or latest")
    add_waiting(parser)
    add_connection(parser, patience=600)
    args = parser.parse_args(argv)
    from pipelines import runs
    from pipelines.client import Connection, options

    connection = Connection(options(args))
    until_done(connection, runs.find(connection, args.run), args)


def until_done(connection: Any, run_id: str, args: argparse.Namespace) -> None:
    """Wait, with changes on stderr; print how it ended; leave with the exit status of that."""
    from pipelines import watch

    seen: list[Any] = []

    def looks() -> Iterator[Any]:
        for run in watch.snapshots(connection, run_id, args.interval, args.timeout):
            seen[:] = [run]
            yield run

    with watch.looking(run_id):
        watch.lines(connection, looks(), sys.stderr)
    print(json.dumps(watch.summary(connection, seen[0]), indent=2) if args.json else watch.headline(seen[0]))
    sys.exit(watch.exit_status(seen[0]))


if __name__ == "__main__":
    main()
