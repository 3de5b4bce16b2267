"""`python -m components.train_teacher`: see README.md beside this file."""

import argparse
from pathlib import Path

from components.places import location, places
from components.runner import command, read_params


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m components.train_teacher", description="Train a teacher.")
    parser.add_argument("--params", type=location, default=Path("params.yaml"), help="parameters file")
    parser.add_argument("--dataset", type=location, required=True, help="folder made by prepare_data")
    parser.add_argument("--out", type=location, required=True, help="folder to write the teacher to")
    parser.add_argument("--work", type=location, default=Path("work"), help="folder for checkpoints and logs")
    args = parser.parse_args(argv)
    from components.train_teacher.stage import train_teacher  # late: --help answers without torch

    with places("train_teacher") as local:
        params, dataset = read_params(local.fetch(args.params)), local.fetch(args.dataset, "dataset")
        train_teacher(params, dataset, local.out(args.out), args.work, local.publish)


if __name__ == "__main__":
    main()
