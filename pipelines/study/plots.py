"""Plots of a study: which figures stand where. Lines over steps, evaluations, images or a setting, or bars."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd
from pydantic import Field

from components.report.figures import DARK, LIGHT
from mcm.config import Config
from mcm.errors import UserError
from pipelines.study.drawing import COLOURS, Curve, Panel, Style, svg
from pipelines.study.figures import Figures, Names, at, check_dimensions, dimensions, in_steps, ordered
from pipelines.study.metrics import of_kind
from pipelines.study.paper import Source
from pipelines.study.tables import PAPER_METRIC, number

NUMBERS = {
    "steps": "steps",
    "nfe": "evaluations of the network per sample",
    "images": "training images seen",
}


class PlotConfig(Config):
    """A plot of the page, one panel for each of `bases`; the paper's figures stand in a panel of their own beside.

    `x`: `steps`, `nfe`, `images`, or a key that rows set, and then a line for each method and steps. Bars stand for
    series and steps, and do not read `x`. `pictures` shows, for each of `series` and for each of its steps from many
    to few, samples of the same initial noise.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", description="of the file")
    title: str = ""
    kind: Literal["lines", "bars", "pictures"] = "lines"
    x: str = "steps"
    metric: str = Field("", description="none named: as in a table")
    series: Names = Field((), description="which, in this order; none named: all, in the study's order")
    steps: tuple[int, ...] = Field((), description="which; none named: all")
    bases: Names = Field((), description="which; none named: all")
    x_scale: Literal["log", "linear"] = "log"
    y_scale: Literal["log", "linear"] = "log"
    paper: bool = Field(True, description="the paper's figures in a panel beside, where the study names some")
    count: int = Field(6, ge=1, description="of pictures: how many samples of each")


@dataclass(frozen=True)
class Chart:
    """One pair of axes as SVG for both kinds of page, and the sentence that stands for it where it cannot be seen."""

    name: str
    caption: str
    alt: str
    light: str
    dark: str


@dataclass(frozen=True)
class Plot:
    """Charts that stand side by side."""

    title: str
    charts: tuple[Chart, ...]


def plot(config: PlotConfig, found: Figures, sources: Sequence[Source], where: str) -> Plot:
    """Draw lines or bars. Raises UserError as `panels` does."""
    config = _with_metric(config, found)
    drawn = (_chart(config, panel) for panel in panels(config, found, sources, where))
    return Plot(config.title or found.title(config.metric), tuple(drawn))


def panels(config: PlotConfig, found: Figures, sources: Sequence[Source], where: str) -> list[Panel]:
    """What a plot shows. UserError for a name that the study has not, or an `x` that cannot be drawn."""
    config, where = _with_metric(config, found), f"{where} '{config.name}'"
    found.check_series(config.series, where)
    found.check_bases(config.bases, where)
    found.check_metric(config.metric, where)
    rows = select(config, found, where)
    shown = [base for base in found.bases if base in (config.bases or found.bases)]
    made = [_panel(config, found, at(rows, {"base": base}), base, len(shown) > 1) for base in shown]
    if config.kind == "lines" and config.paper and config.metric == PAPER_METRIC and config.x in ("steps", "nfe"):
        made += _paper_panels(config, found, rows, sources)
    return made


def _with_metric(config: PlotConfig, found: Figures) -> PlotConfig:
    return config.model_copy(update={"metric": config.metric or of_kind(found.kind)[0]})


def select(config: PlotConfig, found: Figures, where: str) -> pd.DataFrame:
    """The rows of the summary that a plot shows, with columns for its dimensions."""
    if config.kind == "lines" and config.x not in NUMBERS:
        check_dimensions(found, [config.x], where)
    names = [config.x] if config.kind == "lines" and config.x not in NUMBERS else []
    rows = dimensions(found, names, [config.metric])
    rows = rows[rows["series"].isin(config.series or found.series)]
    if config.steps:
        rows = rows[rows["steps"].isin(config.steps)]
    if names and not all(isinstance(value, int | float) for value in rows[config.x]):
        rows = rows[[isinstance(value, int | float) for value in rows[config.x]]]
        if rows.empty:
            raise UserError(f"{where}: x: {config.x} is no number in any row; draw kind: bars instead")
    if names and config.x_scale == "log" and (rows[config.x] <= 0).any():
        raise UserError(f"{where}: x: {config.x} is 0 or less in a row; set x_scale: linear")
    return rows


