"""Strips of pictures: what each sampler makes of the same initial noise and label, one column a sampler."""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from components.report.collect import METHODS, Row, Run, short
from components.report.compare import evaluations

ROWS = 12
SIDE = 96  # least side of a shown picture, in pixels


@dataclass(frozen=True)
class Strip:
    """One column of a grid: a file's name, its heading, what it shows, and the PNG."""

    file: str
    heading: str
    alt: str
    png: bytes
    width: int
    height: int


@dataclass(frozen=True)
class Grid:
    """Columns whose row k is of the same initial noise and label."""

    name: str
    title: str
    strips: tuple[Strip, ...]


def grids(run: Run) -> list[Grid]:
    """A grid for each method, and one of the teacher's plain DDIM at few evaluations."""
    first = strip(run.reference, f"teacher {run.reference.nfe}")
    made = []
    for method in run.methods:
        name = f"{short(method)}: {METHODS[method]}" if method in METHODS else short(method)
        made.append(Grid(method, name, (first, *(strip(row, str(row.nfe)) for row in run.of(method)))))
    if run.ddim:
        columns = (first, *(strip(row, str(row.nfe)) for row in run.ddim))
        made.append(Grid("ddim", "Comparison: the teacher, plain DDIM", columns))
    return made


def strip(row: Row, heading: str) -> Strip:
    """The first pictures of a row, one above the other, enlarged by whole pixels."""
    pictures = row.pictures[:ROWS]
    image = enlarge(stack(pictures))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    alt = f"{len(pictures)} samples, {row.label} at {evaluations(row.nfe)}"
    return Strip(f"samples-{row.name}.png", heading, alt, buffer.getvalue(), *image.size)


def stack(pictures: np.ndarray, gap: int = 1) -> np.ndarray:
    """uint8 `[K, H, W, C]` to one `[K (H + gap) - gap, W, C]`, white between the pictures."""
    count, height, width, channels = pictures.shape
    column = np.full((count, height + gap, width, channels), 255, dtype=np.uint8)
    column[:, :height] = pictures
    return column.reshape(count * (height + gap), width, channels)[:-gap]


def enlarge(pixels: np.ndarray) -> Image.Image:
    """An image of uint8 `[H, W, C]`, each pixel made a square so that it is at least SIDE wide."""
    factor = -(-SIDE // pixels.shape[1])
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
