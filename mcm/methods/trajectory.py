"""Consistency trajectory models (CTM, Kim et al. 2023, arXiv 2310.02279) without their adversarial part.

The student reads where its step ends, and `G(z_t, t, s) = DDIM_{t->s}(x_hat(z_t, t, s))` follows the
probability-flow ODE from any t to any s (section 3; in the paper's coordinates `s/t x_t + (1 - s/t) g(x_t, t, s)`).
With s = t the step is none and x_hat is the diffusion model's (Lemma 1). One student serves any number of steps.

What differs from the paper, beside the discriminator:
- The paper compares by LPIPS, and takes both sides to s = 0 by the stopped student to do so. Here both are read as the
  x_hat of a DDIM step from z_t, as in Alg. 1 of multistep consistency: no feature network, and one scale for every s.
- The target is the student's own weights without gradient, as in CT and CD here (Song & Dhariwal 2023, section 3.2,
  find them better in consistency training); the paper has an EMA of decay 0.999.
- The weight of denoising score matching is a number; the paper measures the gradients of both terms at the last layer
  and makes them equally long. Here, beside the pseudo-Huber distance, the mean square is multiplied by sqrt(d): the
  gradient of the one has length 1 in v-space in any number of dimensions, that of the other falls as 1 / sqrt(d).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from mcm.denoiser import Predictor, twice
from mcm.errors import UserError
from mcm.methods.consistency import Annealed, TeacherSteps, TeacherStepsConfig
from mcm.methods.interface import Batch, Draws, uniform_integer
from mcm.methods.losses import DISTANCES, squared
from mcm.methods.recipe import Recipe, Setting
from mcm.schedules import NoiseLevel
from mcm.steps import ddim, heun, inv_ddim, noise, per_image


@dataclass(frozen=True)
class Spans:
    """Times of a batch on the integer grid k / T, int64 `[B]` on the host: `0 <= s <= u < t <= T`."""

    t_index: Tensor
    u_index: Tensor  # where the solver stops and the stopped student goes on
    s_index: Tensor
    total: int  # T

    @property
    def at_end(self) -> Tensor:
        """`u == s`, compared as integers, bool `[B]`: the solver does it all."""
        return self.u_index == self.s_index


def draw_spans(draws: Draws, total: int, solver_steps: int) -> Spans:
    """`t ~ U{1..T}`, `s ~ U{0..t-1}`, `u ~ U{max(s, t - solver_steps)..t-1}`, on the grid."""
    t_index = 1 + uniform_integer(draws.time, total)
    # One uniform draw gives two: which of t parts it lies in, and where in that part.
    s_index = (draws.segment * t_index).long().clamp(max=t_index - 1)
    inside = draws.segment * t_index - s_index
    longest = (t_index - s_index).clamp(max=solver_steps)
    solved = 1 + (inside * longest).long().clamp(max=longest - 1)
    return Spans(t_index, t_index - solved, s_index, total)


@dataclass(frozen=True)
class Trajectory:
    """Soft consistency matching and, weighted by `dsm_weight`, denoising score matching (section 3).

    `solver_steps` is how many steps of the grid the teacher's solver takes at most; with as many as the grid has, u is
    anywhere in [s, t), as in the paper. The student reads ends. `fixed_shapes` evaluates teacher and student for every
    image, also where it is not read, for devices that compile each shape anew.
    """

    schedule: Callable[[Tensor], NoiseLevel]
    teacher: Predictor
    teacher_steps: TeacherSteps
    solver: str = "heun"
    solver_steps: int = 39
    dsm_weight: float = 1.0
    distance: str = "pseudo_huber"
    huber_epsilon: float = 1e-4
    fixed_shapes: bool = False

    def solve(self, batch: Batch, spans: Spans, z_t: Tensor) -> Tensor:
        """`z_u = Solver(z_t, t, u)`: the teacher's ODE, a step for each interval of the grid, without graph."""
        z = z_t
        with torch.no_grad():
            for k in range(min(self.solver_steps, spans.total)):
                moves = spans.t_index - k > spans.u_index
                here = (spans.t_index - k).clamp(min=1)  # within the grid also for who has arrived
                asked = self._rows(moves)
                rows, moving = (value.to(z.device, non_blocking=True) for value in (asked, moves[asked]))
                t, next_t = (self._level(index, spans.total, z.device).at(rows) for index in (here, here - 1))
                moved = self._step(z[rows], t, next_t, None if batch.labels is None else batch.labels[rows])
                z = z.index_copy(0, rows, torch.where(per_image(moving, z).bool(), moved, z[rows]))
        return z

    def _step(self, z_t: Tensor, t: NoiseLevel, s: NoiseLevel, labels: Tensor | None) -> Tensor:
        x_hat = self.teacher(z_t, t, labels)
        euler = ddim(x_hat, z_t, t, s)
        return euler if self.solver == "ddim" else heun(x_hat, self.teacher(euler, s, labels), z_t, t, s)

    def refer(self, student: Predictor, batch: Batch, draws: Draws, spans: Spans, z_u: Tensor) -> Tensor:
        """`G_sg(z_u, u, s)`, without graph, and z_u itself where u = s, whatever the student says there."""
        asked = self._rows(~spans.at_end)
        rows, at_end = (value.to(z_u.device, non_blocking=True) for value in (asked, spans.at_end[asked]))
        u, s = (self._level(index, spans.total, z_u.device).at(rows) for index in (spans.u_index, spans.s_index))
        labels = None if batch.labels is None else batch.labels[rows]
        with torch.no_grad():
            x_ref = student(z_u[rows], u, labels, draws.dropout_seeds[rows], s)
        # Finite (and unused) at data, where there is no ratio of sigmas.
        safe = NoiseLevel(u.alpha, torch.where(u.sigma > 0, u.sigma, 1.0), u.logsnr)
        jumped = ddim(x_ref, z_u[rows], safe, s)
        return z_u.index_copy(0, rows, torch.where(per_image(at_end, z_u).bool(), z_u[rows], jumped))

    def loss(self, student: Predictor, batch: Batch, draws: Draws, iteration: int) -> Tensor:
        spans = draw_spans(draws, round(self.teacher_steps(iteration)), self.solver_steps)
        device = batch.images.device
        t, s = (self._level(index, spans.total, device) for index in (spans.t_index, spans.s_index))
        z_t = noise(batch.images, draws.eps, t)
        z_ref = self.refer(student, batch, draws, spans, self.solve(batch, spans, z_t))
        if not self.dsm_weight:
            x_hat = student(z_t, t, batch.labels, draws.dropout_seeds, s)
            return self._match(z_ref, z_t, x_hat, t, s)
        labels = None if batch.labels is None else torch.cat([batch.labels] * 2)
        ends = NoiseLevel(*(torch.cat(pair) for pair in zip(s, t, strict=True)))
        predicted = student(torch.cat([z_t, z_t]), twice(t), labels, torch.cat([draws.dropout_seeds] * 2), ends)
        x_hat, x_denoised = predicted.chunk(2)
        balance = 1.0 if self.distance == "squared" else math.sqrt(z_t[0].numel())
        denoising = squared(batch.images - x_denoised, t, self.huber_epsilon)
        return self._match(z_ref, z_t, x_hat, t, s) + self.dsm_weight * balance * denoising

    def _match(self, z_ref: Tensor, z_t: Tensor, x_hat: Tensor, t: NoiseLevel, s: NoiseLevel) -> Tensor:
        return DISTANCES[self.distance](inv_ddim(z_ref, z_t, t, s) - x_hat, t, self.huber_epsilon)

    def _level(self, index: Tensor, total: int, device: torch.device) -> NoiseLevel:
        return self.schedule(index.double() / total).to(device)

    def _rows(self, read: Tensor) -> Tensor:
        """Whom to ask: the rows that are read, and at least one, since processes that share a network by parts must
        all ask equally often."""
        asked = torch.ones_like(read) if self.fixed_shapes else read.clone()
        asked[0] |= not asked.any()
        return asked.nonzero()[:, 0]