def _panel(config: PlotConfig, found: Figures, rows: pd.DataFrame, base: str, several: bool) -> Panel:
    """Our figures of one base."""
    rows = rows[rows["n"] > 0]
    if config.x == "images":
        rows = rows[rows["images"].notna()]
    own = config.kind == "lines" and config.x not in NUMBERS
    keys = ("method", "steps") if own else ("steps",) if config.kind == "bars" else ("series",)
    curves = []
    for order, place in enumerate(ordered(rows, keys, {"series": config.series}, found) if len(rows) else []):
        part = at(rows, place)
        if config.kind == "bars":
            rank = {series: index for index, series in enumerate(config.series or found.series)}
            part = part.sort_values("series", key=lambda names: names.map(rank))
            x = tuple(float(rank[series]) for series in part["series"])
        else:
            part = part.sort_values(config.x)
            x = tuple(map(float, part[config.x]))
        label = ", ".join(in_steps(value) if name == "steps" else str(value) for name, value in place.items())
        curves.append(
            Curve(
                label=label,
                look=_look(place["series"], config, found) if "series" in place else order,
                x=x,
                y=tuple(map(float, part["mean"])),
                deviation=tuple(map(float, part["std"].fillna(0))),
                teacher=place.get("series") in found.teachers,
            )
        )
    floor = found.floor(config.metric, base)
    return Panel(
        name=f"{config.name}-{base}" if several else config.name,
        caption=base if several else "This study",
        label=found.title(config.metric, base),
        curves=tuple(curves),
        names=config.series or found.series,
        floor=None if floor is None else floor["mean"],
    )


def _look(series: str, config: PlotConfig, found: Figures) -> int:
    """A series looks alike in all plots of a study, unless there are more of them than colours."""
    names = found.series if len(found.series) <= COLOURS else config.series or found.series
    return names.index(series)


def _paper_panels(config: PlotConfig, found: Figures, rows: pd.DataFrame, sources: Sequence[Source]) -> list[Panel]:
    """The paper's figures of the series that are shown, tables of one label together."""
    shown = list(dict.fromkeys(rows["series"]))
    made = []
    for count, kind in enumerate(dict.fromkeys(source.kind for source in sources), 1):
        curves = []
        for source in (source for source in sources if source.kind == kind):
            for series in (series for series in source.series if series in shown):
                points = sorted(source.of(series).items())
                x, y = (tuple(map(float, values)) for values in zip(*points, strict=True))
                look = _look(series, config, found)
                curves.append(Curve(series, look, x, y, (0.0,) * len(x), series in found.teachers))
        if curves:
            made.append(Panel(f"{config.name}-paper{count}", kind, "FID (Inception)", tuple(curves)))
    return made


def _chart(config: PlotConfig, panel: Panel) -> Chart:
    points = [
        f"{curve.label}: "
        + ", ".join(
            f"{panel.names[int(x)]} {number(y)}" if config.kind == "bars" else f"{number(y)} at {x:g}"
            for x, y in zip(curve.x, curve.y, strict=True)
        )
        for curve in panel.curves
    ]
    if panel.floor is not None:
        points.append(f"noise floor: {number(panel.floor)}")
    by = "" if config.kind == "bars" else f" by {NUMBERS.get(config.x, config.x)}"
    alt = f"{panel.label}{by}, {panel.caption}. {'; '.join(points) or 'No row is there yet'}."
    style = Style(
        config.kind == "bars", NUMBERS.get(config.x, config.x), config.x_scale == "log", config.y_scale == "log"
    )
    light, dark = (svg(panel, style, theme) for theme in (LIGHT, DARK))
    return Chart(panel.name, panel.caption, alt, light, dark)
