"""Stage train_student: dataset and teacher -> one student of `student_steps` steps, by any method of RECIPES."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from components.lineage.recorder import note_parameters
from components.phases import Run, train_phases
from components.students import StudentConfig, student_config
from components.training import Publish, fit, seeded
from mcm.artifacts import folder_md5
from mcm.data.arrays import ImageSet
from mcm.denoiser import Denoiser
from mcm.errors import UserError
from mcm.methods.recipe import Setting
from mcm.model import Loaded, load_denoiser, start_from
from mcm.networks.presets import build, from_json
from mcm.networks.uvit import UViTConfig
from mcm.training.distributed import Processes, processes
from mcm.training.parallel import parallelize


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
    with processes() as group:

        def train(run: Run) -> bool:
            return _train(run, config, images, work, group)

        train_phases(f"{method}-{student_steps}", config, student_steps, teacher, identity, out, work, train, publish)


def _train(run: Run, config: StudentConfig, images: ImageSet, work: Path | str, group: Processes) -> bool:
    """One phase; whether state beside it is needed no more."""
    source = run.source
    loaded = load_denoiser(source.folder, source.ema, bf16=config.precision == "bf16")
    network = replace(_network(loaded, images, source.folder), reads_end=config.reads_end)
    student = seeded(config.seed, lambda: Denoiser(build(network, config.recompute), config.precision == "bf16"))
    start_from(student, source.folder / f"{loaded.ema}.safetensors")
    setting = Setting(
        schedule=loaded.schedule,
        phase=run.phase,
        teacher=parallelize(loaded.denoiser, config, group) if config.distills else None,
        before=source.before,
        null_label=loaded.num_classes,
        fixed_shapes=config.compile or group.kind.fixed_shapes,
    )
    return fit(
        run.name,
        student,
        config.make(setting),
        images,
        network,
        loaded.schedule,
        config.model_copy(update={"iterations": run.phase.iterations}),
        run.identity,
        run.phase.student_steps,
        run.out,
        work,
        group,
        run.publish,
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
