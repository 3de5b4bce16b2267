"""How a chart of a study looks: one style, readable in print, on a dark page, and with any colour vision."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from components.report.figures import LIGHT, Theme
from pipelines.study.tables import number

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")
LINES: tuple[Any, ...] = ("-", "--", "-.", (0, (5, 1)), ":", (0, (3, 1, 1, 1)), (0, (1, 1)))
HATCHES = ("", "//", "..", "xx", "\\\\", "++", "oo")
WIDTH, HEIGHT = 5.2, 3.7  # inches, as in the report
FEW = 5  # lines, up to which each is named at the axes' right edge instead of in a legend
SHORT = 16  # characters that such a name may have
FAR = 0.1  # how far it may stand from its line's end, of the axes' height
GAP = 0.068  # between such names
FLOOR = "noise floor"


@dataclass(frozen=True)
class Curve:
    """A line, or the bars of one colour: `x`, mean, and standard deviation (0 where one seed has none)."""

    label: str
    look: int
    x: tuple[float, ...]
    y: tuple[float, ...]
    deviation: tuple[float, ...]
    teacher: bool = False


@dataclass(frozen=True)
class Panel:
    """What one pair of axes shows; `names` are the series that bars stand for, by x."""

    name: str
    caption: str
    label: str
    curves: tuple[Curve, ...]
    names: tuple[str, ...] = ()
    floor: float | None = None


@dataclass(frozen=True)
class Style:
    """How a panel is drawn: bars or lines, the label of x, and which axes are logarithmic."""

    bars: bool
    x_label: str
    x_log: bool
    y_log: bool


def colours(theme: Theme) -> tuple[str, ...]:
    """The palette of Okabe and Ito (2008) that stands out from this page, the most different ones first."""
    return (*theme.series[:2], theme.ddim, *theme.series[2:])


COLOURS = len(colours(LIGHT))


def svg(panel: Panel, style: Style, theme: Theme) -> str:
    """A panel as SVG; its bytes are a function of the arguments."""
    settings: dict[Any, Any] = {
        **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), theme.ink),
        "axes.edgecolor": theme.faint,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.facecolor": theme.paper,
        "figure.facecolor": theme.paper,
        "font.size": 10.5,
        "grid.color": theme.faint,
        "grid.alpha": 0.25,
        "hatch.color": theme.paper,
        "svg.fonttype": "none",
        "svg.hashsalt": panel.name,
    }
    bars = sum(len(curve.x) for curve in panel.curves) if style.bars else 0
    with plt.rc_context(settings):
        figure, axes = plt.subplots(figsize=(WIDTH, 1.4 + 0.3 * bars if bars else HEIGHT), layout="constrained")
        if not panel.curves:
            axes.text(0.5, 0.5, "no row is there yet", ha="center", va="center", transform=axes.transAxes)
            axes.set(xlabel=style.x_label, ylabel=panel.label, xticks=[], yticks=[])
        elif style.bars:
            _bars(axes, panel, theme)
        else:
            _lines(axes, panel, style, theme)
        written = io.StringIO()
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
        plt.close(figure)
    return written.getvalue()


def _lines(axes: Axes, panel: Panel, style: Style, theme: Theme) -> None:
    for curve in panel.curves:
        y, deviation = np.array(curve.y), np.array(curve.deviation)
        look = {**_look(curve.look, theme), "label": curve.label}
        if curve.teacher and len(curve.x) == 1:  # a level to compare students with
            look = {**look, "linestyle": "none", "marker": "*", "ms": 13}
            axes.axhline(curve.y[0], color=look["color"], lw=1.1, ls="--", zorder=2)
        # On a log axis a bar that reaches zero would reach to the end of the page.
        below = np.minimum(deviation, 0.9 * np.abs(y)) if style.y_log else deviation
        spread = np.stack([below, deviation]) if deviation.any() else None
        axes.errorbar(curve.x, y, spread, capsize=3, elinewidth=1.2, zorder=3, **look)
    values = [
        v for c in panel.curves for v, d in zip(c.y, c.deviation, strict=True) for v in (v, v + d, max(v - d, v / 2))
    ]
    values += [] if panel.floor is None else [panel.floor]
    if style.y_log and min(values) > 0:
        _log_axis(axes, "y", values)
    x = sorted({value for curve in panel.curves for value in curve.x})
    if style.x_log:
        _log_axis(axes, "x", x)
        axes.xaxis.set_major_locator(FixedLocator(_apart([v for curve in panel.curves for v in curve.x])))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set(xlabel=style.x_label, ylabel=panel.label)
    axes.grid(which="major")
    if panel.floor is not None:
        axes.axhline(panel.floor, color=theme.faint, lw=0.9, zorder=1, label=FLOOR)
    axes.set_ylim(axes.get_ylim())  # heights are of limits that no longer move
    ends = [(curve.label, curve.y[-1], _look(curve.look, theme)["color"]) for curve in panel.curves]
    ends += [] if panel.floor is None else [(FLOOR, panel.floor, theme.faint)]
    heights = [_height(axes, y) for _, y, _ in ends]
    places = _spread_out(heights)
    near = all(-GAP / 2 <= to <= 1 and abs(to - at) <= FAR for at, to in zip(heights, places, strict=True))
    short = len(ends) <= FEW and all(len(label) <= SHORT for label, *_ in ends)
    if near and short and all(curve.x[-1] == x[-1] for curve in panel.curves):
        for (label, _, colour), at, to in zip(ends, heights, places, strict=True):
            axes.plot([1.0, 1.03], [at, to], color=colour, lw=1.2, transform=axes.transAxes, clip_on=False)
            axes.text(1.04, to, label, va="center", fontsize=9.5, transform=axes.transAxes)
    else:
        _legend(axes)


def _bars(axes: Axes, panel: Panel, theme: Theme) -> None:
    """Level bars, so that long names stand in full: a group for each series, a bar in it for each of its steps."""
    there = sorted({int(x) for curve in panel.curves for x in curve.x})
    rows = {x: [curve for curve in panel.curves if x in curve.x] for x in there}
    place, ticks = 0.0, []
    high = max(v + d for c in panel.curves for v, d in zip(c.y, c.deviation, strict=True))
    named: set[str] = set()
    for x in there:
        first = place
        for curve in rows[x]:
            index = curve.x.index(x)
            value, deviation = curve.y[index], curve.deviation[index]
            look: dict[str, Any] = {
                "color": colours(theme)[curve.look % COLOURS],
                "hatch": HATCHES[curve.look % len(HATCHES)],
            }
            label = curve.label if len(panel.curves) > 1 and curve.label not in named else None
            named.add(curve.label)
            error = {"ecolor": theme.ink, "elinewidth": 1.2, "capsize": 3}
            axes.barh(
                place, value, 0.8, xerr=deviation or None, error_kw=error, label=label, edgecolor=theme.paper, **look
            )
            axes.text(value + deviation + 0.015 * high, place, number(value), va="center", fontsize=9.5)
            place += 1
        ticks.append((first + place - 1) / 2)
        place += 0.6
    axes.set_yticks(ticks, [panel.names[x] for x in there])
    axes.invert_yaxis()
    axes.set(xlabel=panel.label, xlim=(0, 1.14 * high))
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    if panel.floor is not None:
        axes.axvline(panel.floor, color=theme.faint, lw=0.9, label=FLOOR)
    if named and (len(panel.curves) > 1 or panel.floor is not None):
        _legend(axes)


def _look(index: int, theme: Theme) -> dict[str, Any]:
    palette = colours(theme)
    again, place = divmod(index, len(palette))  # colours come back with other lines and hollow markers
    look = {"color": palette[place], "linestyle": LINES[(index + 2 * again) % len(LINES)], "ms": 7, "lw": 1.7}
    edge = {"mfc": theme.paper, "mec": palette[place], "mew": 1.5} if again else {"mec": theme.paper, "mew": 0.6}
    return {**look, **edge, "marker": MARKERS[(place + again) % len(MARKERS)]}


def _legend(axes: Axes) -> None:
    """Above the axes, where it covers no point."""
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda index: labels[index] == FLOOR)
    handles, labels = [handles[index] for index in order], [labels[index] for index in order]
    columns = 1 if max(map(len, labels)) > 30 else 2 if max(map(len, labels)) > 16 else 3
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1.0), "borderaxespad": 0.2}
    axes.legend(handles, labels, ncols=columns, frameon=False, fontsize=9.5, **place)
    figure = axes.get_figure(root=True)
    if figure is not None:  # it takes no room from the axes
        figure.set_figheight(figure.get_figheight() + 0.2 * math.ceil(len(labels) / columns))


def _height(axes: Axes, y: float) -> float:
    """Where a value lies on the axes, from 0 at the foot to 1."""
    return float(axes.transAxes.inverted().transform(axes.transData.transform((1.0, y)))[1])


def _spread_out(heights: Sequence[float]) -> list[float]:
    """Heights at least GAP apart, in the same order, each as near to where it was as a few passes get it."""
    order = np.argsort(heights, kind="stable")
    places = np.array(heights, dtype=float)[order]
    for _ in range(100):
        for low, high in zip(range(len(places) - 1), range(1, len(places)), strict=True):
            short = GAP - (places[high] - places[low])
            if short > 1e-6:
                places[low] -= short / 2
                places[high] += short / 2
    spread = np.empty(len(places))
    spread[order] = places
    return [float(place) for place in spread]


def _log_axis(axes: Axes, which: str, values: Sequence[float]) -> None:
    """A log axis with plain ticks: 1, 2, 5 in each decade, or even ones where values span less than a factor of 4."""
    low, high = min(values), max(values)
    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    (axes.set_xlim if which == "x" else axes.set_ylim)(low / 1.25, high * 1.25)
    narrow = high / low < 4
    subs = (1, 2, 3, 5, 7) if high / low < 15 else (1, 2, 5) if high / low < 300 else (1,)
    axis.set_major_locator(MaxNLocator(5) if narrow else LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _plain(value)))
    axis.set_minor_formatter(NullFormatter())
    if narrow:
        axis.set_minor_locator(NullLocator())


def _plain(value: float) -> str:
    text = f"{value:.10f}".rstrip("0").rstrip(".") if 1e-5 <= abs(value) < 1e4 else number(value)
    return text


def _apart(values: Sequence[float], factor: float = 1.3) -> list[float]:
    """Values that lie far enough from each other on a log axis for their labels not to touch, most frequent first."""
    kept: list[float] = []
    for value in sorted(set(values), key=lambda value: (-values.count(value), value)):
        if all(max(value / other, other / value) >= factor for other in kept):
            kept.append(value)
    return sorted(kept)
