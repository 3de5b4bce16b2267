"""`mcm pipeline logs`: what the pods of a run wrote."""

import argparse
import json
import sys
from typing import Any

from components.runner import command
from pipelines.client import add_connection


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="mcm pipeline logs",
        description="What the stages of a run wrote: from the pipelines server, else from Kubernetes.",
    )
    parser.add_argument("run", help="id or name of the run, or latest")
    parser.add_argument("stage", nargs="*", help="stage, such as train-teacher or train-student cd-4 (default: all)")
    parser.add_argument("--attempt", type=int, metavar="N", help="the N-th attempt of the stage (default: the last)")
    parser.add_argument("--follow", action="store_true", help="go on until the run, or the stage, is over")
    # The server gives a log as a whole, so following it is asking again.
    parser.add_argument(
        "--interval", type=float, default=5.0, metavar="SECONDS", help="between two looks (%(default).0f)"
    )
    add_connection(parser, patience=600)
    args = parser.parse_args(argv)
    from pipelines import runs
    from pipelines.client import Connection, options

    connection = Connection(options(args))
    run_id = runs.find(connection, args.run)
    stage = " ".join(args.stage) or None
    if args.follow:
        _follow(connection, run_id, stage, args)
    else:
        _print(connection, runs.get(connection, run_id), stage, args.attempt, args.json)


def _print(connection: Any, run: Any, stage: str | None, attempt: int | None, as_json: bool) -> None:
    from mcm.errors import UserError
    from pipelines import logs
    from pipelines.stages import rows

    chosen = logs.choose(rows(run), stage)
    read = []
    for row in chosen:
        if attempt is not None and not 1 <= attempt <= len(row.pods):
            raise UserError(f"stage {row.name}: has {len(row.pods)} attempts; --attempt takes 1 to {len(row.pods)}")
        pod = row.pods[(attempt or len(row.pods)) - 1]
        try:
            read.append((row.name, pod, logs.read(connection, str(run.run_id), row, pod)))
        except UserError as error:
            if len(chosen) == 1:
                raise
            print(f"warning: {error}", file=sys.stderr)  # of all stages, those whose pods are left
    if as_json:
        print(json.dumps([{"stage": name, "pod": pod, "log": text} for name, pod, text in read], indent=2))
        return
    for name, pod, text in read:
        if len(chosen) > 1:
            print(f"== {name} ({pod})")
        print(text, end="" if text.endswith("\n") else "\n")


def _follow(connection: Any, run_id: str, stage: str | None, args: argparse.Namespace) -> None:
    """Print what is new at every look, each line with its stage's name where there are several."""
    from mcm.errors import UserError
    from pipelines import logs, watch
    from pipelines.stages import FINAL, rows

    seen: dict[str, str] = {}
    ended: set[str] = set()
    with watch.looking(run_id):
        for run in watch.snapshots(connection, run_id, args.interval):
            stages = [row for row in rows(run) if stage is None or stage in (row.name, row.stage, row.student)]
            if not stages:
                logs.choose(rows(run), stage)  # says which stages there are
            for row, pod in [(stage_row, pod) for stage_row in stages for pod in stage_row.pods if pod not in ended]:
                if row.state in FINAL or pod != row.pod:
                    ended.add(pod)
                try:
                    text = logs.read(connection, run_id, row, pod)
                except UserError as error:
                    # A pod that comes or a server that is lost is asked again; one that ended unread is gone.
                    if pod in ended and pod not in seen:
                        print(f"warning: {error}", file=sys.stderr)
                    continue
                _say(logs.fresh(text, seen.get(pod, "")), row.name, pod, len(stages) > 1, args.json)
                seen[pod] = text
            if stage is not None and all(row.state in FINAL for row in stages):
                return


def _say(text: str, name: str, pod: str, several: bool, as_json: bool) -> None:
    if as_json and text:
        print(json.dumps({"stage": name, "pod": pod, "log": text}), flush=True)
    elif text and several:
        print("\n".join(f"{name} | {line}" for line in text.splitlines()), flush=True)
    elif text:
        print(text, end="", flush=True)


if __name__ == "__main__":
    main()
