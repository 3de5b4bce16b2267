"""Options that the verbs of `mcm study` share."""

import argparse
from pathlib import Path

STUDIES = Path(__file__).parents[2] / "studies"
WORK = Path("work")


def add_places(parser: argparse.ArgumentParser) -> None:
    """`--studies` and `--work`."""
    parser.add_argument(
        "--studies", type=Path, default=STUDIES, metavar="FOLDER", help="where studies are (default: the project's)"
    )
    parser.add_argument(
        "--work", type=Path, default=WORK, metavar="FOLDER", help="what was made, for all studies (default: work)"
    )


def add_study(parser: argparse.ArgumentParser) -> None:
    """The name of a study, and where its page goes."""
    parser.add_argument("name", metavar="NAME", help="a study; `mcm study list` has them")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where the page goes (default: WORK/studies/NAME)")
    add_places(parser)


def out_folder(args: argparse.Namespace) -> Path:
    """Where the page goes."""
    return args.out or args.work / "studies" / args.name
