"""Stage train_student: dataset and teacher -> one student of `student_steps` steps, by CT or CD (Alg. 1)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from components.lineage.recorder import note_parameters
from components.training import Publish, fit
from mcm.artifacts import folder_md5
from mcm.config import Config, suggest
from mcm.data.arrays import ImageSet
from mcm.denoiser import Denoiser
from mcm.errors import UserError
from mcm.methods.consistency import Consistency, TeacherSteps
from mcm.model import Loaded, load_denoiser, load_weights
from mcm.networks.presets import build, from_json
from mcm.networks.uvit import UViTConfig
from mcm.training.config import TrainingConfig
from mcm.training.distributed import processes
from mcm.training.parallel import parallelize

METHODS = ("cd", "ct")


class TeacherStepsConfig(Config):
    """`N_teacher(i)`, annealed log-linearly."""

    first: int = Field(64, ge=1)
    last: int = Field(1280, ge=1)
    iterations: int = Field(100_000, ge=0)


class StudentConfig(TrainingConfig):
    """Section `students`, merged for one student: multistep consistency training or distillation."""

    teacher_steps: TeacherStepsConfig = TeacherStepsConfig()
    teacher_ema: str | None = Field(None, description="weights of the teacher to start from and to distill")
    guidance: float = Field(0.0, ge=0, description="classifier-free guidance of the teacher; cd only")
    x_var_frac: float = Field(0.75, ge=0)
    huber_epsilon: float = Field(1e-4, gt=0)
    distance: Literal["pseudo_huber", "squared", "weighted_norm"] = "pseudo_huber"


def student_config(params: Mapping[str, Any], method: str, student_steps: int) -> StudentConfig:
    """The parameters of one student: `students.common`, then `students.<method>`, then `students.<method>-<steps>`."""
    if method not in METHODS:
        raise UserError(f"method '{method}' is unknown; {suggest(method, list(METHODS))}")
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
    config = StudentConfig.parse(merged, f"parameters, section 'students' ({name})")
    fewest = min(config.teacher_steps.first, config.teacher_steps.last)
    if student_steps > fewest:
        raise UserError(
            f"student_steps is {student_steps}: choose 1 to {fewest}, the smallest number of teacher steps, "
            "or raise students.common.teacher_steps"
        )
    if config.guidance and method == "ct":
        raise UserError(f"parameters, section 'students' ({name}): guidance is the teacher's, and ct has no teacher")
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

    Checkpoints lie under `work`, a folder or `gs://` prefix. `publish` is called once `out` is whole, before they go.
    """
    config = student_config(params, method, student_steps)
    note_parameters("students", {**config.resolved(), "method": method, "student_steps": student_steps})
    images = ImageSet.open(dataset, "train")
    if config.guidance and not images.num_classes:
        raise UserError(f"{dataset}: guidance is {config.guidance}, and this data set has no classes; set it to 0")
    with processes() as group:
        loaded = load_denoiser(teacher, config.teacher_ema, bf16=config.precision == "bf16")
        network = _network(loaded, images, teacher)
        student = Denoiser(build(network, config.recompute), config.precision == "bf16")
        load_weights(student, teacher / f"{loaded.ema}.safetensors")
        algorithm = Consistency(
            schedule=loaded.schedule,
            student_steps=student_steps,
            teacher_steps=TeacherSteps(**config.teacher_steps.model_dump()),
            teacher=parallelize(loaded.denoiser, config, group) if method == "cd" else None,
            guidance=config.guidance,
            null_label=loaded.num_classes,
            x_var_frac=config.x_var_frac,
            distance=config.distance,
            huber_epsilon=config.huber_epsilon,
            fixed_shapes=config.compile or group.kind.fixed_shapes,
        )
        identity = {
            "method": method,
            "student_steps": student_steps,
            "training": config.resolved(),
            "inputs": {"dataset": folder_md5(dataset), "teacher": folder_md5(teacher)},
        }
        name = f"{method}-{student_steps}"
        fit(
            name,
            student,
            algorithm,
            images,
            network,
            loaded.schedule,
            config,
            identity,
            student_steps,
            out,
            work,
            group,
            publish,
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
