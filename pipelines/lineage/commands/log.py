"""`mcm lineage log`: all runs, with their FID by number of network evaluations."""

import argparse
import csv
import io
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from components.runner import command
from mcm.errors import UserError
from pipelines.lineage.options import add_stores, stores
from pipelines.tokens import duration

if TYPE_CHECKING:
    from pipelines.lineage.log import Entry

LIMIT = 30
WIDE = 10_000  # columns where there is no terminal
TEACHER = "teacher"
COLUMNS = (
    *("run", "revision", "store", "by", "experiment", "started", "ended"),
    *("executed", "cached", "unfinished", "device_seconds", "commit", "dirty"),
)


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="mcm lineage log",
        description="All runs and DVC's history, newest first: which stages ran or were cached, the time of devices "
        "they took, the commit (* where files differed from it), and FID of the teacher and of each student. The "
        "teacher's is that of its first sampler.",
    )
    parser.add_argument("--stage", metavar="NAME", help="only runs with this stage, such as train_student")
    parser.add_argument(
        "--param",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="only runs in which a stage had this parameter; also !=, <, >, <=, >=. May come several times: one "
        "execution must fit all of them, of the stage if one is named",
    )
    parser.add_argument("--artifact", metavar="MD5", help="only runs that made or used this artifact")
    parser.add_argument("--since", metavar="DATE", help="only runs that began then or later, such as 2026-11-21")
    parser.add_argument("--until", metavar="DATE", help="only runs that began then or before")
    parser.add_argument("--by", choices=("dvc", "kubeflow", "mcm"), help="only runs of this kind")
    parser.add_argument("--limit", type=int, default=LIMIT, metavar="N", help="how many (default: %(default)s; 0: all)")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="print as JSON")
    how.add_argument("--csv", action="store_true", help="print as CSV")
    add_stores(parser)
    args = parser.parse_args(argv)
    from pipelines.lineage import log

    if args.limit < 0:
        raise UserError(f"--limit {args.limit}: not a number of runs; give 1 or more, or 0 for all")
    filters = log.Filters(
        stage=args.stage,
        conditions=tuple(log.Condition.parse(text) for text in args.param),
        artifact=None if args.artifact is None else log.artifact(args.artifact),
        since=None if args.since is None else log.seconds("--since", args.since),
        until=None if args.until is None else log.seconds("--until", args.until),
        by=args.by,
    )
    read = stores(args)
    found = log.entries(read, filters, args.limit)
    for line in dict.fromkeys(line for store in read for line in store.warnings):
        print(f"warning: {line}", file=sys.stderr)
    if args.json:
        _print("[\n" + ",\n".join(json.dumps(entry.json(), ensure_ascii=False) for entry in found) + "\n]\n")
    elif args.csv:
        _print(_csv(found))
    elif found:
        _print("".join(f"{line}\n" for line in _table(found, shutil.get_terminal_size((WIDE, 0)).columns)))
    else:
        print(_nothing(read, filters != log.Filters()), file=sys.stderr)


def _nothing(read: Sequence[Any], filtered: bool) -> str:
    if filtered:
        return "no run fits these filters"
    places = ", ".join(str(store.place) for store in read)
    return f"{places or 'no lineage store here'}: no runs yet; `dvc repro` or a stage writes the first, or name --store"


def _table(found: Sequence["Entry"], width: int) -> Iterator[str]:
    """Plain text in columns; of the models, as many as fit."""
    rows = [("run", "began", "by", "stages", "cost", "commit"), *map(_cells, found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    models = sorted({name.partition(".")[0] for entry in found for name in entry.facts["fid"]}, key=_order)
    columns: list[list[str]] = []
    room = width - sum(widths) - 2 * (len(widths) - 1)
    for model in models:
        column = [model, *(_figure(entry, model) for entry in found)]
        size = max(map(len, column))
        room -= size + 2
        if room < 0:
            break
        columns.append([f"{cell:>{size}}" for cell in column])
    for number, row in enumerate(rows):
        cells = [f"{cell:<{size}}" for cell, size in zip(row, widths, strict=True)]
        yield "  ".join([*cells, *(column[number] for column in columns)]).rstrip()
    if len(columns) < len(models):
        yield f"not shown, for want of room: FID of {', '.join(models[len(columns) :])}; --json and --csv have all"


def _cells(entry: "Entry") -> tuple[str, ...]:
    facts = entry.facts
    began = "" if entry.started is None else f"{datetime.fromtimestamp(entry.started):%Y-%m-%d %H:%M}"
    by = " ".join(filter(None, [facts["by"], facts["experiment"] if facts["experiment"] != entry.run else None]))
    if entry.revision:
        stages = f"{facts['executed']} locked"
    else:
        counts = [("executed", ""), ("cached", " cached"), ("unfinished", " unfinished")]
        stages = " + ".join(f"{facts[key]}{word}" for key, word in counts if facts[key])
    cost = "" if facts["device_seconds"] is None else duration(facts["device_seconds"])
    commit = (facts["commit"] or "")[:7] + ("*" if facts["dirty"] else "")
    return entry.run, began, by, stages, cost, commit


def _figure(entry: "Entry", model: str) -> str:
    """FID of a model; of several samplers, the first."""
    values = (value for name, value in entry.facts["fid"].items() if name.partition(".")[0] == model)
    value = next(values, None)
    return "" if value is None else f"{value:.2f}" if value < 100 else f"{value:.1f}"


def _order(model: str) -> tuple[bool, str, int]:
    """The teacher first, then `cd-2` before `cd-10`."""
    match = re.fullmatch(r"(.*)-(\d+)", model)
    return (model != TEACHER, match[1], int(match[2])) if match else (model != TEACHER, model, 0)


def _csv(found: Sequence["Entry"]) -> str:
    """A run a line; a column for FID of each model, or model and sampler."""
    met = dict.fromkeys(name for entry in found for name in entry.facts["fid"])
    fids = sorted(met, key=lambda name: _order(name.partition(".")[0]))  # the teacher's samplers as they were given
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, *fids])
    for entry in found:
        values, measured = entry.json(), entry.facts["fid"]
        writer.writerow([*(values[name] for name in COLUMNS), *(measured.get(name) for name in fids)])
    return text.getvalue()


def _print(text: str) -> None:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has seen enough; without this, Python would complain once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
