"""Tables of a study: mean and spread over seeds, laid out as the study asks, with the paper's figures beside ours."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd
from pydantic import Field

from components.report.compare import evaluations, figure
from mcm.config import Config
from mcm.errors import UserError
from pipelines.study.figures import (
    DIMENSIONS,
    NONE,
    Figures,
    Names,
    Place,
    at,
    check_dimensions,
    dimensions,
    in_steps,
    ordered,
)
from pipelines.study.metrics import metric, of_kind
from pipelines.study.paper import Source

PAPER_METRIC = "fid"
WORDS = {"nfe": "evaluations", "metrics": "metric"}
NUMBERED = {"steps": in_steps, "nfe": evaluations}


class TableConfig(Config):
    """A table of the page. What is in neither `index` nor `columns` and has several values makes a table for each.

    Dimensions: `series`, `method`, `steps`, `nfe`, `base`, `metrics`, or a key that rows set (`students.cd.x_var_frac`,
    or a sampler's own, `eta`).
    """

    title: str = ""
    index: Names = Field(("steps",), min_length=1, description="what makes rows: one dimension or several")
    columns: Names = Field(("series",), min_length=1, description="what makes columns")
    metrics: Names = Field((), description="none named: FID of images, the error to the exact flow of a mixture")
    series: Names = Field((), description="which, in this order; none named: all, in the study's order")
    reference: Names = Field((), description="series (the teacher's) that stand as rows at the foot, in every column")
    over: str | None = Field(None, description="a series: one table more holds ratios to it at its most steps")
    best: bool = Field(True, description="mark the best among those of the same steps, base and metric")


@dataclass(frozen=True)
class Cell:
    """One figure as text; `best` of those it competes with."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Line:
    """A row of a table, at a place. `kind`: `ours`, `reference` and `floor` (at the foot), or `paper`."""

    headings: tuple[str, ...]
    cells: tuple[Cell, ...]
    kind: str = "ours"
    place: Place = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """A table as it is set: headings, lines, and in words what it shows; the last `papers` columns are the paper's."""

    title: str
    index: tuple[str, ...]
    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()
    papers: int = 0


def tables(config: TableConfig, found: Figures, sources: Sequence[Source], where: str) -> list[Table]:
    """Every table that a config asks for; UserError for a name that the study has not, or two rows in one cell."""
    config = config.model_copy(update={"metrics": config.metrics or of_kind(found.kind)[:1]})
    used = (*config.index, *config.columns)
    check_dimensions(found, used, where)
    found.check_series((*config.series, *config.reference, *filter(None, [config.over])), where)
    for name in config.metrics:
        found.check_metric(name, where)
    every = dimensions(found, used, config.metrics)
    rows = every[every["series"].isin((*config.series, *config.reference))] if config.series else every
    rest = [
        name for name in ("base", "metrics", "steps") if name not in used and not (name == "steps" and "nfe" in used)
    ]
    orders = {"series": (*config.series, *config.reference), "metrics": config.metrics}
    made = []
    for fixed in ordered(rows[~rows["series"].isin(config.reference)], rest, orders, found):
        layout = _Layout(config, found, fixed, orders, where)
        made.append(layout.table(rows, sources))
        if config.over is not None and metric(fixed.get("metrics", config.metrics[0])).aim == "less":
            theirs = [ratios for source in sources if (ratios := source.over(config.over))]
            made.append(layout.table(_ratios(rows, every, config.over), theirs, _at_most(every, config.over, fixed)))
    return made


@dataclass(frozen=True, eq=False)
class _Layout:
    """One table of a config: the dimensions in `fixed` have one value in it."""

    config: TableConfig
    found: Figures
    fixed: Place
    orders: Mapping[str, Sequence[Any]]
    where: str

    def table(self, rows: pd.DataFrame, sources: Sequence[Source], over: str = "") -> Table:
        """The table of mean and spread, or of ratios to `over`, of what of `rows` lies in it."""
        config, found = self.config, self.found
        rows = at(rows, {name: value for name, value in self.fixed.items() if name != "steps"})
        foot = rows[rows["series"].isin(config.reference)]
        ours = at(rows.drop(foot.index), self.fixed)
        repeats = "series" not in config.index  # the foot: one figure for all columns
        columns = ordered(ours if repeats else rows, config.columns, self.orders, found)
        seeds = int(rows["n"].max())
        lines = self._lines(ours, columns, seeds, "ours")
        lines += self._repeated(foot, columns, seeds) if repeats else self._lines(foot, columns, seeds, "reference")
        lines += [] if over else self._floor(columns, rows)
        made = Table(
            title=self._title(over),
            index=tuple(WORDS.get(name, name.rpartition(".")[2]) for name in config.index),
            columns=tuple(self._heading(column) for column in columns),
            lines=tuple(lines),
            notes=self._notes(rows, lines, over),
        )
        return self._with_paper(made, columns, sources)

    def _lines(self, rows: pd.DataFrame, columns: list[Place], seeds: int, kind: str) -> list[Line]:
        best = self._best(rows) if kind == "ours" else set()
        lines = []
        for place in ordered(rows, self.config.index, self.orders, self.found) if len(rows) else []:
            cells = []
            for column in columns:
                row = self._one(rows, place | column)
                cells.append(Cell(_text(row, seeds), row is not None and row.name in best))
            lines.append(Line(tuple(str(self._word(*item)) for item in place.items()), tuple(cells), kind, place))
        return lines

    def _one(self, rows: pd.DataFrame, place: Place) -> Any:
        found = at(rows, place)
        if len(found) > 1:
            names = ", ".join(dict.fromkeys(f"'{name}'" for name in found["series"]))
            raise UserError(
                f"{self.where}: {len(found)} rows ({names}) fall into one cell; "
                "give index or columns what they differ in"
            )
        return found.iloc[0] if len(found) else None

    def _best(self, rows: pd.DataFrame) -> set[Any]:
        """Labels of the rows whose mean is best among at least two of the same base, metric and steps."""
        best: set[Any] = set()
        along = "nfe" if "nfe" in (*self.config.index, *self.config.columns) else "steps"
        students = rows[~rows["series"].isin(self.found.teachers)]
        rivals = students if len(students) else rows  # samplers of the teacher compete among themselves alone
        for _, part in rivals[rivals["n"] > 0].groupby(["metrics", "base", along]):
            known = metric(str(part["metrics"].iloc[0]))
            if self.config.best and len(part) > 1 and known.aim is not None:
                losses = pd.Series([known.loss(mean) for mean in part["mean"]], part.index)
                best |= set(losses[losses == losses.min()].index)
        return best

    def _repeated(self, foot: pd.DataFrame, columns: list[Place], seeds: int) -> list[Line]:
        """A line for each series and steps of the foot, its figure in every column of its base and metric."""
        lines = []
        for place in ordered(foot, ("series", "steps"), self.orders, self.found) if len(foot) else []:
            cells = []
            for column in columns:
                shared = {name: value for name, value in column.items() if name in ("base", "metrics")}
                cells.append(Cell(_text(self._one(foot, place | shared), seeds)))
            lines.append(
                Line(self._spread(f"{place['series']} at {in_steps(place['steps'])}"), tuple(cells), "reference", place)
            )
        return lines

    def _floor(self, columns: list[Place], rows: pd.DataFrame) -> list[Line]:
        """What the metric is between data and data: a line, or one for each base where bases are rows."""
        bases = [{"base": base} for base in dict.fromkeys(rows["base"])] if "base" in self.config.index else [{}]
        lines = []
        for own in bases:
            cells = []
            for column in columns:
                place = self.fixed | column | own
                floor = (
                    self.found.floor(place["metrics"], place["base"]) if {"metrics", "base"} <= place.keys() else None
                )
                cells.append(Cell("" if floor is None else spread(floor)))
            if any(cell.text for cell in cells):
                lines.append(Line(self._foot(own, "noise floor"), tuple(cells), "floor"))
        return lines

    def _foot(self, own: Place, heading: str) -> tuple[str, ...]:
        """Headings of a line at the foot: its base where bases are rows, and what it is beside."""
        if not own:
            return self._spread(heading)
        others = iter([heading])
        words = [own[name] if name in own else next(others, "") for name in self.config.index]
        return tuple(words) if len(words) > 1 else (f"{words[0]}: {heading}",)

    def _spread(self, heading: str) -> tuple[str, ...]:
        return (heading, *[""] * (len(self.config.index) - 1))

    def _word(self, name: str, value: Any) -> str:
        if name == "metrics":
            return self.found.title(value, self.fixed.get("base"))
        return str(value)

    def _heading(self, column: Place) -> str:
        words = []
        for name, value in column.items():
            word = self._word(name, value)
            if name in NUMBERED:
                word = NUMBERED[name](value)
            elif name not in DIMENSIONS:
                word = f"{name.rpartition('.')[2]} {word}"
            words.append(word)
        return ", ".join(words)

    def _title(self, over: str) -> str:
        fixed = [self._word("metrics", self.fixed["metrics"])] if "metrics" in self.fixed else []
        if over:
            fixed = [f"{fixed[0] if fixed else 'figures'} over that of {over}"]
        fixed += [f"{self.fixed['base']}"] if "base" in self.fixed and len(self.found.bases) > 1 else []
        fixed += [in_steps(self.fixed["steps"])] if "steps" in self.fixed else []
        asked = self.config.title
        said = [part for part in fixed if not re.search(rf"(?<!\w){re.escape(part)}(?!\w)", asked, re.IGNORECASE)]
        title = ": ".join(filter(None, [asked, ", ".join(said)])) or "Figures"
        return title[0].upper() + title[1:]

    def _notes(self, rows: pd.DataFrame, lines: list[Line], over: str) -> tuple[str, ...]:
        """What the figures are, in one paragraph."""
        seeds = int(rows["n"].max())
        notes = []
        if over:
            notes.append("Ratios of means over seeds.")
        elif seeds > 1:
            notes.append(f"Mean ± sample standard deviation over {seeds} seeds; a figure without ± is of one seed.")
        elif seeds:
            notes.append("One seed: no spread is known.")
        if any(cell.best for line in lines for cell in line.cells):
            each = "evaluations" if "nfe" in (*self.config.index, *self.config.columns) else "steps"
            notes.append(f"Bold: the best mean at its {each}.")
        if any(cell.text == NONE for line in lines for cell in line.cells):
            notes.append(f"{NONE}: missing, not run yet or failed.")
        return (" ".join(notes),) if notes else ()

    def _with_paper(self, made: Table, columns: list[Place], sources: Sequence[Source]) -> Table:
        """The table with the paper's FIDs at the same places: as columns, or as lines where columns are steps."""
        index, across = self.config.index, self.config.columns
        along = next((name for name in ("steps", "nfe") if name in (*index, *across)), None)
        metrics = self.config.metrics if "metrics" in across else (self.fixed.get("metrics"),)
        if along is None or PAPER_METRIC not in metrics:
            return made
        lines, headings = list(made.lines), list(made.columns)
        if "series" in index and along in across:
            for series in dict.fromkeys(line.place["series"] for line in made.lines if line.kind != "floor"):
                for source in (source for source in sources if source.of(series)):
                    cells = tuple(Cell(_paper(source.of(series).get(column[along]), source)) for column in columns)
                    lines.append(Line(self._spread(f"{series}: {source.name}"), cells, "paper"))
        elif along in index:
            shown = tuple(dict.fromkeys(column["series"] for column in columns)) if "series" in across else ("",)
            for series in shown:
                for source in (source for source in sources if not series or source.of(series)):
                    headings.append(f"{series}: {source.name}" if series else source.name)
                    lines = [
                        replace(line, cells=(*line.cells, Cell(_beside(line, series, along, source)))) for line in lines
                    ]
        added = len(headings) - len(made.columns)
        if not added and len(lines) == len(made.lines):
            return made
        labels = "; ".join(dict.fromkeys(source.label for source in sources))
        compare = (
            "ratios may be compared" if sources[0].ratio else "absolute FIDs of other features and data do not compare"
        )
        note = f"In italics: {labels}; {compare}."
        return replace(made, columns=tuple(headings), lines=tuple(lines), notes=(*made.notes, note), papers=added)


def _at_most(every: pd.DataFrame, over: str, fixed: Place) -> str:
    """A series and its most steps, where they are the same in all bases of a table."""
    part = at(every[every["series"] == over], {name: value for name, value in fixed.items() if name == "base"})
    most = set(part.groupby("base")["steps"].max())
    return f"{over} at {in_steps(most.pop()) if len(most) == 1 else 'its most steps'}"


def _ratios(rows: pd.DataFrame, every: pd.DataFrame, over: str) -> pd.DataFrame:
    """The rows, their means over that of series `over` at its most steps, in the same base and metric."""
    below = every[every["series"] == over].sort_values("steps").groupby(["base", "metrics"])["mean"].last()
    below = below[below > 0]
    divisors = [below.get((base, name), math.nan) for base, name in zip(rows["base"], rows["metrics"], strict=True)]
    return rows.assign(mean=rows["mean"] / divisors, std=math.nan, n=rows["n"].where(pd.notna(divisors), 0))


def _text(row: Any, seeds: int) -> str:
    """Mean and spread; n where it is neither `seeds` nor all that was asked for. A place of no row is empty."""
    if row is None:
        return ""
    if not row["n"] or not math.isfinite(row["mean"]):
        return NONE
    return spread(row) if row["n"] in (seeds, row["planned"]) else f"{spread(row)} (n = {row['n']})"


def spread(row: Any) -> str:
    """Mean ± standard deviation of a line of the summary, to the places that both need to show a digit."""
    mean, deviation = float(row["mean"]), float(row["std"])
    text = number(mean)
    if not math.isfinite(deviation):
        return text
    if "e" in text:
        return f"{text} ± {number(deviation, 2)}"
    places = len(text.partition(".")[2])
    if deviation > 0 and not round(deviation, places):
        places = math.ceil(-math.log10(deviation))
        text = f"{mean:,.{places}f}".replace(",", "\u202f").replace("-", "\u2212")
    return f"{text} ± {deviation:.{places}f}"


def number(value: float, digits: int = 3) -> str:
    """A number with `digits` significant digits, and a power of ten only below 1e-4."""
    text = f"{value:.{digits - 1}e}" if 0 < abs(value) < 1e-4 else figure(value, digits)
    return text.replace("-", "\u2212", 1) if value < 0 else text


def _paper(value: float | None, source: Source) -> str:
    """A figure as it is printed there, and a ratio of two as ours are; empty where there is none."""
    return "" if value is None else number(value) if source.ratio else str(value)


def _beside(line: Line, series: str, along: str, source: Source) -> str:
    """The paper's figure for a line of ours, in the column of `series` where there is one for each."""
    if line.kind == "floor":
        return ""
    theirs = source.of(series if series and line.kind == "ours" else line.place["series"])
    if line.kind == "reference" and len(theirs) == 1:
        ((steps, value),) = theirs.items()
        return _paper(value, source) if steps == line.place["steps"] else f"{_paper(value, source)} at {steps}"
    return _paper(theirs.get(line.place[along if along in line.place else "steps"]), source)
