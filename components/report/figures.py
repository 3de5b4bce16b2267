"""The charts: the dial, x_var and loss curves, each drawn for light and dark pages and as PNG for the Markdown twin."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from components.report.collect import Row, Run, short

# The palette of Okabe and Ito (2008), which people with any colour vision tell apart.
BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
SKY, ORANGE, YELLOW = "#56B4E9", "#E69F00", "#F0E442"
MARKERS, DASHES = ("o", "s", "^", "v", "P", "X"), ("-", "--", "-.", ":")


@dataclass(frozen=True)
class Theme:
    """Colours of one page. `series` are for the students' methods in turn, then for lines of any kind."""

    ink: str
    paper: str
    faint: str
    ddim: str
    series: tuple[str, ...]


LIGHT = Theme("#1b1f24", "#ffffff", "#6b7280", GREEN, (BLUE, VERMILLION, PURPLE, ORANGE, SKY, "#000000"))
DARK = Theme("#e6e8eb", "#171a1f", "#9aa3ae", GREEN, (SKY, ORANGE, PURPLE, YELLOW, VERMILLION, "#ffffff"))


@dataclass(frozen=True)
class Chart:
    """One chart as bytes, and the sentence that stands for it where it cannot be seen."""

    name: str
    title: str
    alt: str
    light: bytes  # SVG
    dark: bytes  # SVG
    png: bytes


Draw = Callable[[Axes, Theme], None]


def render(name: str, title: str, alt: str, draw: Draw, height: float = 4.2) -> Chart:
    """Draw a chart in each form. The bytes depend on what is drawn alone."""
    light, dark = (_save(draw, theme, "svg", height) for theme in (LIGHT, DARK))
    return Chart(name, title, alt, light, dark, _save(draw, LIGHT, "png", height))


def _save(draw: Draw, theme: Theme, kind: str, height: float) -> bytes:
    settings: dict[Any, Any] = {
        **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), theme.ink),
        "axes.edgecolor": theme.faint,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.facecolor": theme.paper,
        "figure.facecolor": theme.paper,
        "grid.color": theme.faint,
        "grid.alpha": 0.25,
        "font.size": 10.5,
        "svg.hashsalt": "report",
    }
    with plt.rc_context(settings):
        figure, axes = plt.subplots(figsize=(5.2, height), layout="constrained")
        draw(axes, theme)
        buffer = io.BytesIO()
        metadata = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
        figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
        plt.close(figure)
    return buffer.getvalue()


def _legend(axes: Axes, columns: int = 2) -> None:
    """Above the axes, where it covers no point."""
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1.0), "borderaxespad": 0.2}
    axes.legend(ncols=columns, frameon=False, fontsize=9.5, **place)


def _plain(value: float, _position: int | None = None) -> str:
    return f"{value:g}"


def _log_ticks(axes: Axes, which: str, values: list[float]) -> None:
    """Log axis with readable ticks: 1, 2, 5 in each decade, or even ones where the values span less than a factor 4."""
    values = [value for value in values if value > 0] or [1.0]
    low, high = min(values), max(values)
    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    (axes.set_xlim if which == "x" else axes.set_ylim)(low / 1.25, high * 1.25)
    narrow = high / low < 4
    axis.set_major_locator(MaxNLocator(5) if narrow else LogLocator(subs=(1, 2, 5) if high / low < 300 else (1,)))
    axis.set_major_formatter(FuncFormatter(_plain))
    axis.set_minor_formatter(NullFormatter())
    if narrow:
        axis.set_minor_locator(NullLocator())


def dial(run: Run) -> list[Chart]:
    """FID against evaluations and against seconds per image, log-log."""
    charts = []
    listed = "; ".join(f"{row.label} at {row.nfe}: {row.metrics.fid:.3g}" for row in run.rows)
    for name, title, unit, cost in (
        ("dial-nfe", f"{run.fid_name} against evaluations", "evaluations of the network per image", _nfe),
        ("dial-seconds", f"{run.fid_name} against time", "seconds per image", _seconds),
    ):

        def draw(axes: Axes, theme: Theme, cost: Callable[[Row], float] = cost, unit: str = unit) -> None:
            _draw_dial(axes, theme, run, cost, unit)

        charts.append(render(name, title, f"{title}, log-log axes. {listed}.", draw, height=4.2))
    return charts


def _nfe(row: Row) -> float:
    return float(row.nfe)


def _seconds(row: Row) -> float:
    return row.timing.seconds_per_image


