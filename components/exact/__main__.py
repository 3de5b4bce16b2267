"""`python -m components.exact`: see README.md beside this file."""

import argparse
from pathlib import Path

from components.runner import command, read_params

SECTIONS = ("exact", "students")


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m components.exact",
        description="Methods and samplers on a mixture whose teacher is known exactly.",
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    start = verbs.add_parser("start", help="train the MLP that all students start from")
    student = verbs.add_parser("student", help="train a student from it")
    student.add_argument("--method", required=True, help="cd, ct, pd, ...")
    student.add_argument("--student-steps", type=int, required=True, help="network evaluations of its sampler")
    student.add_argument("--start", type=Path, required=True, help="folder made by start")
    for verb in (start, student):
        verb.add_argument("--work", type=Path, default=Path("work"), help="folder for checkpoints")
    measure = verbs.add_parser("measure", help="compare samples with the truth")
    measure.add_argument("--student", type=Path, help="folder made by student (default: the exact teacher)")
    measure.add_argument(
        "--sampler",
        help="ddim, addim, addim_inner, ddpm, noise_ddim, heun or consistency "
        "(default: of a student DDIM at its steps)",
    )
    measure.add_argument("--steps", type=int, default=64, help="of --sampler")
    measure.add_argument("--x-var", default="table", help="of --sampler: table (measured), analytic or exact")
    for verb in (start, student, measure):
        verb.add_argument("--params", type=Path, required=True, help="parameters, such as studies/base/mixture2d.yaml")
        verb.add_argument("--out", type=Path, required=True, help="folder to write to")
    args = parser.parse_args(argv)
    from components.exact import stage  # late: --help answers without torch

    params = read_params(args.params, SECTIONS)
    if args.verb == "start":
        stage.make_start(params, args.out, args.work)
    elif args.verb == "student":
        stage.make_student(params, args.method, args.student_steps, args.start, args.out, args.work)
    else:
        if not (args.student or args.sampler):
            parser.error("measure: give --student, --sampler or both")
        sampler = {"name": args.sampler, "steps": args.steps, "x_var": args.x_var} if args.sampler else None
        stage.measure(params, args.student, sampler, args.out)


if __name__ == "__main__":
    main()
