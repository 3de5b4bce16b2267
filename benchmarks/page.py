"""The page of results: `index.html`, and `README.md` with the same words and numbers."""

import math
import re
from pathlib import Path

import jinja2
from markupsafe import Markup, escape

from benchmarks.harness import Figure, Ratio
from benchmarks.machine import Machine, Peak
from benchmarks.results import Entry, plot_file
from mcm.artifacts import atomic_file

TEMPLATES = Path(__file__).parent / "templates"
FILES = {"index.html": "page.html.j2", "README.md": "page.md.j2"}


def number(value: float | None) -> str:
    """Three significant digits, without powers of ten where a reader can do without; "" for None."""
    if value is None:
        return ""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    if digits > 6:
        return f"{value:.2e}"
    return f"{value:,.{digits}f}"


def ratio(value: Ratio | None) -> str:
    """Median, and the range over rounds."""
    if value is None:
        return ""
    return f"{number(value.median)} ({number(value.low)} to {number(value.high)})"


def reached(figure: Figure) -> str:
    return {True: "yes", False: "no", None: ""}[figure.reached]


def peaks(values: list[Peak]) -> str:
    """The peaks of one moment in one clause."""
    return ", ".join(
        f"{number(p.flops / 1e9)} GFLOP/s in {p.precision} ({'x'.join(map(str, p.shape))})" for p in values
    )


def machine(value: Machine) -> str:
    """A machine in one sentence."""
    return (
        f"{value.device}; {value.processor}, {value.cores} cores, {value.threads} threads, {value.memory_gib:g} GiB; "
        f"torch {value.torch}, Python {value.python}, {value.system}"
    )


def words(text: str) -> Markup:
    """A case's text as HTML; what stands between backticks is code, as it is in Markdown."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def aims(entries: dict[str, Entry]) -> tuple[int, int]:
    """How many aims are reached, and how many there are."""
    states = [f.reached for entry in entries.values() for f in entry.results.figures if f.aim is not None]
    return sum(map(bool, states)), len(states)


def write(folder: Path, entries: dict[str, Entry]) -> None:
    """Write both forms of the page into `folder`; the plots lie there already."""
    for name, template in FILES.items():
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(TEMPLATES),
            autoescape=name.endswith(".html"),
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        environment.filters.update(number=number, ratio=ratio, reached=reached, peaks=peaks, machine=machine)
        environment.filters["words"] = words
        environment.filters["cell"] = lambda text: str(text).replace("|", "\\|")
        text = environment.get_template(template).render(entries=entries, aims=aims(entries), plot_file=plot_file)
        with atomic_file(folder / name) as temporary:
            temporary.write_text(text)
