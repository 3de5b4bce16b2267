"""The artifacts of a run, read once into typed values that the rest of the report works on."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from components.report.read import (
    Floor,
    Licence,
    Metrics,
    Timing,
    parse,
    read_json,
    read_losses,
    read_pictures,
    rows_of,
)
from mcm.artifacts import folder_md5, read_config
from mcm.errors import UserError
from mcm.methods.recipes import RECIPES
from mcm.variance import XVarTable

STUDENT = re.compile(r"([a-z][a-z0-9_]*)-([1-9][0-9]*)")
METHODS = {name: recipe.title for name, recipe in RECIPES.items()}
SAMPLERS = {
    "addim": "aDDIM",
    "addim_inner": "aDDIM, inner steps",
    "ddim": "DDIM",
    "ddpm": "DDPM",
    "noise_ddim": "noise-DDIM",
    "heun": "Heun",
}
EVALUATE = "run the evaluate stage for it"


@dataclass(frozen=True)
class Row:
    """One model sampled in one way: figures of quality, measured cost, and its first pictures."""

    name: str  # "cd-4", or "teacher.addim-64"
    method: str  # "teacher", "cd", "ct", ...
    metrics: Metrics
    timing: Timing
    pictures: np.ndarray  # uint8 [K, H, W, C]

    @property
    def nfe(self) -> int:
        """Evaluations of the network for one image."""
        return self.metrics.nfe

    @property
    def sampler(self) -> str:
        """The sampler's name as people write it, with what is uncommon: of "addim-64-karras", "aDDIM karras"."""
        kind, _, *uncommon = [*self.metrics.sampler.split("-"), ""]
        return " ".join([SAMPLERS.get(kind, kind), *filter(None, uncommon)])

    @property
    def plain_ddim(self) -> bool:
        """Whether this is DDIM without guidance, on the uniform grid: what students are compared with."""
        return self.metrics.sampler == f"ddim-{self.nfe}"

    @property
    def label(self) -> str:
        """What a table calls this row."""
        return f"teacher, {self.sampler}" if self.method == "teacher" else short(self.method)


@dataclass(frozen=True)
class Dataset:
    """What the report says of the images."""

    md5: str
    config: dict[str, Any]
    licences: tuple[Licence, ...]


@dataclass(frozen=True)
class Run:
    """Everything the report is made of. `teacher[0]` is the reference sampler that ratios are to."""

    dataset: Dataset
    teacher: tuple[Row, ...]
    students: tuple[Row, ...]  # by method, then by falling evaluations
    floor: Floor | None
    x_var: XVarTable
    losses: dict[str, pd.DataFrame]  # by "teacher", "cd-4", ...
    configs: dict[str, dict[str, Any]]  # config.json by folder, relative to the artifacts

    @property
    def reference(self) -> Row:
        """The teacher with its reference sampler: the first of its evaluated samplers."""
        return self.teacher[0]

    @property
    def rows(self) -> tuple[Row, ...]:
        return (*self.teacher, *self.students)

    @property
    def methods(self) -> tuple[str, ...]:
        """Methods of the students, in the report's order."""
        return tuple(dict.fromkeys(row.method for row in self.students))

    @property
    def fid_name(self) -> str:
        """FID with the name of its features, such as "FID (EffNet-Lite0@128)": it is comparable with no other FID."""
        return self.reference.metrics.extractor

    @property
    def features(self) -> str:
        """The features' own name, for KID, precision and recall, which are measured with the same ones."""
        return self.fid_name.removeprefix("FID (").removesuffix(")")

    def of(self, method: str) -> tuple[Row, ...]:
        """The students of a method, most evaluations first."""
        return tuple(row for row in self.students if row.method == method)

    def student(self, method: str, steps: int) -> Row | None:
        return next((row for row in self.of(method) if row.nfe == steps), None)

    @property
    def ddim(self) -> tuple[Row, ...]:
        """The teacher with plain DDIM, most evaluations first, without the reference."""
        rows = [row for row in self.teacher[1:] if row.plain_ddim]
        return tuple(sorted(rows, key=lambda row: -row.nfe))


def short(method: str) -> str:
    """A method's abbreviation, as the paper writes it."""
    return method.replace("_", " ").upper()


