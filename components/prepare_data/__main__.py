"""`python -m components.prepare_data --params params.yaml --out artifacts/dataset`"""

import argparse
from pathlib import Path

from components.runner import command, read_params


@command
def main(argv: list[str] | None = None) -> None:
    """Read the section `data` of the parameters and write the data set."""
    parser = argparse.ArgumentParser(prog="python -m components.prepare_data", description="Make a data set.")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="file of parameters (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder to write, replaced as a whole")
    arguments = parser.parse_args(argv)
    from components.prepare_data.stage import prepare_data  # late: --help answers without it

    prepare_data(read_params(arguments.params), arguments.out)


if __name__ == "__main__":
    main()
