"""`python -m components.prepare_data --params params.yaml --out artifacts/dataset`"""

import argparse
from pathlib import Path

from components.places import location, places
from components.runner import command, read_params


@command
def main(argv: list[str] | None = None) -> None:
    """Read the section `data` of the parameters and write the data set."""
    parser = argparse.ArgumentParser(prog="python -m components.prepare_data", description="Make a data set.")
    parser.add_argument("--params", type=location, default=Path("params.yaml"), help="file of parameters (%(default)s)")
    parser.add_argument("--out", type=location, required=True, help="folder to write, replaced as a whole")
    parser.add_argument("--workers", type=int, help="threads that decode and resize (default: one for each core)")
    arguments = parser.parse_args(argv)
    from components.prepare_data.stage import prepare_data  # late: --help answers without it

    with places("prepare_data") as local:
        prepare_data(read_params(local.fetch(arguments.params)), local.out(arguments.out), arguments.workers)


if __name__ == "__main__":
    main()
