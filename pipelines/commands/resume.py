"""`mcm pipeline resume`: let a run that failed or was cancelled go on."""

import argparse
import json

from components.runner import command
from mcm.errors import UserError
from pipelines.client import add_connection
from pipelines.watch import add_waiting


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="mcm pipeline resume",
        description="Run again what failed in a run, under the same id. What is done stays done, and training goes on "
        "from its newest checkpoint.",
    )
    parser.add_argument("run", help="id or name of the run, or latest")
    parser.add_argument("--wait", action="store_true", help="wait for the end, as `mcm pipeline wait` does")
    add_waiting(parser, "with --wait: ")
    add_connection(parser)
    args = parser.parse_args(argv)
    from pipelines import runs
    from pipelines.client import Connection, options

    connection = Connection(options(args))
    run_id = runs.find(connection, args.run)
    state = runs.outcome(runs.get(connection, run_id))
    if state not in ("FAILED", "CANCELED"):
        raise UserError(f"run {run_id}: is {state}; only a run that failed or was cancelled is resumed")
    runs.resume(connection, run_id)
    if args.wait:
        from pipelines.commands.wait import until_done

        until_done(connection, run_id, args)
    told = {"run_id": run_id, "state": runs.outcome(runs.get(connection, run_id)), "link": connection.link(run_id)}
    print(json.dumps(told, indent=2) if args.json else f"{run_id}: {told['state']}  {told['link']}")


if __name__ == "__main__":
    main()
