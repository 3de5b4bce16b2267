"""Write the record of an execution: what was read, decided, made and measured is noted where it happens."""

import contextlib
import csv
import json
import math
import os
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import Any

from components.lineage.record import Artifact, Cost, Record, Status
from components.lineage.runs import RUN, output_root, store_of, this_run
from components.lineage.store import keep
from components.storage import is_remote
from mcm.artifacts import file_md5, folder_md5
from mcm.errors import UserError
from mcm.training.stop import StoppedError

ID = "MCM_RECORD"  # environment variable: the id that the record is to have, where another process looks for it
FIGURES = ("metrics.json", "summary.json")
NOT_FIGURES = ("guidance",)

_current: ContextVar["Recorder | None"] = ContextVar("recorder", default=None)


class Recorder:
    """Collects the facts of one execution of a stage. Of several processes, the leading one writes."""

    def __init__(self, stage: str):
        self.stage = stage
        self.task = ""
        self.started = datetime.now(UTC)
        self.parameters: dict[str, Any] = {}
        self.inputs: dict[str, tuple[Artifact, Path | str]] = {}
        self.outputs: dict[str, tuple[Path, Path | str, bool]] = {}

    def input(self, name: str, path: Path, given: Path | str | None = None, measured: bool = False) -> None:
        """Note an input by its content, as it is now. One that is not there is the stage's to complain about."""
        if path.exists() and _leads():
            self.inputs[name] = (artifact(name, path, measured=measured), path if given is None else given)

    def output(self, name: str, path: Path, given: Path | str, measured: bool = False) -> None:
        """Note an output that will lie at `path`, and for the user at `given`."""
        self.outputs[name] = (path, given, measured)

    def write(self, status: Status) -> None:
        """Put the record into the store of the first output, whole or not at all."""
        place = store_of(next(iter(self.outputs.values()))[1]) if self.outputs and _leads() else None
        if place is None:
            return
        made = self.outputs.items() if status == "succeeded" else ()
        outputs = tuple(artifact(name, path, self._below(given), measured) for name, (path, given, measured) in made)
        from components.lineage import surroundings

        libraries = surroundings.libraries()  # before this function loads what the stage did not
        ended, machine = datetime.now(UTC), surroundings.hardware()
        seconds = (ended - self.started).total_seconds()
        values = dict(sorted(flat(self.parameters)))
        record = Record(
            id=os.environ.get(ID) or uuid.uuid4().hex,
            run=this_run(),
            stage=self.stage,
            task=self.task,
            status=status,
            component=component_version(self.stage),
            code=surroundings.code(self.stage),
            image=os.environ.get("MCM_IMAGE", ""),
            parameters=values,
            seeds={name: value for name, value in values.items() if name.rpartition(".")[2] == "seed"},
            inputs=tuple(a.model_copy(update={"path": self._below(given)}) for a, given in self.inputs.values()),
            outputs=outputs,
            hardware=machine,
            libraries=libraries,
            started=self.started,
            ended=ended,
            cost=Cost(seconds=round(seconds, 3), device_seconds=round(seconds * machine.devices, 3)),
            metrics=dict(figure for path, _, _ in dict(made).values() for figure in figures(path)),
        )
        keep(place, record)

    def _below(self, given: Path | str) -> str | None:
        """A place relative to the output root, where it lies below it."""
        first = next(iter(self.outputs.values()), None)
        if RUN in os.environ or first is None or is_remote(given) != is_remote(first[1]):
            return None
        if is_remote(given):
            root = f"{output_root(first[1])}/"
            return str(given).removeprefix(root) if str(given).startswith(root) else None
        with contextlib.suppress(ValueError):
            return Path(given).absolute().relative_to(Path(output_root(first[1])).absolute()).as_posix()
        return None


@contextlib.contextmanager
def recording(stage: str) -> Iterator[Recorder]:
    """Write the record of what the block does. Bad input leaves none: nothing ran."""
    recorder = Recorder(stage)
    token = _current.set(recorder)
    try:
        yield recorder
    except UserError:
        raise
    except (StoppedError, KeyboardInterrupt):
        _try(recorder, "stopped")
        raise
    except Exception:
        _try(recorder, "failed")
        raise
    else:
        _try(recorder, "succeeded")
    finally:
        _current.reset(token)


def _try(recorder: Recorder, status: Status) -> None:
    """What was made is whole without its record: whatever is wrong with that is a warning."""
    try:
        recorder.write(status)
    except Exception as error:
        print(f"warning: {recorder.stage}: its lineage record was not written: {error}", file=sys.stderr)


def note_parameters(section: str, values: Mapping[str, Any]) -> None:
    """Note resolved parameters that the stage at work has read."""
    if recorder := _current.get():
        recorder.parameters[section] = {**recorder.parameters.get(section, {}), **values}


def note_input(name: str, path: Path) -> None:
    """Note an input that is found in the parameters."""
    if recorder := _current.get():
        recorder.input(name, path)


def artifact(name: str, path: Path, place: str | None = None, measured: bool = False) -> Artifact:
    """A file or folder as it is now."""
    if path.is_file():
        return Artifact(name=name, md5=file_md5(path), path=place, size=path.stat().st_size, measured=measured)
    sizes = [file.stat().st_size for file in path.rglob("*") if file.is_file()]
    md5 = folder_md5(path)
    return Artifact(name=name, md5=md5, path=place, size=sum(sizes), files=len(sizes), measured=measured)


def figures(path: Path) -> Iterator[tuple[str, float]]:
    """What was measured or reached, from the files of an artifact that say so."""
    files = [path] if path.is_file() else [path / name for name in FIGURES]
    for file in files:
        if file.is_file():
            for name, value in flat(json.loads(file.read_text())):
                if isinstance(value, float) and math.isfinite(value) and name.rpartition(".")[2] not in NOT_FIGURES:
                    yield name, value
    losses = path / "loss.csv"
    if losses.is_file():
        with losses.open(newline="") as opened:
            rows = list(csv.DictReader(opened))
        if rows and math.isfinite(loss := float(rows[-1]["loss"])):
            yield "loss", loss


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested mappings by dotted name. A path on a machine becomes its last part: places are no facts of a result."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flat(value, f"{name}.")
        elif key == "path" and isinstance(value, str) and not is_remote(value):
            yield name, PurePath(value).name
        else:
            yield name, without_place(value)


def without_place(value: Any) -> Any:
    """A parameter without what it says of a machine: of an absolute path the last part. In mappings, each of them."""
    if isinstance(value, Mapping):
        return {name: without_place(inner) for name, inner in value.items()}
    absolute = isinstance(value, str) and (value.startswith("~") or PurePath(value).is_absolute())
    return PurePath(value).name if absolute else value


def component_version(stage: str) -> str | None:
    """The version in the component's metadata."""
    import yaml

    import components

    file = Path(next(iter(components.__path__))) / stage / "metadata.yaml"
    return str(yaml.safe_load(file.read_text())["version"]) if file.is_file() else None


def _leads() -> bool:
    return int(os.environ.get("RANK", 0)) == 0
