"""`mcm study run`: make what is missing of a study, then its page."""

import argparse
import sys

from components.runner import command
from pipelines.study.options import add_study, out_folder


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="mcm study run",
        description="Make what is missing of a study, several jobs at once, then its page. What is done is not done "
        "again: the same command goes on where a run was interrupted or killed, and figures do not depend on it.",
    )
    add_study(parser)
    parser.add_argument("--jobs", type=int, metavar="N", help="jobs at once (default: one for each core, or each GPU)")
    args = parser.parse_args(argv)
    from pipelines.study import page
    from pipelines.study.jobs import distinct, missing, plan
    from pipelines.study.results import outcomes
    from pipelines.study.runner import Run, slots
    from pipelines.study.schema import read_study
    from pipelines.study.store import Store

    study = read_study(args.name, args.studies)
    environments = slots(args.jobs, study.kind)
    planned = plan(study)
    store, jobs = Store(args.work), distinct(planned)
    todo = missing(planned, store.done)
    print(f"{study.name}: {len(planned)} rows, {len(jobs)} jobs, {len(todo)} to do", flush=True)
    page.check_page(study, outcomes(planned, store))
    out = out_folder(args)
    run = Run(jobs, todo, store)
    run.all(environments)
    for line in run.failed.values():
        print(f"error: {line}", file=sys.stderr)
    if run.failed and (left := len(run.skipped) + len(run.todo)):
        print(f"error: {left} jobs that need them were not done", file=sys.stderr)
    if any(store.done(each.last) for each in planned):
        page.write(study, outcomes(planned, store), out)
        print(f"{out}: written")
    if run.failed:
        sys.exit(2)


if __name__ == "__main__":
    main()