def _draw_dial(axes: Axes, theme: Theme, run: Run, cost: Callable[[Row], float], unit: str) -> None:
    def line(rows: tuple[Row, ...], label: str, colour: str, marker: str, style: str) -> None:
        x, y = [cost(row) for row in rows], [row.metrics.fid for row in rows]
        look: dict[str, Any] = {"color": colour, "marker": marker, "ms": 7, "lw": 1.6, "mec": theme.paper, "mew": 0.6}
        axes.plot(x, y, style, label=label, zorder=3, **look)

    for index, method in enumerate(run.methods):
        colour, marker = theme.series[index % len(theme.series)], MARKERS[index % len(MARKERS)]
        line(run.of(method), f"{short(method)} students", colour, marker, "-")
    if run.ddim:
        line(run.ddim, "teacher, DDIM", theme.ddim, "D", "--")
    reference = run.reference
    shown = [row for row in run.teacher[1:] if not row.plain_ddim]
    axes.plot(
        cost(reference),
        reference.metrics.fid,
        "*",
        color=theme.ink,
        ms=15,
        mec=theme.paper,
        zorder=4,
        label=f"teacher, {reference.sampler} at {reference.nfe}",
    )
    axes.axhline(reference.metrics.fid, color=theme.ink, lw=0.8, alpha=0.35, zorder=1)
    for row in shown:
        axes.plot(cost(row), row.metrics.fid, "h", color=theme.faint, ms=8, label=f"{row.label} at {row.nfe}")
    values = [row.metrics.fid for row in run.rows]
    if run.floor is not None:
        label = "noise floor (real images)"
        axes.axhline(run.floor.fid, color=theme.faint, ls=(0, (2, 2)), lw=1.5, label=label, zorder=1)
        values.append(run.floor.fid)
    costs = [cost(row) for row in run.rows]
    _log_ticks(axes, "x", costs)
    _log_ticks(axes, "y", values)
    if cost is _nfe:
        axes.xaxis.set_major_locator(matplotlib.ticker.FixedLocator(_apart(costs)))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set(xlabel=unit, ylabel=run.fid_name)
    axes.grid(which="major")
    _legend(axes)


def _apart(values: list[float], factor: float = 1.3) -> list[float]:
    """Values that lie far enough from each other on a log axis for their labels not to touch."""
    kept: list[float] = []
    for value in sorted(set(values)):
        if not kept or value / kept[-1] >= factor:
            kept.append(value)
    return kept


def x_var(run: Run) -> Chart:
    """Posterior variance over t: measured, with two standard errors, and analytic."""
    table = run.x_var
    error = np.nan_to_num(table.standard_error)

    def draw(axes: Axes, theme: Theme) -> None:
        low = np.maximum(table.x_var - 2 * error, table.x_var.min() / 10)
        axes.fill_between(table.t, low, table.x_var + 2 * error, color=theme.series[0], alpha=0.25, lw=0)
        axes.plot(table.t, table.x_var, color=theme.series[0], label="measured, with 2 standard errors")
        axes.plot(table.t, table.analytic, color=theme.series[1], ls="--", label="analytic, 0.1 / (2 + SNR)")
        axes.set(xlabel="t (0 is data, 1 is noise)", ylabel="$x_{var}$ per dimension", yscale="log", xlim=(0, 1))
        axes.grid(which="major")
        _legend(axes, columns=1)

    middle = int(np.argmin(np.abs(table.t - 0.5)))
    alt = (
        f"Posterior variance per dimension against t, log scale: at t = {table.t[middle]:.2f} measured "
        f"{table.x_var[middle]:.3g} with standard error {error[middle]:.2g}, analytic {table.analytic[middle]:.3g}."
    )
    return render("x_var", "x_var: measured against analytic", alt, draw, height=3.5)


def losses(run: Run) -> list[Chart]:
    """Loss curves, one chart for the teacher and one for each method, whose losses do not compare."""
    groups: list[tuple[str, str, tuple[str, ...]]] = [("teacher", "Teacher: v-loss", ("teacher",))]
    groups += [(m, f"{short(m)} students: loss", tuple(row.name for row in run.of(m))) for m in run.methods]
    charts = []
    for group, title, names in groups:

        def draw(axes: Axes, theme: Theme, names: tuple[str, ...] = names) -> None:
            for index, name in enumerate(names):
                curve = run.losses[name]
                colour, dash = theme.series[index % len(theme.series)], DASHES[index % len(DASHES)]
                axes.plot(curve["iteration"], curve["loss"], dash, color=colour, lw=1.6, label=name)
            axes.set(xlabel="iteration", ylabel="mean loss since the last point")
            _log_ticks(axes, "y", [value for name in names for value in run.losses[name]["loss"]])
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            axes.grid(which="major")
            if len(names) > 1:
                _legend(axes, columns=4)

        ends = "; ".join(f"{name} from {_end(run, name, 0):.3g} to {_end(run, name, -1):.3g}" for name in names)
        alt = f"Training loss against iteration, log scale: {ends}."
        charts.append(render(f"loss-{group}", title, alt, draw, height=3.2))
    return charts


def _end(run: Run, name: str, index: int) -> float:
    return float(run.losses[name]["loss"].iloc[index])
