"""Progressive distillation (PD), with aDDIM as the teacher's step: half as many steps in every phase."""

from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from mcm.denoiser import Predictor
from mcm.errors import UserError
from mcm.methods.consistency import Consistency, TeacherSteps, Times
from mcm.methods.interface import Batch, Draws, uniform_integer
from mcm.methods.losses import DISTANCES
from mcm.methods.recipe import Phase, Recipe, Setting
from mcm.schedules import NoiseLevel
from mcm.steps import inv_ddim, noise


def draw_steps(draws: Draws, student_steps: int) -> Times:
    """A step of the student's sampler: `t ~ U{1/S, ..., 1}`, `t_step = t - 1/S`, and s in the middle, so T = 2S.

    The student is sampled at no other time, so it learns no other (Salimans & Ho 2022, section 3).
    """
    step_index = 2 * uniform_integer(draws.segment, student_steps)
    return Times(step_index + 2, step_index, 2 * student_steps)


@dataclass(frozen=True)
class Progressive(Consistency):
    """One phase: a student of S steps learns to land where two steps of its teacher land (Salimans & Ho 2022, Alg. 2).

    Next to Algorithm 1, whose keys these are: a segment has two teacher steps, only its later end is drawn, and the
    teacher makes the second step too, where Algorithm 1 asks the student itself.
    """

    teacher_steps: TeacherSteps = field(init=False)  # twice the student's

    def __post_init__(self) -> None:
        object.__setattr__(self, "teacher_steps", TeacherSteps(2 * self.student_steps, 2 * self.student_steps, 0))

    def target(self, batch: Batch, z_t: Tensor, t: NoiseLevel, s: NoiseLevel, t_step: NoiseLevel) -> Tensor:
        """The x for which one DDIM step t -> t_step lands where the teacher's steps t -> s -> t_step land.

        `[B, ...]` as z_t, without graph (Salimans & Ho 2022, App. G).
        """
        z_s = self.teach(batch, z_t, t, s)
        return inv_ddim(self.teach(batch, z_s, s, t_step), z_t, t, t_step)

    def loss(self, student: Predictor, batch: Batch, draws: Draws, iteration: int) -> Tensor:
        times = draw_steps(draws, self.student_steps)
        t, s, t_step = (
            self.schedule(index.double() / times.total).to(batch.images.device)
            for index in (times.t_index, times.t_index - 1, times.step_index)
        )
        z_t = noise(batch.images, draws.eps, t)
        x_hat = student(z_t, t, batch.labels, draws.dropout_seeds)
        return DISTANCES[self.distance](self.target(batch, z_t, t, s, t_step) - x_hat, t, self.huber_epsilon)


class ProgressiveDistillation(Recipe):
    """Progressive distillation (PD): phases of falling steps, each twice as fast as its teacher.

    The first teacher is the diffusion model at `first_steps` steps, guided where `guidance` says so, and stepped by
    aDDIM. A later teacher is the student of the phase before, stepped by DDIM: its x_hat is no posterior mean but the x
    of a landing place that has the adjusted norm already, and ||x_hat - x||^2 is no variance that a step loses.
    Adjusted in every phase, norms grow: for perfect students of a mixture in 64 dimensions (16 first steps, x_var_frac
    0.75), E||z_0||^2 of the 1-step student is 0.92 of the data's with DDIM, 1.07 with aDDIM in the first phase and 8.7
    with aDDIM in every phase (tests/methods/test_progressive.py).
    """

    title: ClassVar[str] = "progressive distillation"
    source: ClassVar[str] = "Salimans, Ho 2022 (arXiv 2202.00512), Alg. 2; aDDIM as in arXiv 2403.06807, section 5"
    distills: ClassVar[bool] = True

    first_steps: int = Field(64, ge=2, description="steps of the diffusion teacher: student_steps times a power of 2")
    longer_phases: int = Field(
        2, ge=0, description="phases that end with at most so many steps have twice the updates of the others"
    )
    guidance: float = Field(0.0, ge=0, description="classifier-free guidance of the diffusion teacher")
    x_var_frac: float = Field(0.75, ge=0, description="of aDDIM, the step of the diffusion teacher")
    distance: Literal["pseudo_huber", "squared", "weighted_norm"] = "squared"
    huber_epsilon: float = Field(1e-4, gt=0)

    def check(self, student_steps: int) -> None:
        halvings = max(1, (self.first_steps // student_steps).bit_length() - 1)
        near = student_steps << halvings
        if self.first_steps != near:
            raise UserError(
                f"first_steps is {self.first_steps}, which halved some times does not give a student of "
                f"{student_steps} steps; set it to {near} or {2 * near}"
            )

    def phases(self, student_steps: int, iterations: int) -> tuple[Phase, ...]:
        """`first_steps` / 2, / 4, ..., `student_steps`, and `iterations` split by the weights 1 and 2."""
        halvings = (self.first_steps // student_steps).bit_length() - 1
        steps = [self.first_steps >> k for k in range(1, halvings + 1)]
        ends = [0, *accumulate(2 if count <= self.longer_phases else 1 for count in steps)]
        if iterations < ends[-1]:
            raise UserError(
                f"iterations are {iterations}, and the {len(steps)} phases from {self.first_steps} to {student_steps} "
                f"steps take at least {ends[-1]}; raise them, or lower first_steps"
            )
        ends = [iterations * end // ends[-1] for end in ends]
        return tuple(Phase(count, stop - start) for count, (start, stop) in zip(steps, pairwise(ends), strict=True))

    @property
    def needs_classes(self) -> bool:
        return self.guidance > 0

    def make(self, setting: Setting) -> Progressive:
        of_diffusion = setting.before is None
        return Progressive(
            schedule=setting.schedule,
            student_steps=setting.phase.student_steps,
            teacher=setting.teacher,
            guidance=self.guidance if of_diffusion else 0.0,
            null_label=setting.null_label,
            x_var_frac=self.x_var_frac if of_diffusion else 0.0,
            distance=self.distance,
            huber_epsilon=self.huber_epsilon,
        )
