"""`python -m components.evaluate`: see README.md beside this file."""

import argparse
from pathlib import Path

from components.places import location, places
from components.runner import command, read_params
from components.storage import is_remote


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m components.evaluate", description="Sample a teacher or a student and measure the samples."
    )
    parser.add_argument("--params", type=location, default=Path("params.yaml"), help="parameters file")
    parser.add_argument("--model", type=location, required=True, help="folder made by train_teacher or train_student")
    parser.add_argument("--dataset", type=location, required=True, help="folder made by prepare_data")
    parser.add_argument("--variance", type=location, help="folder made by estimate_variance, for samplers that read it")
    parser.add_argument("--out", type=location, required=True, help="folder to write figures and pictures to")
    parser.add_argument("--timing", type=location, required=True, help="file to write the measured durations to")
    parser.add_argument("--name", help="what the model is called in reports (default: the last part of --out)")
    parser.add_argument("--work", type=location, default=Path("work"), help="folder for cached features")
    args = parser.parse_args(argv)
    from components.evaluate.stage import evaluate  # late: --help answers without torch
    from mcm.artifacts import folder_md5

    with places("evaluate") as local:
        dataset, out = local.fetch(args.dataset, "dataset"), local.out(args.out)
        name = args.name or out.name
        local.task(name)
        work = args.work
        if is_remote(work):  # a data set's features begin with its md5
            work = local.shared(work, f"features/{folder_md5(dataset).removesuffix('.dir')}-")
        evaluate(
            read_params(local.fetch(args.params)),
            local.fetch(args.model, "model"),
            dataset,
            out,
            local.out(args.timing, "timing", measured=True),
            local.fetch(args.variance, "variance") if args.variance else None,
            name,
            work,
        )


if __name__ == "__main__":
    main()
