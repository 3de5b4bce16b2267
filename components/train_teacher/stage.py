"""Stage train_teacher: dataset -> teacher, by diffusion training with the v-loss."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from components.runner import section
from components.training import NetworkConfig, Publish, ScheduleConfig, fit, seeded
from mcm.artifacts import folder_md5
from mcm.data.arrays import ImageSet
from mcm.denoiser import Denoiser
from mcm.errors import UserError
from mcm.methods.diffusion import Diffusion
from mcm.networks.presets import build, network_config
from mcm.networks.uvit import UViTConfig
from mcm.training.config import TrainingConfig
from mcm.training.distributed import processes

PREVIEW_STEPS = 16


class TeacherConfig(TrainingConfig):
    """Section `teacher`: diffusion training."""

    label_dropout: float = Field(0.0, ge=0, lt=1, description="share of labels dropped, for classifier-free guidance")
    multiscale_levels: int = Field(0, ge=0, description="2x2 average pools whose v-losses are added")


def train_teacher(
    params: Mapping[str, Any], dataset: Path, out: Path, work: Path | str, publish: Publish | None = None
) -> None:
    """Train a teacher on `dataset` and write it to `out`; checkpoints lie under `work`, a folder or `gs://` prefix.

    `params` is the whole of `params.yaml`; the sections network, schedule and teacher are read. `publish` is called
    once `out` is whole, before the checkpoints go.
    """
    config = section(params, "teacher", TeacherConfig)
    chosen = section(params, "network", NetworkConfig)
    images = ImageSet.open(dataset, "train")
    schedule = section(params, "schedule", ScheduleConfig).schedule(images.resolution)
    network = network_config(chosen.preset, images.resolution, images.channels, images.num_classes, chosen.dropout)
    if not isinstance(network, UViTConfig):
        raise UserError(f"parameters, section 'network': preset '{chosen.preset}' is not a network for images")
    denoiser = seeded(config.seed, lambda: Denoiser(build(network, config.recompute), config.precision == "bf16"))
    method = Diffusion(schedule, config.label_dropout, images.num_classes, config.multiscale_levels)
    identity = {
        "method": "diffusion",
        "student_steps": None,
        "training": config.resolved(),
        "preset": chosen.resolved(),
        "noise": [schedule.noise_low, schedule.noise_high],
        "inputs": {"dataset": folder_md5(dataset)},
    }
    with processes() as group:
        fit(
            "teacher",
            denoiser,
            method,
            images,
            network,
            schedule,
            config,
            identity,
            PREVIEW_STEPS,
            out,
            work,
            group,
            publish,
        )
