"""`python -m components.train_teacher`: see README.md beside this file."""

import argparse
from pathlib import Path

from components.runner import command, read_params


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m components.train_teacher", description="Train a teacher.")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameters file")
    parser.add_argument("--dataset", type=Path, required=True, help="folder made by prepare_data")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the teacher to")
    parser.add_argument("--work", type=Path, default=Path("work"), help="folder for checkpoints and logs")
    args = parser.parse_args(argv)
    from components.train_teacher.stage import train_teacher  # late: --help answers without torch

    train_teacher(read_params(args.params), args.dataset, args.out, args.work)


if __name__ == "__main__":
    main()
