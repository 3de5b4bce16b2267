"""`mcm study list`: all studies, how far they are, and how long the rest takes."""

import argparse

from components.runner import command
from pipelines.study.options import add_places


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="mcm study list",
        description="All studies: rows done of all, and the time that the rest takes one worker, as far as jobs of "
        "its kinds were measured.",
    )
    add_places(parser)
    args = parser.parse_args(argv)
    from mcm.errors import UserError
    from pipelines.study.estimate import left, spoken
    from pipelines.study.jobs import distinct, missing, plan
    from pipelines.study.schema import read_study, study_names
    from pipelines.study.store import Store

    store = Store(args.work)
    rows = [("study", "rows", "left", "title")]
    for name in study_names(args.studies):
        try:
            study = read_study(name, args.studies)
            planned = plan(study)
        except UserError as error:
            rows.append((name, "", "", f"error: {error}"))
            continue
        jobs = distinct(planned)
        seconds = left(missing(planned, store.done).values(), jobs.values(), store)
        done = sum(store.done(each.last) for each in planned)
        rows.append((name, f"{done}/{len(planned)}", "?" if seconds is None else spoken(seconds), study.title))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


if __name__ == "__main__":
    main()
