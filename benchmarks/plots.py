"""Plots of the benchmarks' page: one style, readable in print and with any colour vision."""

import io
from collections.abc import Callable
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from benchmarks.harness import Plot

# The palette of Okabe and Ito (2008), darkest first; a series differs in marker and line, or in hatch, too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))
HATCHES = ("", "//", "..", "xx", "\\\\", "++")


def series(number: int) -> dict[str, Any]:
    """Keywords of `Axes.plot` for line `number` of a plot."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": LINES[number % len(LINES)],
    }


def bars(number: int) -> dict[str, Any]:
    """Keywords of `Axes.bar` for group `number` of a plot."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "hatch": HATCHES[number % len(HATCHES)],
        "edgecolor": "white",
    }


def plot(name: str, caption: str, draw: Callable[[Axes], None], height: float = 3.6) -> Plot:
    """`draw(axes)` sets labels with units, and plots; `name` becomes part of a file's name."""
    settings: dict[Any, Any] = {
        "axes.grid": True,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "font.size": 10.5,
        "grid.alpha": 0.3,
        "legend.frameon": False,
        "svg.fonttype": "none",
        "svg.hashsalt": name,
    }
    with plt.rc_context(settings):
        figure, axes = plt.subplots(figsize=(6.4, height), layout="constrained")
        draw(axes)
        written = io.StringIO()
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
        plt.close(figure)
    return Plot(name, caption, written.getvalue())
