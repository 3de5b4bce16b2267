"""`python -m components.evaluate`: see README.md beside this file."""

import argparse
from pathlib import Path

from components.runner import command, read_params


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m components.evaluate", description="Sample a teacher or a student and measure the samples."
    )
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameters file")
    parser.add_argument("--model", type=Path, required=True, help="folder made by train_teacher or train_student")
    parser.add_argument("--dataset", type=Path, required=True, help="folder made by prepare_data")
    parser.add_argument("--variance", type=Path, help="folder made by estimate_variance, for samplers that read it")
    parser.add_argument("--out", type=Path, required=True, help="folder to write figures and pictures to")
    parser.add_argument("--timing", type=Path, required=True, help="file to write the measured durations to")
    parser.add_argument("--work", type=Path, default=Path("work"), help="folder for cached features")
    args = parser.parse_args(argv)
    from components.evaluate.stage import evaluate  # late: --help answers without torch

    evaluate(
        read_params(args.params),
        args.model,
        args.dataset,
        args.out,
        args.timing,
        args.variance,
        args.out.name,
        args.work,
    )


if __name__ == "__main__":
    main()
