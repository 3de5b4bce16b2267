"""The lineage record: what one execution of a stage says about itself, as JSON that is never changed.

A field that is None is not known, which differs from empty: nothing is concluded from it. No record holds an absolute
path or a secret: places are relative to the output root, parameters that name a folder keep its last part.
"""

from datetime import datetime
from pathlib import PurePosixPath
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator

from mcm.errors import UserError

KIND, VERSION = "mcm.lineage.record", 1
RUN_KIND = "mcm.lineage.run"

By = Literal["dvc", "mcm", "kubeflow"]
Status = Literal["succeeded", "stopped", "failed"]


class Part(BaseModel):
    """Base of a record and of its parts."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Artifact(Part):
    """A file or folder by its content."""

    name: str = Field(
        description="its role: dataset, teacher, model, variance, images, out, timing, students/cd-4, ..."
    )
    md5: str = Field(description="DVC's md5; of a folder it ends in .dir", pattern=r"^[0-9a-f]{32}(\.dir)?$")
    path: str | None = Field(None, description="place below the output root, such as students/cd-4")
    size: int | None = Field(None, ge=0, description="bytes")
    files: int | None = Field(None, ge=0, description="number of files in a folder")
    measured: bool = Field(False, description="holds measured durations, so that its bytes differ each time")

    @field_validator("path")
    @classmethod
    def _relative(cls, path: str | None) -> str | None:
        if path is not None and (PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts):
            raise ValueError("is not below the output root")
        return path


class Code(Part):
    """The code that ran."""

    commit: str | None = Field(None, description="git commit of the checkout; None in an image, which has no git")
    dirty: bool | None = Field(None, description="whether files differed from that commit")
    files: dict[str, str] | None = Field(None, description="md5 of each file of the project that the stage depends on")


class Hardware(Part):
    """What the stage ran on."""

    processor: str | None = None
    cores: int | None = Field(None, description="those that the process may use")
    threads: int | None = Field(None, description="of one operation on the processor")
    memory: int | None = Field(None, description="bytes of the machine")
    accelerators: tuple[str, ...] = Field((), description="names of those that the process sees")
    devices: int = Field(1, ge=1, description="processes that trained together, one a device")


class Run(Part):
    """What the execution belongs to: one `dvc repro`, one pipeline run, or one call of `mcm`."""

    id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")
    by: By
    experiment: str | None = Field(None, description="name of the DVC experiment")


class Cost(Part):
    """What the execution took."""

    seconds: float = Field(ge=0, description="from start to end")
    device_seconds: float = Field(ge=0, description="seconds times devices")


class Origin(Part):
    """The earlier execution whose result was taken, so that nothing ran."""

    run: str
    record: str


class Record(Part):
    """One execution of one stage. `task` tells the executions of one stage apart: `cd-4`, `teacher`, or empty."""

    kind: Literal["mcm.lineage.record"] = "mcm.lineage.record"
    version: int = VERSION
    id: str = Field(pattern=r"^[0-9a-f]{32}$")
    run: Run
    stage: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    task: str = ""
    status: Status = "succeeded"
    component: str | None = Field(None, description="version of the component")
    code: Code | None = None
    image: str | None = Field(None, description="image reference by digest; empty outside a container")
    parameters: dict[str, JsonValue] = Field(description="resolved values by dotted name, as params.yaml names them")
    seeds: dict[str, int] | None = Field(None, description="those parameters that are seeds")
    inputs: tuple[Artifact, ...]
    outputs: tuple[Artifact, ...]
    hardware: Hardware | None = None
    libraries: dict[str, str] | None = Field(None, description="version of each package that the stage loaded")
    started: AwareDatetime | None = None
    ended: AwareDatetime | None = None
    cost: Cost | None = None
    cached_from: Origin | None = None
    metrics: dict[str, float] = Field({}, description="figures that the execution produced, by dotted name")

    @property
    def name(self) -> str:
        """`train_student cd-4`."""
        return f"{self.stage} {self.task}".strip()


class RunRecord(Part):
    """What a pipeline run was asked for, written once by its first task: `<store>/<run id>/run.json`."""

    kind: Literal["mcm.lineage.run"] = "mcm.lineage.run"
    version: int = VERSION
    run: Run
    params: dict[str, Any] = Field(description="the sections of params.yaml as they were given")
    image: str | None = None
    started: datetime | None = None


class NewerError(UserError):
    """A record that a newer version of this program wrote."""


def parse_record(values: Any, where: str) -> Record:
    """A record from parsed JSON. `where` names the file in the UserError for a newer version or a foreign file."""
    if not isinstance(values, dict) or values.get("kind") != KIND:
        raise UserError(f"{where}: not a lineage record; move it out of the store")
    version = values.get("version")
    if isinstance(version, int) and version > VERSION:
        raise NewerError(f"{where}: record version {version}, and this program reads up to {VERSION}; upgrade it")
    try:
        return Record.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "record"
        raise UserError(
            f"{where}: not a valid lineage record ({place}: {first['msg']}); move it out of the store"
        ) from None
