"""`mcm lineage diff`: what changed between two runs, and which cause came first."""

import argparse
import json
import sys
from pathlib import Path

from components.runner import command
from mcm.errors import UserError
from pipelines.client import add_connection
from pipelines.lineage.options import add_stores, stores


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="mcm lineage diff",
        description="What changed between two runs: the state of every stage, and for every changed output the cause "
        "that came first: data, code, image, parameter, seed, library or hardware. A run is a folder or gs:// prefix "
        "of records, `workspace`, a run id or the begin of one, a git revision, a DVC experiment, or a run at the "
        "Kubeflow server. Exit status 0 whatever differs.",
    )
    parser.add_argument("a", metavar="A", help="the run to compare with")
    parser.add_argument("b", metavar="B", help="the run to compare")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--markdown", action="store_true", help="for a pull request")
    how.add_argument("--html", type=Path, metavar="FILE", help="one page that holds all it shows, to open in a browser")
    parser.add_argument(
        "--all", action="store_true", help="in text: notes, details of nodes that gave the same bytes, and every row"
    )
    parser.add_argument("--exit-code", action="store_true", help="exit status 1 where something changed, as git has it")
    add_stores(parser)
    add_connection(parser)
    args = parser.parse_args(argv)
    if args.json and (args.markdown or args.html):
        raise UserError("--json: one form at a time; leave out --markdown and --html")
    from pipelines.lineage.compare import render
    from pipelines.lineage.compare.diff import compare
    from pipelines.lineage.resolve import resolve

    known = stores(args)
    diff = compare(resolve(args.a, known, args), resolve(args.b, known, args)).json()
    if args.json:
        print(json.dumps(diff, indent=2))
    elif args.markdown:
        print(render.as_markdown(diff), end="")
    elif args.html:
        from pipelines.lineage.page.page import write_page
        from pipelines.lineage.page.pictures import sample_grids

        write_page(diff, args.html, sample_grids(diff, known))
        print(f"{args.html}: {render.headline(diff)}")
    else:
        render.show(diff, args.all)
    counts = diff["counts"]
    if args.exit_code and (counts["changed"] or counts["added"] or counts["removed"]):
        sys.exit(1)


if __name__ == "__main__":
    main()