class ConsistencyTrajectory(Recipe, Annealed):
    """Consistency trajectory distillation: keys, with the paper's values for ImageNet 64x64 (its code)."""

    title: ClassVar[str] = "consistency trajectory"
    source: ClassVar[str] = "Kim et al. 2023 (arXiv 2310.02279), without the adversarial loss"
    distills: ClassVar[bool] = True
    reads_end: ClassVar[bool] = True

    teacher_steps: TeacherStepsConfig = TeacherStepsConfig(first=40, last=40, iterations=0)
    solver: Literal["heun", "ddim"] = "heun"
    solver_steps: int = Field(39, ge=1, description="steps of the grid that the teacher's solver takes at most")
    dsm_weight: float = Field(1.0, ge=0, description="weight of denoising score matching")
    distance: Literal["pseudo_huber", "squared"] = "pseudo_huber"
    huber_epsilon: float = Field(1e-4, gt=0)

    def check(self, student_steps: int) -> None:
        fewest = min(self.teacher_steps.first, self.teacher_steps.last)
        if student_steps > fewest:
            raise UserError(
                f"student_steps is {student_steps}: choose 1 to {fewest}, the smallest number of teacher steps, "
                "or raise teacher_steps"
            )

    def make(self, setting: Setting) -> Trajectory:
        assert setting.teacher is not None, "a method that distills is given a teacher"
        return Trajectory(
            schedule=setting.schedule,
            teacher=setting.teacher,
            teacher_steps=TeacherSteps(**self.teacher_steps.model_dump()),
            solver=self.solver,
            solver_steps=self.solver_steps,
            dsm_weight=self.dsm_weight,
            distance=self.distance,
            huber_epsilon=self.huber_epsilon,
            fixed_shapes=setting.fixed_shapes,
        )
