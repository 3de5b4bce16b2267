"""Which lineage stores a command reads."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from components.lineage.runs import OFF, PLACE, STORE
from components.storage import is_remote
from mcm.errors import UserError

if TYPE_CHECKING:
    from pipelines.lineage.store.records import LineageStore

USUAL = (f"artifacts/{STORE}", f"work/pipeline/store/{STORE}")  # of DVC and `mcm`, and of local pipeline runs


def add_stores(parser: argparse.ArgumentParser) -> None:
    """The option `--store`."""
    parser.add_argument(
        "--store",
        action="append",
        metavar="PLACE",
        help=f"a lineage store, a folder or gs:// prefix; may come several times (default: {', '.join(USUAL)} and "
        f"${PLACE}, those that are there)",
    )


def stores(args: argparse.Namespace) -> "list[LineageStore]":
    """The stores that were asked for, or the usual ones that exist. UserError for a folder that is not there."""
    from pipelines.lineage.store.records import LineageStore  # late: --help answers without it

    for place in args.store or ():
        if not is_remote(place) and not Path(place).is_dir():
            raise UserError(f"{place}: no such lineage store; a stage makes one named {STORE} beside its output")
        if not is_remote(place) and (Path(place) / STORE).is_dir():
            raise UserError(f"{place}: not a lineage store itself; did you mean {Path(place) / STORE}?")
    named = os.environ.get(PLACE, "")
    usual = [*USUAL, *([named] if named and named != OFF else [])]
    places = args.store or [place for place in usual if is_remote(place) or Path(place).is_dir()]
    return [LineageStore(place) for place in dict.fromkeys(str(place).rstrip("/") or "/" for place in places)]
