"""What `studies/<name>.yaml` holds, typed; a study is found by its name, and its bases beside it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, model_validator

from mcm.config import Config, suggest
from mcm.errors import UserError
from pipelines.study.checks import CheckConfig
from pipelines.study.options import STUDIES
from pipelines.study.paper import PaperConfig
from pipelines.study.plots import PlotConfig
from pipelines.study.tables import TableConfig

BASE = "base"
MIN_SAMPLES = 500  # as evaluation's FLOOR_HOLDOUT: of fewer images, FID's bias and KID's error pass what rows differ by


class RowConfig(Config):
    """One entry of `rows`: students by `method` and `steps`, or the teacher's `sampler`. Lists multiply.

    A student with a `sampler` is sampled by it, and else by DDIM at its own steps.
    """

    series: str | None = Field(None, min_length=1, description="its label; None is the method's or the sampler's name")
    method: str | tuple[str, ...] | None = None
    steps: int | tuple[int, ...] | None = None
    sampler: dict[str, Any] | None = Field(None, description="keys of a SamplerConfig, each a value or a list of them")
    set: dict[str, Any] = Field({}, description="dotted keys of the base's parameters and their values in this row")
    bases: tuple[str, ...] = Field((), description="which of the study's bases; none is all of them")
    seeds: tuple[int, ...] = Field((), description="instead of the study's")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        named = f" (series '{self.series}')" if self.series else ""
        if self.method is None and self.sampler is None:
            raise ValueError(f"a row{named} with neither method nor sampler; give one of them")
        if (self.method is None) != (self.steps is None):
            missing, there = ("steps", "method") if self.steps is None else ("method", "steps")
            raise ValueError(f"a row{named} with {there} and without {missing}; a sampler has its steps in 'sampler'")
        return self


class Study(Config):
    """A study file; `name` and `folder` say where it is from."""

    name: str
    folder: Path
    title: str = Field(min_length=1)
    about: str = Field("", description="what it asks, in Markdown; stands at the top of its page")
    kind: Literal["images", "mixture"] = "images"
    base: str | None = Field(None, description="the whole parameters that rows start from: base/<name>.yaml")
    bases: tuple[str, ...] = Field((), description="several of them; every row is made for each")
    seeds: tuple[int, ...] = Field((0,), min_length=1, description="each row is made with each of them")
    rows: tuple[RowConfig, ...] = Field(min_length=1)
    min_samples: int = Field(MIN_SAMPLES, ge=1, description="fewer samples in a row's evaluation are refused; images")
    table: tuple[TableConfig, ...] = Field((TableConfig(),), description="one or several; the first is table.csv")
    plots: tuple[PlotConfig, ...] = ()
    paper: tuple[PaperConfig, ...] = Field((), description="one or several")
    checks: tuple[CheckConfig, ...] = ()
    notes: str = Field("", description="what was found, in Markdown; stands at the end of its page")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.base is None) == (not self.bases):
            raise ValueError("a study has 'base' or 'bases', one of the two; name a file of studies/base")
        plots = [plot.name for plot in self.plots]
        for name, values in (("bases", self.base_names), ("seeds", self.seeds), ("names of plots", plots)):
            if len(set(values)) < len(values):
                raise ValueError(f"{name} hold one twice: {', '.join(map(str, values))}; drop it")
        for row in self.rows:
            for base in row.bases:
                if base not in self.base_names:
                    raise ValueError(f"bases of a row name '{base}'; {suggest(base, list(self.base_names))}")
        return self

    @property
    def base_names(self) -> tuple[str, ...]:
        """Names of all bases."""
        return self.bases or (str(self.base),)

    @property
    def where(self) -> str:
        """How errors name this file."""
        return f"{self.folder.name}/{self.name}.yaml"


def study_names(folder: Path) -> list[str]:
    """Names of the studies in a folder, sorted; UserError where it holds none."""
    names = sorted(file.stem for file in folder.glob("*.yaml"))
    if not names:
        raise UserError(f"{folder}: no studies here; give --studies a folder with <name>.yaml files")
    return names


def read_study(name: str, folder: Path = STUDIES) -> Study:
    """The study `name` of a folder; UserError where it is unknown or not as it must be."""
    known = study_names(folder)
    if name not in known:
        raise UserError(f"study '{name}' is unknown; {suggest(name, known)}")
    path = folder / f"{name}.yaml"
    where = f"{folder.name}/{name}.yaml"
    values = read_yaml(path)
    for own in ("name", "folder"):
        if own in values:
            raise UserError(f"{where}: unknown key '{own}'; a study is called as its file")
    parts = {key: _parts(values[key], key, kind, where) for key, kind in PARTS.items() if key in values}
    return Study.parse({**values, **parts, "name": name, "folder": folder}, where)


PARTS: dict[str, type[Config]] = {
    "rows": RowConfig,
    "table": TableConfig,
    "plots": PlotConfig,
    "paper": PaperConfig,
    "checks": CheckConfig,
}


def _parts(values: Any, key: str, kind: type[Config], where: str) -> tuple[Config, ...]:
    """Each entry of a list parsed by itself, so that an error names it; one mapping stands for a list of one."""
    entries = [values] if isinstance(values, Mapping) else values
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        raise UserError(f"{where}: '{key}' holds {values!r}, and a list of mappings is needed")
    return tuple(kind.parse(entry, f"{where}, {key} {number}") for number, entry in enumerate(entries, 1))


def base_path(study: Study, base: str) -> Path:
    """The file of a base: beside the study, else one of the project's."""
    folders = [study.folder / BASE, STUDIES / BASE]
    for folder in folders:
        if (folder / f"{base}.yaml").is_file():
            return folder / f"{base}.yaml"
    known = sorted({file.stem for folder in folders for file in folder.glob("*.yaml")})
    raise UserError(f"{study.where}: base '{base}' is unknown; {suggest(base, known)}")


def read_yaml(path: Path) -> Mapping[str, Any]:
    """A YAML file that holds a mapping."""
    try:
        values = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path}: not readable as YAML: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds no keys; start from a study or a base of the project")
    return values
