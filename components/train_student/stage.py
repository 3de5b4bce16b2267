"""Stage train_student: dataset and teacher -> one student of `student_steps` steps, by any method of RECIPES."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import create_model

from components.lineage.recorder import note_parameters
from components.train_student.phases import Made
from components.training import Publish, fit
from mcm.artifacts import folder_md5
from mcm.config import suggest
from mcm.data.arrays import ImageSet
from mcm.denoiser import Denoiser
from mcm.errors import UserError
from mcm.methods.recipe import Phase, Recipe, Setting
from mcm.methods.recipes import RECIPES
from mcm.model import Loaded, load_denoiser, load_weights
from mcm.networks.presets import build, from_json
from mcm.networks.uvit import UViTConfig
from mcm.training.config import TrainingConfig
from mcm.training.distributed import Processes, processes
from mcm.training.parallel import parallelize


class StudentConfig(Recipe, TrainingConfig):
    """Section `students`, merged for one student: the optimizer's keys, and those of its method."""


@functools.cache
def config_type(method: str) -> type[StudentConfig]:
    """The keys that a student by `method` has; UserError where there is no such method."""
    if method not in RECIPES:
        raise UserError(f"method '{method}' is unknown; {suggest(method, list(RECIPES))}")
    made = create_model(f"{RECIPES[method].__name__}Student", __base__=(RECIPES[method], TrainingConfig))
    return cast(type[StudentConfig], made)


def student_config(params: Mapping[str, Any], method: str, student_steps: int) -> StudentConfig:
    """The parameters of one student: `students.common`, then `students.<method>`, then `students.<method>-<steps>`."""
    kind = config_type(method)
    if student_steps < 1:
        raise UserError(f"student_steps is {student_steps}: choose 1 or more; 1 is a consistency model")
    students = params.get("students") or {}
    name = f"{method}-{student_steps}"
    merged: dict[str, Any] = {}
    for part in ("common", method, name):
        values = students.get(part) or {}
        if not isinstance(values, Mapping):
            raise UserError(f"parameters, section 'students', '{part}': holds {values!r}, and a mapping is needed")
        for key, value in values.items():
            both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
            merged[key] = {**merged[key], **value} if both else value
    config = kind.parse(merged, f"parameters, section 'students' ({name})")
    try:
        config.check(student_steps)
        config.phases(student_steps, config.iterations)
    except UserError as error:
        raise UserError(f"parameters, section 'students' ({name}): {error}") from None
    return config


def train_student(
    params: Mapping[str, Any],
    method: str,
    student_steps: int,
    dataset: Path,
    teacher: Path,
    out: Path,
    work: Path | str,
    publish: Publish | None = None,
) -> None:
    """Train the `student_steps`-step student of `teacher` on `dataset` by `method` and write it to `out`.

    Checkpoints, and what phases before the last made, lie under `work`, a folder or `gs://` prefix. `publish` is called
    once `out` is whole, before they go.
    """
    config = student_config(params, method, student_steps)
    note_parameters("students", {**config.resolved(), "method": method, "student_steps": student_steps})
    images = ImageSet.open(dataset, "train")
    if config.needs_classes and not images.num_classes:
        raise UserError(f"{dataset}: {method}-{student_steps} is guided, and this data set has no classes; guide none")
    identity = {
        "method": method,
        "student_steps": student_steps,
        "training": config.resolved(),
        "inputs": {"dataset": folder_md5(dataset), "teacher": folder_md5(teacher)},
    }
    name = f"{method}-{student_steps}"
    *between, last = config.phases(student_steps, config.iterations)
    handed: list[Made] = []
    source = _Source(teacher, config.teacher_ema)
    with processes() as group:
        for number, phase in enumerate(between, 1):
            own_name, own = f"{name}-phase{number}", {**identity, "phase": number}
            made = Made.of(work, own_name, own)
            if not made.ended():
                _train(own_name, config, phase, source, images, own, made.folder, work, group, made.publish)
            handed.append(made)
            source = _Source(made.there(), None, phase, source.begin + phase.iterations)
        if _train(name, config, last, source, images, identity, out, work, group, publish) and group.leads:
            for made in handed:
                made.clear()


@dataclass(frozen=True)
class _Source:
    """Where a phase starts and whom it asks: the teacher, or what the phase before has made."""

    folder: Path
    ema: str | None
    before: Phase | None = None
    begin: int = 0  # iterations of the phases before


def _train(
    name: str,
    config: StudentConfig,
    phase: Phase,
    source: _Source,
    images: ImageSet,
    identity: Mapping[str, Any],
    out: Path,
    work: Path | str,
    group: Processes,
    publish: Publish | None,
) -> bool:
    """One phase, from `source` to a denoiser in `out`; whether state beside it is needed no more."""
    loaded = load_denoiser(source.folder, source.ema, bf16=config.precision == "bf16")
    network = _network(loaded, images, source.folder)
    student = Denoiser(build(network, config.recompute), config.precision == "bf16")
    load_weights(student, source.folder / f"{loaded.ema}.safetensors")
    setting = Setting(
        schedule=loaded.schedule,
        phase=phase,
        teacher=parallelize(loaded.denoiser, config, group) if config.distills else None,
        before=source.before,
        null_label=loaded.num_classes,
        fixed_shapes=config.compile or group.kind.fixed_shapes,
    )
    return fit(
        name,
        student,
        config.make(setting),
        images,
        network,
        loaded.schedule,
        config.model_copy(update={"iterations": phase.iterations}),
        identity,
        phase.student_steps,
        out,
        work,
        group,
        publish,
        source.begin,
    )


def _network(loaded: Loaded, images: ImageSet, teacher: Path) -> UViTConfig:
    network = from_json(loaded.config["network"], f"{teacher}/config.json")
    data = (images.channels, images.resolution, images.resolution)
    if not isinstance(network, UViTConfig) or loaded.shape != data or loaded.num_classes != images.num_classes:
        raise UserError(
            f"{teacher}: this teacher is for images {loaded.shape} of {loaded.num_classes} classes, and the data set "
            f"holds {data} of {images.num_classes}; train a teacher on this data set"
        )
    return network
