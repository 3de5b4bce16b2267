"""`python -m components.train_student`: see README.md beside this file."""

import argparse
from pathlib import Path

from components.runner import command, read_params


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m components.train_student", description="Train a few-step student of a teacher."
    )
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameters file")
    parser.add_argument("--method", required=True, help="cd (distillation) or ct (training)")
    parser.add_argument("--student-steps", type=int, required=True, help="network evaluations of the student's sampler")
    parser.add_argument("--dataset", type=Path, required=True, help="folder made by prepare_data")
    parser.add_argument("--teacher", type=Path, required=True, help="folder made by train_teacher")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the student to")
    parser.add_argument("--work", type=Path, default=Path("work"), help="folder for checkpoints and logs")
    args = parser.parse_args(argv)
    from components.train_student.stage import train_student  # late: --help answers without torch

    params = read_params(args.params)
    train_student(params, args.method, args.student_steps, args.dataset, args.teacher, args.out, args.work)


if __name__ == "__main__":
    main()
