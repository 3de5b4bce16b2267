"""`mcm study page`: the page of a study again, from what is done."""

import argparse

from components.runner import command
from mcm.errors import UserError
from pipelines.study.options import add_study, out_folder


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="mcm study page", description="Write the page of a study from the rows that are done; nothing is run."
    )
    add_study(parser)
    args = parser.parse_args(argv)
    from pipelines.study import page
    from pipelines.study.jobs import plan
    from pipelines.study.results import outcomes
    from pipelines.study.schema import read_study
    from pipelines.study.store import Store

    study = read_study(args.name, args.studies)
    planned, store = plan(study), Store(args.work)
    done = sum(store.done(each.last) for each in planned)
    if not done:
        raise UserError(f"{args.work}: no row of study '{study.name}' is done there; run `mcm study run {study.name}`")
    out = out_folder(args)
    page.write(study, outcomes(planned, store), out)
    print(f"{out}: written, with {done} of {len(planned)} rows")


if __name__ == "__main__":
    main()