def collect(artifacts: Path) -> Run:
    """Read what the other stages left under `artifacts`; UserError where something is missing or does not fit."""
    students = _students(artifacts / "students")
    configs = {
        "dataset": read_config(artifacts / "dataset", "dataset", 1),
        "teacher": read_config(artifacts / "teacher", "denoiser", 1),
        "variance": read_config(artifacts / "variance", "variance", 1),
    }
    for name in students:
        configs[f"students/{name}"] = read_config(artifacts / "students" / name, "denoiser", 1)
    for name in ("teacher", *students):
        folder = artifacts / "evaluations" / name
        if not folder.is_dir():
            raise UserError(f"{folder}: missing; {EVALUATE}")
        configs[f"evaluations/{name}"] = read_config(folder, "evaluation", 1)
    run = Run(
        dataset=_dataset(artifacts / "dataset", configs["dataset"]),
        teacher=tuple(_rows(artifacts, "teacher", "teacher")),
        students=tuple(row for name, method in students.items() for row in _rows(artifacts, name, method)),
        floor=_floor(artifacts, configs["evaluations/teacher"]),
        x_var=XVarTable.read(artifacts / "variance" / "table.csv"),
        losses={
            "teacher": read_losses(artifacts / "teacher" / "loss.csv"),
            **{name: read_losses(artifacts / "students" / name / "loss.csv") for name in students},
        },
        configs=configs,
    )
    _comparable(run)
    return run


def _students(folder: Path) -> dict[str, str]:
    """Method by name of every student in the folder, in the report's order."""
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.name.startswith(".") or not path.is_dir():
            continue
        match = STUDENT.fullmatch(path.name)
        if match is None:
            raise UserError(f"{path}: not named <method>-<steps>, as cd-4 is; rename or remove it")
        found.append((match[1], int(match[2]), path.name))
    if not found:
        raise UserError(f"{folder}: no students in it; run the train_student stage first")
    known = list(METHODS)
    found.sort(key=lambda item: (known.index(item[0]) if item[0] in known else len(known), item[0], -item[1]))
    return {name: method for method, _, name in found}


def _dataset(folder: Path, config: dict[str, Any]) -> Dataset:
    path, remedy = folder / "licences.json", "prepare the data again"
    listed = read_json(path, remedy)
    if not isinstance(listed, list):
        raise UserError(f"{path}: not a list of licences; {remedy}")
    return Dataset(folder_md5(folder), config, tuple(parse(Licence, item, str(path), remedy) for item in listed))


def _rows(artifacts: Path, name: str, method: str) -> list[Row]:
    """The rows of one evaluation, each with its timing and pictures."""
    folder, timings_path = artifacts / "evaluations" / name, artifacts / "timings" / f"{name}.json"
    measured = rows_of(Metrics, folder / "metrics.json", EVALUATE)
    timings = rows_of(Timing, timings_path, EVALUATE)
    if method != "teacher" and len(measured) != 1:
        raise UserError(f"{folder}/metrics.json: {len(measured)} rows, and a student has one; {EVALUATE}")
    rows = []
    for key, metrics in measured.items():
        if key not in timings:
            raise UserError(f"{timings_path}: no row '{key}', which metrics.json has; {EVALUATE}")
        if method != "teacher" and name != f"{method}-{metrics.nfe}":
            raise UserError(
                f"{folder}/metrics.json: measured at {metrics.nfe} evaluations, not those of {name}; {EVALUATE}"
            )
        file = f"samples-{key}.npy" if len(measured) > 1 else "samples.npy"
        row_name = f"teacher.{key}" if method == "teacher" else name
        rows.append(Row(row_name, method, metrics, timings[key], read_pictures(folder / file)))
    return rows


def _floor(artifacts: Path, config: dict[str, Any]) -> Floor | None:
    floor = config.get("floor")
    where = f"{artifacts / 'evaluations' / 'teacher'}/config.json, floor"
    return None if floor is None else parse(Floor, floor, where, EVALUATE)


def _comparable(run: Run) -> None:
    """Ratios say something, and picture k shows one noise, only where everything was measured in one way."""
    wanted = run.reference
    for row in run.rows:
        for key in ("extractor", "reference", "samples", "reference_samples", "seed"):
            ours, theirs = getattr(row.metrics, key), getattr(wanted.metrics, key)
            if ours != theirs:
                raise UserError(
                    f"evaluations: {row.name} has {key} {ours!r} and {wanted.name} has {theirs!r}, "
                    "so they do not compare; evaluate both with the same settings"
                )
        if row.pictures.shape != wanted.pictures.shape:
            raise UserError(
                f"evaluations: {row.name} has samples of shape {row.pictures.shape} and {wanted.name} "
                f"{wanted.pictures.shape}; evaluate both with the same settings"
            )
