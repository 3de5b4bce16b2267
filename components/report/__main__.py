"""`python -m components.report`: see README.md beside this file."""

import argparse
from pathlib import Path

from components.lineage.runs import PARTS
from components.places import location, places
from components.runner import command, read_params


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m components.report", description="Write one page about a teacher and its few-step students."
    )
    parser.add_argument("--params", type=location, default=Path("params.yaml"), help="parameters file")
    parser.add_argument("--artifacts", type=Path, required=True, help="folder that holds what the other stages made")
    parser.add_argument("--out", type=location, required=True, help="folder to write the report to")
    args = parser.parse_args(argv)
    from components.report.stage import report  # late: --help answers without it

    with places("report") as local:
        params, out = read_params(local.fetch(args.params)), local.out(args.out, measured=True)
        for name in _inputs(args.artifacts):
            local.fetch(args.artifacts / name, name.removesuffix(".json"), measured=name.endswith(".json"))
        report(params, args.artifacts, out)


def _inputs(artifacts: Path) -> list[str]:
    """What the other stages made, by its place below `artifacts`."""
    several = sorted(path for folder in PARTS for path in (artifacts / folder).glob("[!.]*"))
    return ["dataset", "teacher", "variance", *(path.relative_to(artifacts).as_posix() for path in several)]


if __name__ == "__main__":
    main()
