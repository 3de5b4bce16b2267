"""Run cases of `benchmarks/cases/` in turn, and write their figures as JSON and as a page."""

import argparse
import importlib
import os
import pkgutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.harness import Case, Options
from components.runner import command
from mcm.config import suggest
from mcm.errors import UserError

if TYPE_CHECKING:
    from benchmarks.machine import Peak

OUT = Path("work/benchmarks")
PEAK_SECONDS = 1.0


def cases() -> dict[str, Case]:
    """Every case by name, found by listing the package; files named `_...` are their helpers."""
    import benchmarks.cases

    found = (
        importlib.import_module(f"benchmarks.cases.{module.name}").CASE
        for module in pkgutil.iter_modules(benchmarks.cases.__path__)
        if not module.name.startswith("_")
    )
    return {case.name: case for case in found}


def chosen(known: dict[str, Case], names: list[str]) -> list[Case]:
    """The cases of these names, or all that run by default. UserError at an unknown one."""
    for name in names:
        if name not in known:
            raise UserError(f"benchmarks: no case '{name}'; {suggest(name, list(known))}")
    return [known[name] for name in names] if names else [case for case in known.values() if case.default]


def peaks(options: Options) -> "list[Peak]":
    """The matrix peak in each precision, now."""
    from benchmarks.machine import PRECISIONS, peak

    seconds = PEAK_SECONDS / (4 if options.quick else 1)
    return [peak(precision, seconds=seconds) for precision in PRECISIONS]


def run(case: Case, options: Options, out: Path, before: "list[Peak]") -> "list[Peak]":
    """Run one case, and put its figures into the JSON and the page in `out`, in place of its earlier ones.

    `before` is the matrix peak before it; the peak after it is returned, which is the next one's.
    """
    from benchmarks import page, results
    from benchmarks.machine import this_machine

    load = os.getloadavg()[0]
    began = time.perf_counter()
    found = case.run(options)
    taken = time.perf_counter() - began
    entry = results.Entry(
        title=case.title,
        about=case.about,
        command=f"python -m benchmarks {case.name}{' --quick' if options.quick else ''}",
        quick=options.quick,
        taken=taken,
        load=load,
        machine=this_machine(),
        peaks_before=before,
        peaks_after=peaks(options),
        results=found,
    )
    entries = {**results.read(out), case.name: entry}
    entries = {name: entries[name] for name in sorted(entries)}
    results.write(out, entries)
    page.write(out, entries)
    print(f"{case.title} ({taken:.0f} s)")
    for figure in found.figures:
        words = [f"  {figure.name}: {page.number(figure.value)} {figure.unit}"]
        if figure.peer is not None:
            words.append(f"{figure.peer_name or 'peer'} {page.number(figure.peer)}")
        if figure.ratio is not None:
            words.append(f"{figure.ratio_of} {page.ratio(figure.ratio)}")
        if figure.aim is not None:
            words.append(f"aim {figure.aim}: {'reached' if figure.reached else 'NOT REACHED'}")
        print("; ".join(words), flush=True)
    return entry.peaks_after


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help="cases to run; all that do not take long, if none")
    parser.add_argument("--quick", action="store_true", help="few rounds: to see that a case works")
    parser.add_argument("--list", action="store_true", help="name the cases, and run none")
    parser.add_argument("--out", type=Path, default=OUT, metavar="FOLDER", help=f"where results go (default: {OUT})")
    args = parser.parse_args(argv)
    known = cases()
    if args.list:
        for case in known.values():
            print(f"{case.name:<14} {case.title}{'' if case.default else ' (only where named)'}")
        return
    options, failed = Options(args.quick), []
    wanted = chosen(known, args.cases)
    now = peaks(options)
    for case in wanted:
        try:
            now = run(case, options, args.out, now)
        except UserError as error:  # such as a peer that is not installed: the others are measured all the same
            print(f"{case.title}: not measured: {error}", flush=True)
            failed.append(case.name)
    if failed:
        raise UserError(f"benchmarks: not measured: {', '.join(failed)}, for the reasons above")
    print(f"written to {args.out}/index.html, README.md and benchmarks.json")


if __name__ == "__main__":
    main()
