"""Multistep consistency training (CT) and distillation (CD): Algorithm 1 of the paper."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from mcm.config import Config
from mcm.denoiser import Predictor, both, guide
from mcm.errors import UserError
from mcm.methods.interface import Batch, Draws, uniform_integer
from mcm.methods.losses import DISTANCES
from mcm.methods.recipe import Recipe, Setting
from mcm.schedules import NoiseLevel
from mcm.steps import addim, addim_inner, ddim, inv_ddim, noise, norm_sq, per_image


@dataclass(frozen=True)
class TeacherSteps:
    """`N_teacher(i)`: log-linear from `first` to `last` over `iterations`, then constant (App. A.1)."""

    first: int = 64
    last: int = 1280
    iterations: int = 100_000

    def __call__(self, iteration: int) -> float:
        progress = min(max(iteration / self.iterations, 0.0), 1.0) if self.iterations else 1.0
        return math.exp(math.log(self.first) + progress * (math.log(self.last) - math.log(self.first)))


@dataclass(frozen=True)
class Times:
    """Times of a batch on the integer grid k / T: `t = t_index / T`, `s = t - 1/T`, `t_step = step_index / T`.

    They lie on the host, as the draws that they come from.
    """

    t_index: Tensor  # [B] int64
    step_index: Tensor  # [B] int64
    total: int  # T

    @property
    def at_step(self) -> Tensor:
        """`s == t_step`, compared as integers, bool `[B]`."""
        return self.t_index - 1 == self.step_index


def segments(student_steps: int, teacher_steps: float) -> int:
    """`N_seg = round(N_teacher / S)`, at least 1."""
    return max(1, round(teacher_steps / student_steps))


def draw_times(draws: Draws, student_steps: int, teacher_steps: float) -> Times:
    """Alg. 1: `step ~ U{0..S-1}`, `n_rel ~ U{1..N_seg}`, `t = step/S + n_rel/T`."""
    per_segment = segments(student_steps, teacher_steps)
    step_index = uniform_integer(draws.segment, student_steps) * per_segment
    n_rel = 1 + uniform_integer(draws.time, per_segment)
    return Times(step_index + n_rel, step_index, student_steps * per_segment)


@dataclass(frozen=True)
class Consistency:
    """Algorithm 1. With a `teacher` it is distillation (CD), without one it is training (CT).

    `guidance` applies to the teacher; x_var is always taken from its conditional prediction. `synchronized_dropout`
    gives both evaluations of the student the same mask; it is off only to show what it does. `fixed_shapes` evaluates
    the reference for every image, also where it is not read, for devices that compile each shape anew.
    """

    schedule: Callable[[Tensor], NoiseLevel]
    student_steps: int
    teacher_steps: TeacherSteps
    teacher: Predictor | None = None
    guidance: float = 0.0
    null_label: int = 0
    x_var_frac: float = 0.75
    distance: str = "pseudo_huber"
    huber_epsilon: float = 1e-4
    synchronized_dropout: bool = True
    fixed_shapes: bool = False
    teacher_step: str = "addim"

    def teach(self, batch: Batch, z_t: Tensor, t: NoiseLevel, s: NoiseLevel) -> Tensor:
        """Alg. 1, the teacher's step: `z_s = aDDIM_{t->s}(x_teacher, z_t, x_var)`, without graph.

        With `teacher_step` "addim_inner" its steps to the data are DDIM's. With "midpoint" it is of second order, by a
        second evaluation; no x_var is left to restore.
        """
        if self.teacher is None:
            return ddim(batch.images, z_t, t, s)  # x_var = ||x - x||^2 = 0
        with torch.no_grad():
            x_cond, x_teacher = self._ask(self.teacher, batch, z_t, t)
            if self.teacher_step == "midpoint":
                middle = halfway(t, s)
                z_middle = ddim(x_teacher, z_t, t, middle)
                return midpoint(x_teacher, self._ask(self.teacher, batch, z_middle, middle)[1], z_t, t, middle, s)
            x_var = self.x_var_frac * norm_sq(x_cond - batch.images) / x_cond[0].numel()
            return (addim_inner if self.teacher_step == "addim_inner" else addim)(x_teacher, z_t, t, s, x_var)

    def _ask(self, teacher: Predictor, batch: Batch, z_t: Tensor, t: NoiseLevel) -> tuple[Tensor, Tensor]:
        """What the teacher predicts for the class, and with guidance."""
        if not self.guidance:
            x_cond = teacher(z_t, t, batch.labels)
            return x_cond, x_cond
        assert batch.labels is not None, "guidance is between classes and none"
        x_cond, x_uncond = both(teacher, z_t, t, batch.labels, self.null_label)
        return x_cond, guide(x_cond, x_uncond, self.guidance)

    def refer(
        self,
        student: Predictor,
        batch: Batch,
        draws: Draws,
        times: Times,
        z_s: Tensor,
        s: NoiseLevel,
        t_step: NoiseLevel,
    ) -> Tensor:
        """Alg. 1, the reference: `z_ref = DDIM_{s->t_step}(f(z_s, s), z_s)`, without graph, and z_s itself where
        s == t_step (Eq. 8), whatever the student says there.

        The student is asked only where its answer is read; at least for one image, since processes that share a network
        by parts must all ask equally often. With one teacher step a segment nobody asks.
        """
        if times.total == self.student_steps:
            return z_s
        read = torch.ones_like(times.at_step) if self.fixed_shapes else ~times.at_step
        read[0] |= not read.any()
        rows, at_step = (
            value.to(z_s.device, non_blocking=True) for value in (read.nonzero()[:, 0], times.at_step[read])
        )
        z_s_read, s, t_step, seeds = z_s[rows], s.at(rows), t_step.at(rows), draws.dropout_seeds[rows]
        labels = None if batch.labels is None else batch.labels[rows]
        with torch.no_grad():
            x_ref = student(z_s_read, s, labels, seeds if self.synchronized_dropout else seeds + 1)
        stepped = _ddim_or_same(x_ref, z_s_read, s, t_step)
        return z_s.index_copy(0, rows, torch.where(per_image(at_step, z_s).bool(), z_s_read, stepped))

    def loss(self, student: Predictor, batch: Batch, draws: Draws, iteration: int) -> Tensor:
        times = draw_times(draws, self.student_steps, self.teacher_steps(iteration))
        device = batch.images.device
        t, s, t_step = (
            self.schedule(index.double() / times.total).to(device)
            for index in (times.t_index, times.t_index - 1, times.step_index)
        )
        z_t = noise(batch.images, draws.eps, t)
        z_ref = self.refer(student, batch, draws, times, self.teach(batch, z_t, t, s), s, t_step)
        x_hat = student(z_t, t, batch.labels, draws.dropout_seeds)
        x_diff = inv_ddim(z_ref, z_t, t, t_step) - x_hat
        return DISTANCES[self.distance](x_diff, t, self.huber_epsilon)


def halfway(t: NoiseLevel, s: NoiseLevel) -> NoiseLevel:
    """The level in the middle of the angle `atan2(sigma, alpha)`, in which the ODE is smooth from end to end, `[B]`."""
    angle = (torch.atan2(t.sigma, t.alpha) + torch.atan2(s.sigma, s.alpha)) / 2
    return NoiseLevel(angle.cos(), angle.sin(), -2 * angle.tan().log())


def midpoint(x_hat: Tensor, x_middle: Tensor, z_t: Tensor, t: NoiseLevel, middle: NoiseLevel, s: NoiseLevel) -> Tensor:
    """The midpoint rule for a step t -> s; `x_middle` is the prediction at `ddim(x_hat, z_t, t, middle)`.

    In the angle the ODE reads `dz = v` (Salimans & Ho 2022, App. D), and DDIM is the rotation that keeps x_hat and
    eps_hat. The change of v until halfway, `(x_hat - x_middle) / sigma_middle`, is what the whole step lacks. The
    factor sigma_t / sigma_middle sets this apart from DDIM by x_middle alone (DPM-Solver-2, Lu et al. 2022, Alg. 1): it
    is about 1 except near the data, where steps are long next to t and that rule falls below second order.
    """
    return ddim(x_hat + per_image(t.sigma / middle.sigma, z_t) * (x_middle - x_hat), z_t, t, s)


def _ddim_or_same(x_ref: Tensor, z_s: Tensor, s: NoiseLevel, t_step: NoiseLevel) -> Tensor:
    """DDIM s -> t_step, finite (and unused) at s = 0, where sigma_s = 0 has no ratio."""
    safe = NoiseLevel(s.alpha, torch.where(s.sigma > 0, s.sigma, 1.0), s.logsnr)
    return ddim(x_ref, z_s, safe, t_step)


class TeacherStepsConfig(Config):
    """`N_teacher(i)`, annealed log-linearly."""

    first: int = Field(64, ge=1)
    last: int = Field(1280, ge=1)
    iterations: int = Field(100_000, ge=0)


class Annealed(Config):
    """Key of methods whose number of teacher steps is annealed."""

    teacher_steps: TeacherStepsConfig = TeacherStepsConfig()


class ConsistencyRecipe(Recipe, Annealed):
    """Keys of Algorithm 1, the same for CT and CD."""

    source: ClassVar[str] = "Heek, Hoogeboom, Salimans 2024 (arXiv 2403.06807), Alg. 1"

    guidance: float = Field(0.0, ge=0, description="classifier-free guidance of the teacher; cd only")
    x_var_frac: float = Field(0.75, ge=0)
    huber_epsilon: float = Field(1e-4, gt=0)
    distance: Literal["pseudo_huber", "squared", "weighted_norm"] = "pseudo_huber"
    teacher_step: Literal["addim", "addim_inner", "midpoint"] = Field(
        "addim",
        exclude_if=lambda step: step == "addim",
        description="addim_inner: aDDIM, but DDIM where a step ends at the data; midpoint: of second order, with two "
        "evaluations of the teacher and no x_var; cd only",
    )

    def check(self, student_steps: int) -> None:
        fewest = min(self.teacher_steps.first, self.teacher_steps.last)
        if student_steps > fewest:
            raise UserError(
                f"student_steps is {student_steps}: choose 1 to {fewest}, the smallest number of teacher steps, "
                "or raise students.common.teacher_steps"
            )
        if self.guidance and not self.distills:
            raise UserError("guidance is the teacher's, and ct has no teacher; set it to 0")
        if self.teacher_step != "addim" and not self.distills:
            raise UserError("teacher_step is the teacher's, and ct has no teacher; leave it at addim")

    @property
    def needs_classes(self) -> bool:
        return self.guidance > 0

    def make(self, setting: Setting) -> Consistency:
        return Consistency(
            schedule=setting.schedule,
            student_steps=setting.phase.student_steps,
            teacher_steps=TeacherSteps(**self.teacher_steps.model_dump()),
            teacher=setting.teacher if self.distills else None,
            guidance=self.guidance,
            null_label=setting.null_label,
            x_var_frac=self.x_var_frac,
            distance=self.distance,
            huber_epsilon=self.huber_epsilon,
            fixed_shapes=setting.fixed_shapes,
            teacher_step=self.teacher_step,
        )


class ConsistencyTraining(ConsistencyRecipe):
    """Multistep consistency training (CT)."""

    title: ClassVar[str] = "consistency training"
    distills: ClassVar[bool] = False


class ConsistencyDistillation(ConsistencyRecipe):
    """Multistep consistency distillation (CD)."""

    title: ClassVar[str] = "consistency distillation"
    distills: ClassVar[bool] = True
