"""Studies that take seconds: two students and two samplers on 24 pictures of 16 pixels, and on an exact mixture."""

from pathlib import Path
from typing import Any

import yaml

from tests.conftest import data_section, write_pictures

ROWS: list[dict[str, Any]] = [
    {"series": "CD", "method": "cd", "steps": [1, 2]},
    {"series": "aDDIM", "sampler": {"name": "addim", "steps": 2, "x_var": "table"}},
    {"sampler": {"name": "ddim", "steps": 2}},
]


def base(pictures: Path) -> dict[str, Any]:
    """Whole parameters, but for what studies ignore."""
    return {
        "data": data_section(pictures),
        "network": {"preset": "uvit_tiny"},
        "schedule": {"noise_low": 16, "noise_high": 16},
        "teacher": {"iterations": 12, "batch_size": 8, "learning_rate": 2e-3, "emas": [0.9], "checkpoint_every": 4},
        "variance": {"steps": 4, "images": 8, "batch_size": 8},
        "students": {
            "common": {
                "iterations": 12,
                "batch_size": 8,
                "learning_rate": 1e-3,
                "emas": [0.9],
                "checkpoint_every": 4,
                "teacher_steps": {"first": 4, "last": 8, "iterations": 8},
            }
        },
        "evaluation": {"samples": 16, "batch_size": 8, "pictures": 8},
    }


def study(rows: list[dict[str, Any]] | None = None, **values: Any) -> dict[str, Any]:
    """A study file on the base `tiny`."""
    return {"title": "Small", "base": "tiny", "min_samples": 16, "rows": ROWS if rows is None else rows, **values}


def write(
    folder: Path, rows: list[dict[str, Any]] | None = None, params: dict[str, Any] | None = None, **values: Any
) -> Path:
    """`small.yaml`, its base (`params`, if not `base`) and its pictures; the folder for `--studies`."""
    pictures = folder / "pictures"
    if not pictures.exists():
        write_pictures(pictures)
    studies = folder / "studies"
    (studies / "base").mkdir(parents=True, exist_ok=True)
    (studies / "base" / "tiny.yaml").write_text(yaml.safe_dump(params or base(pictures)))
    (studies / "small.yaml").write_text(yaml.safe_dump(study(rows, **values), sort_keys=False))
    return studies


EXACT_ROWS: list[dict[str, Any]] = [
    {"series": "CD", "method": "cd", "steps": [1, 2]},
    {"series": "Heun", "sampler": {"name": "heun", "steps": [1, 2]}},
]


def exact_base() -> dict[str, Any]:
    """Whole parameters of an exact mixture."""
    training = {"iterations": 8, "batch_size": 8, "learning_rate": 1e-3, "emas": [0.9], "checkpoint_every": 4}
    return {
        "exact": {
            "mixture": "rings-2d",
            "network": {"width": 8, "blocks": 1, "embedding": 8},
            "start": dict(training),
            "evaluation": {"samples": 16, "flow_steps": 4, "points": 16, "trajectories": 2},
        },
        "students": {"common": training},
    }


def write_exact(folder: Path, rows: list[dict[str, Any]] | None = None, **values: Any) -> Path:
    """`exact.yaml` of the bases that it names, all alike; the folder for `--studies`."""
    study: dict[str, Any] = {"title": "Exact", "kind": "mixture", "seeds": [0, 1], "table": {"metrics": ["w2"]}}
    study |= {"bases": ["rings"], "rows": EXACT_ROWS if rows is None else rows, **values}
    (folder / "studies" / "base").mkdir(parents=True, exist_ok=True)
    for name in study["bases"]:
        (folder / "studies" / "base" / f"{name}.yaml").write_text(yaml.safe_dump(exact_base()))
    (folder / "studies" / "exact.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    return folder / "studies"
