"""The page of a study: README.md and index.html with the same words, the figures as CSV, and plots."""

import itertools
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from mcm.artifacts import atomic_file, atomic_folder, write_json
from mcm.errors import UserError
from pipelines.study import markup
from pipelines.study.checks import Check, check
from pipelines.study.content import Content, budget, facts, headline
from pipelines.study.figures import Figures, csv, figures
from pipelines.study.outcome import Outcome
from pipelines.study.paper import Source, source
from pipelines.study.pictures import grids
from pipelines.study.plots import panels, plot
from pipelines.study.rows import series
from pipelines.study.tables import Table, tables

if TYPE_CHECKING:
    from pipelines.study.schema import Study

PLOTS = "plots"


def write(study: "Study", outcomes: Sequence[Outcome], out: Path) -> None:
    """Write the page of `study` into the folder `out`; `plots` in it is replaced as a whole, and gone without plots.

    Rows that are not there (not run yet, or failed) come as outcomes without metrics: the page shows them as a dash
    and counts them. results.csv, table.csv and plots of figures are functions of content alone; timings.csv and
    machine.json, and the page, hold what was measured. Raises UserError as `check_page` does.
    """
    found, content = _content(study, outcomes)
    texts = {
        "results.csv": csv(found.results),
        "table.csv": csv(found.summary[found.summary["n"] > 0]),
        "timings.csv": csv(_timings(outcomes, found)),
        "index.html": markup.page(content),
        "README.md": markup.markdown(content, PLOTS),
    }
    drawn = {f"{chart.name}.svg": chart.light.encode() for plot in content.plots for chart in plot.charts}
    drawn |= {strip.file: strip.png for grid in content.grids for strip in grid.strips}
    if drawn:
        with atomic_folder(Path(out) / PLOTS) as folder:
            for file, data in drawn.items():
                (folder / file).write_bytes(data)
    else:
        shutil.rmtree(Path(out) / PLOTS, ignore_errors=True)
    write_json(Path(out) / "machine.json", {title: dict(values) for title, values in content.facts})
    for name, text in texts.items():  # the page last, which names the others
        with atomic_file(Path(out) / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def check_page(study: "Study", outcomes: Sequence[Outcome]) -> None:
    """UserError where table, plots, paper or checks name what the rows, or a study of this kind, have not.

    `outcomes` need no metrics yet.
    """
    found, sources, *_ = _figures(study, outcomes)
    for config in study.plots:
        if config.kind == "pictures":
            grids(config, found, (), f"{study.where}: plot")
        else:
            panels(config, found, sources, f"{study.where}: plot")


def _figures(
    study: "Study", outcomes: Sequence[Outcome]
) -> tuple[Figures, list[Source], tuple[Table, ...], tuple[Check, ...]]:
    """All that a page says of figures but its plots, which take time to draw."""
    order = [name for row in study.rows for name in series(row, study.where)]
    found = figures(outcomes, study.base_names, order, study.kind)
    if study.paper and study.kind != "images":
        raise UserError(
            f"{study.where}: paper: its figures are of images, and this study is of kind {study.kind}; drop it"
        )
    sources = [source(config, f"{study.where}: paper {number}") for number, config in enumerate(study.paper, 1)]
    checks = (check(config, found, f"{study.where}: check {number}") for number, config in enumerate(study.checks, 1))
    shown = (
        tables(config, found, sources, f"{study.where}: table {number}") for number, config in enumerate(study.table, 1)
    )
    return found, sources, tuple(itertools.chain(*shown)), tuple(checks)


def _content(study: "Study", outcomes: Sequence[Outcome]) -> tuple[Figures, Content]:
    found, sources, shown, checks = _figures(study, outcomes)
    where = f"{study.where}: plot"
    pictures = [grids(config, found, outcomes, where) for config in study.plots if config.kind == "pictures"]
    return found, Content(
        title=study.title,
        headline=headline(found, checks),
        about=study.about,
        tables=shown,
        plots=tuple(plot(config, found, sources, where) for config in study.plots if config.kind != "pictures"),
        grids=tuple(itertools.chain(*pictures)),
        checks=checks,
        notes=study.notes,
        budget=budget(outcomes, found),
        facts=facts(study.name, outcomes, found),
    )


def _timings(outcomes: Sequence[Outcome], found: Figures) -> pd.DataFrame:
    """What was measured by a clock, a line for each row and seed in the order of results.csv."""
    keys = ["base", "series", "steps", "seed"]
    times = {tuple(getattr(o, key) for key in keys): {"seconds": o.seconds, **o.measured} for o in outcomes}
    names = list(dict.fromkeys(["seconds", *sorted({name for values in times.values() for name in values})]))
    lines = []
    for place in zip(*(found.results[key] for key in keys), strict=True):
        lines.append({**dict(zip(keys, place, strict=True)), **{name: times[place].get(name) for name in names}})
    return pd.DataFrame(lines)
