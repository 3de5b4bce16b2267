"""`mcm pipeline cancel`: stop a run."""

import argparse
import json

from components.runner import command
from mcm.errors import UserError
from pipelines.client import add_connection


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="mcm pipeline cancel",
        description="Stop a run. Training stages write a checkpoint first, and `mcm pipeline resume` goes on from it.",
    )
    parser.add_argument("run", help="id or name of the run, or latest")
    add_connection(parser)
    args = parser.parse_args(argv)
    from pipelines import runs
    from pipelines.client import Connection, options

    connection = Connection(options(args))
    run_id = runs.find(connection, args.run)
    state = runs.outcome(runs.get(connection, run_id))
    if state in runs.DONE:
        raise UserError(f"run {run_id}: is over ({state}), and there is nothing to cancel")
    runs.cancel(connection, run_id)
    told = {"run_id": run_id, "state": runs.outcome(runs.get(connection, run_id))}
    print(json.dumps(told) if args.json else f"{run_id}: {told['state']}")


if __name__ == "__main__":
    main()
