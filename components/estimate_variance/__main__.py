"""`python -m components.estimate_variance`: see README.md beside this file."""

import argparse
from pathlib import Path

from components.places import location, places
from components.runner import command, read_params


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m components.estimate_variance", description="Measure the posterior variance that aDDIM needs."
    )
    parser.add_argument("--params", type=location, default=Path("params.yaml"), help="parameters file")
    parser.add_argument("--dataset", type=location, required=True, help="folder made by prepare_data")
    parser.add_argument("--teacher", type=location, required=True, help="folder made by train_teacher")
    parser.add_argument("--out", type=location, required=True, help="folder to write the table to")
    args = parser.parse_args(argv)
    from components.estimate_variance.stage import estimate_variance  # late: --help answers without torch

    with places("estimate_variance") as local:
        params, dataset = local.fetch(args.params), local.fetch(args.dataset, "dataset")
        teacher = local.fetch(args.teacher, "teacher")
        estimate_variance(read_params(params), dataset, teacher, local.out(args.out))


if __name__ == "__main__":
    main()
