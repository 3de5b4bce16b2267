"""A prepared data set of made-up pictures, written by `mcm.data` itself: training on it reads what it always reads."""

from pathlib import Path

import numpy as np
from PIL import Image

from mcm.data.arrays import ImageSet
from mcm.data.config import DataConfig
from mcm.data.prepare import prepare

CLASSES = 4


def image_set(folder: Path, resolution: int, count: int, classes: bool = False) -> ImageSet:
    """The training split of `count` noisy gradients `resolution` pixels wide, in CLASSES classes or in none.

    Pictures and data set lie below `folder`; the same arguments give the same bytes.
    """
    pictures, out = folder / "pictures", folder / ("classes" if classes else "plain")
    if not pictures.exists():
        make = np.random.default_rng(0)
        ramp = np.linspace(0, 1, resolution)
        for index in range(count):
            place = pictures / f"class{index % CLASSES}"
            place.mkdir(parents=True, exist_ok=True)
            colours = make.random((2, 3))
            smooth = colours[0] + (colours[1] - colours[0]) * (ramp[:, None] + ramp[None])[..., None] / 2
            pixels = (smooth * 200 + make.random(smooth.shape) * 55).astype(np.uint8)
            Image.fromarray(pixels).save(place / f"{index}.png")
    labels = "source" if classes else "none"
    prepare(
        DataConfig(source="folder", path=str(pictures), resolution=resolution, holdout=0.0, labels=labels),
        out,
    )
    return ImageSet.open(out)
