"""Small real inputs that many tests share."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from components.prepare_data.stage import prepare_data

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))


def tiny_params() -> dict[str, Any]:
    """Parameters of a chain that takes seconds: 16-pixel images, a network of a few thousand weights."""
    return {
        "network": {"preset": "uvit_tiny"},
        "schedule": {"noise_low": 16, "noise_high": 16},
        "teacher": {
            "iterations": 24,
            "batch_size": 8,
            "learning_rate": 2e-3,
            "emas": [0.9, 0.5],
            "log_every": 5,
            "checkpoint_every": 8,
            "mirror": True,
        },
        "variance": {"steps": 4, "images": 8, "batch_size": 8},
        "students": {
            "methods": ["cd", "ct"],
            "steps": [1, 2],
            "common": {
                "seed": 1,
                "iterations": 16,
                "batch_size": 8,
                "learning_rate": 1e-3,
                "emas": [0.9],
                "log_every": 5,
                "checkpoint_every": 8,
                "teacher_steps": {"first": 8, "last": 32, "iterations": 12},
            },
            **{name: {} for name in ("cd", "ct", "cd-1", "ct-1", "ct-2")},
            "cd-2": {"iterations": 16},
        },
        "evaluation": {
            "samples": 16,
            "batch_size": 8,
            "pictures": 8,
            "teacher_samplers": [
                {"name": "addim", "steps": 4, "x_var": "table"},
                {"name": "ddim", "steps": 2},
                {"name": "ddim", "steps": 1},
            ],
        },
    }


def write_pictures(folder: Path, count: int = 24, size: int = 20) -> Path:
    """An ImageFolder of two classes: discs and squares of seeded colours on a plain ground."""
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[:size, :size]
    for index in range(count):
        name = ("disc", "square")[index % 2]
        centre, radius = generator.uniform(size * 0.3, size * 0.7, 2), generator.uniform(size * 0.15, size * 0.4)
        offset = np.stack([rows - centre[0], columns - centre[1]])
        inside = (np.hypot(*offset) if name == "disc" else np.abs(offset).max(axis=0)) < radius
        ground, colour = generator.integers(0, 256, (2, 3))
        picture = np.where(inside[..., None], colour, ground).astype(np.uint8)
        (folder / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / name / f"{index:03d}.png")
    return folder


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared data set of 24 pictures at 16 pixels, two classes."""
    folder = tmp_path_factory.mktemp("tiny")
    pictures = write_pictures(folder / "pictures")
    prepare_data({"data": data_section(pictures)}, folder / "dataset")
    return folder / "dataset"


def data_section(pictures: Path) -> dict[str, Any]:
    """The `data` section that prepares `write_pictures`."""
    return {"source": "folder", "path": str(pictures), "resolution": 16, "holdout": 0.2}
