"""What both forms of the report say, as text: the page and its Markdown twin differ only in how they set it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from components.report import figures, pictures
from components.report.checks import Check
from components.report.collect import Run
from components.report.compare import PAPER, PAPER_SIZES, Compared, figure, headline
from components.report.figures import Chart
from components.report.pictures import Grid
from components.report.provenance import commit, machine, measured_with
from components.report.read import Licence

MET = {True: "met", False: "not met", None: "not measured"}


@dataclass(frozen=True)
class Cells:
    """One line of the table: its heading, then one text a column; `kind` sets groups apart."""

    heading: str
    kind: str
    cells: tuple[str, ...]


@dataclass(frozen=True)
class CheckLine:
    """One line of the checks."""

    what: str
    value: str
    bound: str
    met: str


@dataclass(frozen=True)
class Content:
    """Everything a template sets."""

    headline: str
    verdict: str
    fid_name: str
    features: str
    columns: tuple[str, ...]
    rows: tuple[Cells, ...]
    paper: str
    checks: tuple[CheckLine, ...]
    dial: tuple[Chart, ...]
    dial_note: str
    grids: tuple[Grid, ...]
    grid_note: str
    x_var: Chart
    x_var_note: str
    losses: tuple[Chart, ...]
    facts: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    licences: tuple[Licence, ...]
    configs: tuple[tuple[str, str], ...]  # (name, text)


def build(run: Run, compared: list[Compared], checks: list[Check], params: Mapping[str, Any]) -> Content:
    """All texts and pictures of a report."""
    facts = {"Figures": measured_with(run), "Code": commit(), "Machine of this report": machine()}
    return Content(
        headline=headline(run, compared),
        verdict=_verdict(checks),
        fid_name=run.fid_name,
        features=run.features,
        columns=_columns(run),
        rows=tuple(_cells(item) for item in compared),
        paper=PAPER,
        checks=tuple(_check_line(check) for check in checks),
        dial=tuple(figures.dial(run)),
        dial_note=_dial_note(run),
        grids=tuple(pictures.grids(run)),
        grid_note=_grid_note(run),
        x_var=figures.x_var(run),
        x_var_note=_x_var_note(run),
        losses=tuple(figures.losses(run)),
        facts=tuple((name, tuple(values.items())) for name, values in facts.items()),
        licences=run.dataset.licences,
        configs=_configs(run, params),
    )


def _verdict(checks: list[Check]) -> str:
    counts = {met: sum(check.met is met for check in checks) for met in MET}
    text = f"{counts[True]} of {len(checks)} checks met"
    extra = [f"{counts[met]} {MET[met]}" for met in (False, None) if counts[met]]
    return f"{text}: {', '.join(extra)}." if extra else f"{text}."


def _columns(run: Run) -> tuple[str, ...]:
    return (
        "Evaluations",
        run.fid_name,
        "over the teacher's",
        *(f"paper's, {size}" for size in PAPER_SIZES),
        f"KID × 1000 ({run.features})",
        "Precision",
        "Recall",
        "Seconds per image",
        "Speed-up",
    )


def _cells(item: Compared) -> Cells:
    row, metrics = item.row, item.row.metrics
    error = 1000 * metrics.kid_standard_error
    return Cells(
        row.label,
        row.method,
        (
            str(row.nfe),
            figure(metrics.fid),
            f"{item.ratio:.2f}",
            *("–" if ratio is None else f"{ratio:.2f}" for ratio in item.paper),
            f"{1000 * metrics.kid:.2f} ± {error:.2f}".replace("-", "−"),
            f"{metrics.precision:.2f}",
            f"{metrics.recall:.2f}",
            figure(row.timing.seconds_per_image),
            f"{figure(item.speed_up)}×",
        ),
    )


def _check_line(check: Check) -> CheckLine:
    value = "–" if check.value is None else f"{check.value:.3f}"
    return CheckLine(check.what, value, f"{check.relation} {check.bound:.2f}", MET[check.met])


def _dial_note(run: Run) -> str:
    text = (
        "Down and to the left is better. Points of a line, from right to left, take ever fewer evaluations of the "
        "network; the thin level line is the teacher's reference sampler."
    )
    if run.floor is None:
        return text
    first, second = run.floor.counts
    return (
        f"{text} The noise floor is the {run.fid_name} between {run.floor.between} ({first} and {second} real images), "
        f"{figure(run.floor.fid)}; it depends on those counts, and the samples' figures are of "
        f"{run.reference.metrics.samples} samples against {run.reference.metrics.reference_samples} images."
    )


def _grid_note(run: Run) -> str:
    text = (
        "Every row starts from the same initial noise and label in all columns; columns are evaluations of the network "
        "per image, the first column the teacher's reference sampler."
    )
    classes = run.dataset.config.get("classes") or []
    count = min(pictures.ROWS, len(run.reference.pictures))
    if not classes:
        return text
    names = ", ".join(str(name) for name in classes[:count])
    return f"{text} Rows take the classes in turn: {names}{' …' if len(classes) > count else ''}."


def _x_var_note(run: Run) -> str:
    table = run.x_var
    ratio = table.x_var / table.analytic
    counts = sorted({int(n) for n in table.n})
    images = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    low, high = figure(float(ratio.min())), figure(float(ratio.max()))
    return (
        f"Measured at {len(table.t)} times on {images} images each; measured over analytic is {low} to {high}. "
        "aDDIM, the teacher's sampler, reads it."
    )


def _configs(run: Run, params: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    listed = [(f"{name}/config.json", json.dumps(config, indent=2)) for name, config in run.configs.items()]
    given = yaml.safe_dump(dict(params), sort_keys=False, allow_unicode=True)
    return (("parameters given to this report", given), *listed)
