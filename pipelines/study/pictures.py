"""Grids of pictures: what teacher and students make of the same initial noise, a column for each."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from components.report.compare import evaluations
from components.report.pictures import enlarge, stack
from mcm.errors import UserError
from pipelines.study.figures import Figures, in_steps
from pipelines.study.outcome import Outcome
from pipelines.study.plots import PlotConfig


@dataclass(frozen=True)
class Strip:
    """A column: its heading, what it took, and the pictures one above the other as PNG."""

    file: str
    heading: str
    took: str
    alt: str
    png: bytes
    width: int
    height: int


@dataclass(frozen=True)
class Grid:
    """Columns whose row k is of the same initial noise and label."""

    title: str
    note: str
    strips: tuple[Strip, ...]


def grids(config: PlotConfig, found: Figures, outcomes: Sequence[Outcome], where: str) -> list[Grid]:
    """A grid for each base, of its first seed that has pictures. The teacher stands at its most steps beside students.

    UserError for a series or base that the study has not, for a study of no images, and for pictures that cannot be
    read.
    """
    where = f"{where} '{config.name}'"
    if found.kind != "images":
        raise UserError(
            f"{where}: kind: pictures is of studies of images, and this one is of kind {found.kind}; drop it"
        )
    found.check_series(config.series, where)
    found.check_bases(config.bases, where)
    names = config.series or found.series
    made = []
    for base in config.bases or found.bases:
        chosen = [
            outcome
            for outcome in outcomes
            if outcome.base == base
            and outcome.series in names
            and outcome.steps in (config.steps or (outcome.steps,))
            and outcome.pictures is not None
            and outcome.pictures.exists()
        ]
        if not chosen:
            continue
        seed = min(outcome.seed for outcome in chosen)
        chosen = [outcome for outcome in chosen if outcome.seed == seed]
        if any(outcome.is_student for outcome in chosen):
            chosen = [
                o for o in chosen if o.is_student or o.steps == max(p.steps for p in chosen if p.series == o.series)
            ]
        chosen.sort(key=lambda outcome: (names.index(outcome.series), -outcome.steps))
        several = f", {base}" if len(found.bases) > 1 else ""
        strips = tuple(_strip(outcome, config, number, several) for number, outcome in enumerate(chosen, 1))
        note = (
            f"Rows start from the same initial noise and class; seed {seed}. Above each column the evaluations of the "
            "network that an image takes."
        )
        made.append(Grid(f"{config.title or 'Samples of the same noise'}{several}", note, strips))
    return made


def _strip(outcome: Outcome, config: PlotConfig, number: int, base: str) -> Strip:
    pictures = _read(outcome)[: config.count]
    image = enlarge(stack(pictures))
    written = io.BytesIO()
    image.save(written, format="PNG", optimize=True)
    alt = f"{len(pictures)} samples, {outcome.series} at {in_steps(outcome.steps)}{base}"
    file = f"{config.name}{f'-{outcome.base}' if base else ''}-{number}.png"
    return Strip(
        file, f"{outcome.series}, {outcome.steps}", evaluations(outcome.nfe), alt, written.getvalue(), *image.size
    )


def _read(outcome: Outcome) -> np.ndarray:
    """uint8 `[N, H, W, C]`."""
    try:
        pictures = np.load(str(outcome.pictures), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(
            f"{outcome.pictures}: not readable as an array ({error}); remove its folder and run again"
        ) from None
    if pictures.dtype != np.uint8 or pictures.ndim != 4:
        raise UserError(f"{outcome.pictures}: {pictures.dtype} {pictures.shape}; pictures are uint8 [N, H, W, C]")
    return pictures
