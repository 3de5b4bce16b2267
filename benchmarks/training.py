"""Training as the product runs it, for a benchmark: the real loop on a prepared set, let go some steps at a time.

`mcm.training.loop.train` runs in a greenlet and waits, inside the loader it was given, between turns. So what is timed
is all that a step costs: drawing and fetching, loss and gradient, clipping, Adam, EMAs, the log, checkpoints. (Not in a
thread: each one that calls OpenMP has workers of its own, and where there are more of them than cores none waits awake
for the next piece of work, which costs a third of a step.)
"""

import contextlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from greenlet import greenlet

from components.runner import section
from components.students import student_config
from components.train_teacher.stage import TeacherConfig
from components.training import NetworkConfig, ScheduleConfig, seeded
from mcm.data.arrays import ImageSet
from mcm.data.stream import TrainingStream, loader
from mcm.denoiser import Denoiser
from mcm.errors import UserError
from mcm.methods.consistency import Consistency, ConsistencyRecipe, TeacherSteps, segments
from mcm.methods.diffusion import Diffusion
from mcm.methods.interface import Batch, Draws, Method
from mcm.methods.recipe import Phase, Setting
from mcm.networks.presets import build, network_config
from mcm.networks.uvit import UViTConfig
from mcm.planning.flops import Passes, forward_flops, step_flops
from mcm.schedules import CosineSchedule
from mcm.training.checkpoint import CheckpointFolder
from mcm.training.config import TrainingConfig
from mcm.training.distributed import Processes
from mcm.training.loop import train

ENDLESS = 10**9  # iterations; a benchmark stops when it has seen enough
STUDENT_STEPS = 4


@dataclass(frozen=True)
class Run:
    """One training: what `train` takes, and the FLOPs that one image of a step needs."""

    name: str
    denoiser: Denoiser
    method: Method
    images: ImageSet
    config: TrainingConfig
    flops: float

    def train(self, processes: Processes, folder: Path, iterations: int = ENDLESS, pace: "Paced | None" = None) -> None:
        """Run it, with logs and checkpoints in `folder`; `pace` has a say before each step."""
        config = self.config.model_copy(update={"iterations": iterations})
        stream = TrainingStream(self.images, config.batch_size, config.seed, config.mirror)

        def batches(start: int, stop: int) -> Iterator[tuple[Batch, Draws]]:
            made = iter(loader(stream, start, stop, config.workers))
            return pace.held(made) if pace else made

        train(
            self.name,
            self.denoiser,
            self.method,
            batches,
            config,
            CheckpointFolder(folder / "checkpoints", self.name, config.keep_checkpoints),
            processes,
            logs=folder / "logs",
        )


def network_of(params: Mapping[str, Any], images: ImageSet) -> UViTConfig:
    """The network that these parameters train on these images."""
    chosen = section(params, "network", NetworkConfig)
    network = network_config(chosen.preset, images.resolution, images.channels, images.num_classes, chosen.dropout)
    if not isinstance(network, UViTConfig):
        raise UserError(f"benchmarks: network preset '{chosen.preset}' is not one for images; choose another")
    return network


def schedule_of(params: Mapping[str, Any], images: ImageSet) -> CosineSchedule:
    """The noise schedule of these parameters on these images."""
    return section(params, "schedule", ScheduleConfig).schedule(images.resolution)


def teacher(params: Mapping[str, Any], images: ImageSet, **changed: Any) -> Run:
    """The teacher's training of `params`, with `changed` keys of its section."""
    config = section(params, "teacher", TeacherConfig).model_copy(update=changed)
    network = network_of(params, images)
    method = Diffusion(schedule_of(params, images), config.label_dropout, images.num_classes, config.multiscale_levels)
    denoiser = _denoiser(network, config)
    return Run("teacher", denoiser, method, images, config, step_flops(network, Passes(1, 0)))


def student(params: Mapping[str, Any], method: str, images: ImageSet, **changed: Any) -> Run:
    """CT or CD of STUDENT_STEPS steps as in `params`, from a teacher with fresh weights, with `changed` keys.

    The FLOPs are those of the passes that must be made: none is counted for an image whose reference is z_s itself.
    """
    config = student_config(params, method, STUDENT_STEPS).model_copy(update=changed)
    assert isinstance(config, ConsistencyRecipe), "CT or CD"
    network = network_of(params, images)
    steps = TeacherSteps(**config.teacher_steps.model_dump())
    setting = Setting(
        schedule_of(params, images),
        Phase(STUDENT_STEPS, config.iterations),
        teacher=_denoiser(network, config).eval().requires_grad_(False),
        null_label=images.num_classes,
    )
    algorithm = config.make(setting)
    teacher_passes = (2 if config.guidance else 1) if method == "cd" else 0
    reference = 1 - 1 / segments(STUDENT_STEPS, steps(0))  # s == t_step for one n_rel of N_seg
    flops = step_flops(network, Passes(1, 0)) + (teacher_passes + reference) * forward_flops(network)
    return Run(method, _denoiser(network, config), algorithm, images, config, flops)


def _denoiser(network: UViTConfig, config: TrainingConfig) -> Denoiser:
    return seeded(config.seed, lambda: Denoiser(build(network), config.precision == "bf16"))


class Paced:
    """A run that takes steps only when called: each call is one turn of `steps` iterations. Close it in the end."""

    def __init__(self, run: Run, processes: Processes, folder: Path, steps: int):
        self.run, self.steps = run, steps
        self._left = 0  # steps of the turn that are still to be taken
        self._closed = False
        self._loop = greenlet(lambda: run.train(processes, folder, pace=self))
        run.denoiser.to(processes.device)
        if isinstance(run.method, Consistency) and isinstance(run.method.teacher, Denoiser):
            run.method.teacher.to(processes.device)
        # The bar of a run that waits for its turn says nothing true, and stays silent.
        with contextlib.redirect_stderr(io.StringIO()):
            self()

    def __call__(self) -> None:
        """One turn. Raises what the loop raised."""
        self._left = self.steps
        self._loop.switch()

    @property
    def flops(self) -> float:
        """Of one turn."""
        return self.images * self.run.flops

    @property
    def images(self) -> int:
        """Of one turn."""
        return self.steps * self.run.config.batch_size

    def held(self, batches: Iterator[tuple[Batch, Draws]]) -> Iterator[tuple[Batch, Draws]]:
        """The batches, each made when its step may be taken; their end once the run is closed."""
        while self._may_go():
            yield next(batches)
            # The loop is back for the next batch: the step is done.
            self._left -= 1

    def close(self) -> None:
        """End the training without a last checkpoint, and wait for what it has begun."""
        self._closed = True
        if not self._loop.dead:
            self._loop.switch()

    def _may_go(self) -> bool:
        """Rest until the next turn, where this one is over, and with it all that it started on the device."""
        if self._left == 0:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self._loop.parent.switch()
        return not self._closed
