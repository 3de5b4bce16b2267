"""`python -m components.train_student`: see README.md beside this file."""

import argparse
from pathlib import Path

from components.places import location, places
from components.runner import command, read_params


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m components.train_student", description="Train a few-step student of a teacher."
    )
    parser.add_argument("--params", type=location, default=Path("params.yaml"), help="parameters file")
    methods = "cd (distillation), ct (training), or a neighbour: pd, tract, cm, cmd, ict, ect, ctm, gd, diffusion"
    parser.add_argument("--method", required=True, help=methods)
    parser.add_argument("--student-steps", type=int, required=True, help="network evaluations of the student's sampler")
    parser.add_argument("--dataset", type=location, required=True, help="folder made by prepare_data")
    parser.add_argument("--teacher", type=location, required=True, help="folder made by train_teacher")
    parser.add_argument("--out", type=location, required=True, help="folder to write the student to")
    parser.add_argument("--work", type=location, default=Path("work"), help="folder for checkpoints and logs")
    args = parser.parse_args(argv)
    from components.train_student.stage import train_student  # late: --help answers without torch

    with places("train_student") as local:
        local.task(f"{args.method}-{args.student_steps}")
        params, dataset = local.fetch(args.params), local.fetch(args.dataset, "dataset")
        teacher = local.fetch(args.teacher, "teacher")
        train_student(
            read_params(params),
            args.method,
            args.student_steps,
            dataset,
            teacher,
            local.out(args.out),
            args.work,
            local.publish,
        )


if __name__ == "__main__":
    main()
