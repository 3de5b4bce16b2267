"""What a study's page says beside its tables and plots, as text: HTML and Markdown differ only in how they set it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from components.report.provenance import UNKNOWN, commit, machine
from pipelines.study.checks import LEVEL, Check
from pipelines.study.figures import FLOOR, NONE, Figures
from pipelines.study.outcome import Outcome
from pipelines.study.pictures import Grid
from pipelines.study.plots import Plot
from pipelines.study.tables import Cell, Line, Table, number

Facts = tuple[tuple[str, tuple[tuple[str, str], ...]], ...]


@dataclass(frozen=True)
class Content:
    """Everything that a template sets; `about` and `notes` are Markdown."""

    title: str
    headline: str
    about: str
    tables: tuple[Table, ...]
    plots: tuple[Plot, ...]
    grids: tuple[Grid, ...]
    checks: tuple[Check, ...]
    notes: str
    budget: Table
    facts: Facts
    rule: str = (
        f"The means decide whether a claim is met where p < {LEVEL:g}, and else it is within the spread; where a side "
        "has one seed the spread is unknown, and the means decide. p is two-sided: Student's t-test of the differences "
        "by seed, since a seed gives both sides the same images and noise; Welch's t-test where the sides have other "
        "seeds; against a number, Student's of the mean and the nearer end of what is allowed. Each comparison stands "
        f"for itself: by chance one in {1 / LEVEL:.0f} has p < {LEVEL:g}."
    )


def headline(found: Figures, checks: Sequence[Check]) -> str:
    """How much is there, and how many claims hold."""
    total = len(found.results)
    text = f"{total - found.missing} of {total} rows, a seed each, have figures"
    text += f"; {found.missing} missing." if found.missing else "."
    if checks:
        verdicts = [check.verdict for check in checks]
        parts = [f"{verdicts.count(v)} {v}" for v in ("not met", "within the spread", "not measured") if v in verdicts]
        text += f" {verdicts.count('met')} of {len(checks)} claims met{': ' + ', '.join(parts) if parts else ''}."
    return text


def budget(outcomes: Sequence[Outcome], found: Figures) -> Table:
    """What each student took: training images, which are chosen, and seconds, which were measured.

    Columns of which nothing is known are left out; there are no lines where all rows are samplers of the teacher.
    """
    rows: dict[tuple[int, int, int], list[Outcome]] = {}
    for outcome in outcomes:
        place = found.bases.index(outcome.base), found.series.index(outcome.series), outcome.steps
        rows.setdefault(place, []).append(outcome)
    several = len(found.bases) > 1
    lines = []
    for (base, series, steps), seeds in sorted(rows.items()):
        if not any(outcome.is_student for outcome in seeds):
            continue
        done = [outcome for outcome in seeds if outcome.metrics]
        cells = (
            str(steps),
            _each(str(outcome.nfe) for outcome in done or seeds),
            _each(f"{outcome.images:,}".replace(",", "\u202f") for outcome in seeds if outcome.images is not None),
            _span(outcome.seconds for outcome in seeds),
            f"{len(done)} of {len(seeds)}",
        )
        headings = (*([found.bases[base]] if several else []), found.series[series])
        lines.append(Line(headings, tuple(map(Cell, cells))))
    columns = ("steps", "evaluations", "training images", "seconds of training (measured)", "seeds done")
    told = [place for place in range(len(columns)) if any(line.cells[place].text != NONE for line in lines)]
    notes = []
    clocks = sorted({str(outcome.measured["clock"]) for outcome in outcomes if outcome.measured.get("clock")})
    if any(outcome.seconds is not None for outcome in outcomes):
        clock = f": {', '.join(clocks)}" if clocks else ""
        notes.append(f"Seconds of training were measured{clock}; lowest to highest over seeds.")
    if len(lines) < len(rows):
        notes.append(
            "Samplers of the teacher are not trained."
            if lines
            else "All rows are samplers of the teacher: none is trained."
        )
    return Table(
        title="What each row took",
        index=("base", "series") if several else ("series",),
        columns=tuple(columns[place] for place in told),
        lines=tuple(replace(line, cells=tuple(line.cells[place] for place in told)) for line in lines),
        notes=(" ".join(notes),) if notes else (),
    )


def _each(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(values)) or NONE


def _span(values: Iterable[float | None]) -> str:
    there = [value for value in values if value is not None]
    low, high = (number(value) for value in (min(there), max(there))) if there else (NONE, NONE)
    return low if low == high else f"{low} to {high}"


def facts(name: str, outcomes: Sequence[Outcome], found: Figures) -> Facts:
    """The command, the code, the machine, and for each base what its figures were measured with."""
    measured = [outcome.measured for outcome in outcomes if outcome.metrics]
    seeds = sorted({outcome.seed for outcome in outcomes})
    run = {
        "Command": f"mcm study run {name}",
        "Seeds": ", ".join(map(str, seeds)),
        "Commit of the rows": _each(_commit(values) for values in measured) if measured else NONE,
        "Rows ran on": _each(str(values["device"]) for values in measured if values.get("device")),
    }
    here = {**machine(), "Threads of torch": str(torch.get_num_threads()), **commit()}
    groups = [("Run", run)]
    groups += [
        (f"Figures{f' of {base}' if len(found.bases) > 1 else ''}", _measured_with(found, base)) for base in found.bases
    ]
    groups.append(("Machine and code of this page", here))
    return tuple((title, tuple(values.items())) for title, values in groups)


def _commit(measured: dict[str, Any]) -> str:
    """The commit that a row was made with."""
    head = measured.get("commit")
    return f"{head}{', files differ from it' if measured.get('dirty') else ''}" if head else UNKNOWN


def _measured_with(found: Figures, base: str) -> dict[str, str]:
    """What the figures of a base say of themselves."""
    words = {
        "extractor": "FID",
        "samples": "Samples of each row",
        "reference_samples": "Real samples measured against",
        "reference": "Reference hash (data set)",
        "ema": "EMA",
        f"{FLOOR}between": "Noise floor between",
        f"{FLOOR}counts": "Real samples of the noise floor",
        f"{FLOOR}flow_rmse": "Error of the exact map itself",  # of its solver; no second draw of data is in it
    }
    known = found.about[base]
    listed = {words[key]: "; ".join(map(_words, known[key])) for key in words if known.get(key)}
    for key in sorted(set(known) - set(words) - {"sampler", "guidance", "kid_standard_error"}):
        values = known[key]
        if key.startswith(FLOOR):
            listed[f"Noise floor of {found.title(key.removeprefix(FLOOR), base)}"] = "; ".join(map(_words, values))
        elif len(values) == 1:
            listed[key.replace("_", " ")] = _words(values[0])
    return listed


def _words(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " and ".join(map(_words, value))
    return number(value) if isinstance(value, float) else str(value)
