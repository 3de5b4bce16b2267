"""`mcm pipeline status`: the stages of a run as a table, redrawn while it goes."""

import argparse
import sys

from components.runner import command
from pipelines.client import add_connection


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="mcm pipeline status",
        description="The stages of a run. On a terminal the table is redrawn until the run is over; elsewhere it is "
        "printed once. Exit status 4: the server was lost, and the run goes on.",
    )
    parser.add_argument("run", nargs="?", default="latest", help="id or name of the run (default: the latest)")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--once", action="store_true", help="print once, on a terminal too")
    how.add_argument("--follow", action="store_true", help="a line for every change, until the run is over")
    parser.add_argument(
        "--interval", type=float, default=5.0, metavar="SECONDS", help="between two looks (%(default).0f)"
    )
    add_connection(parser, patience=600)
    args = parser.parse_args(argv)
    from pipelines import runs, watch
    from pipelines.client import Connection, options

    connection = Connection(options(args))
    run_id = runs.find(connection, args.run)
    redraw = sys.stdout.isatty() and not args.json
    if args.once or not (args.follow or redraw):
        watch.show(connection, runs.get(connection, run_id), args.json)
        return
    looks = watch.snapshots(connection, run_id, args.interval)
    with watch.looking(run_id):
        if redraw:
            watch.live(looks)
        else:
            watch.lines(connection, looks, sys.stdout, args.json)


if __name__ == "__main__":
    main()
