"""`mcm pipeline submit`: check, copy the images, make one run."""

import argparse
import json
import sys

from components.runner import command
from pipelines.client import add_connection
from pipelines.watch import add_waiting


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="mcm pipeline submit",
        description="Run the pipeline on a Kubeflow cluster. What can be checked without the server is checked first.",
    )
    from pipelines.submission import add_request, checked, send_first, submission

    add_request(parser)
    parser.add_argument("--wait", action="store_true", help="wait for the end, as `mcm pipeline wait` does")
    add_waiting(parser, "with --wait: ")
    add_connection(parser)
    args = parser.parse_args(argv)
    ready = checked(args)
    if args.check:
        return
    from pipelines import runs
    from pipelines.client import Connection, options

    connection = Connection(options(args))
    send_first(args, ready)
    run = runs.create(connection, submission(args, ready))
    made = {"run_id": run.run_id, "name": run.display_name, "link": connection.link(run.run_id)}
    if args.wait:
        from pipelines.commands.wait import until_done

        print(f"{made['name']} ({made['run_id']}): {made['link']}", file=sys.stderr)
        until_done(connection, str(run.run_id), args)
    print(json.dumps(made, indent=2) if args.json else f"{made['run_id']}  {made['name']}  {made['link']}")


if __name__ == "__main__":
    main()
