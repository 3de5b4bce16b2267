"""Options that the verbs of `mcm study` share."""

import argparse
import tempfile
from pathlib import Path

from mcm.errors import UserError

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
    """Where the page goes, made and found to take files before anything is run; UserError where it does not."""
    return writable(args.out or args.work / "studies" / args.name, "--out" if args.out else "--work")


def writable(folder: Path, option: str) -> Path:
    """`folder`, made if it is not there; UserError that names the option where it takes no files."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise UserError(f"{option} {folder}: {error.strerror}; name a folder that can be written to") from None
