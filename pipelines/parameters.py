"""The parameters of a run: a file, and what the command line changes in it."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from components.runner import read_params
from mcm.errors import UserError


def add_parameters(parser: argparse.ArgumentParser) -> None:
    """The options `--params` and `-S`, as `dvc exp run` has them."""
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameters file (%(default)s)")
    parser.add_argument(
        "-S",
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="changes",
        help="change a parameter, such as teacher.iterations=100; may be given often",
    )


def load(path: Path, changes: Sequence[str] = ()) -> dict[str, Any]:
    """The sections of a parameters file with each change `section.key=value` made; values are YAML."""
    return changed(read_params(path), changes)


def changed(params: dict[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """The sections with each change `section.key=value` made, in place."""
    for change in changes:
        key, equals, text = change.partition("=")
        words = key.strip().lstrip("+").split(".")
        if not equals or len(words) < 2 or not all(words):
            raise UserError(f"-S {change}: not KEY=VALUE; write for example teacher.iterations=100")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise UserError(f"-S {change}: the value is not YAML; quote it") from None
        place: Any = params
        for word in words[:-1]:
            if place.get(word) is None:
                place[word] = {}
            place = place[word]
            if not isinstance(place, dict):
                raise UserError(f"-S {change}: '{word}' holds a value and no keys; change it as a whole")
        place[words[-1]] = value
    return params
