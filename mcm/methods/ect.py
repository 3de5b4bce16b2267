"""Easy consistency tuning (ECT): a diffusion model becomes a consistency model, as the gap between levels shrinks."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from mcm.config import Config
from mcm.denoiser import Predictor
from mcm.errors import UserError
from mcm.methods.edm import SIGMA_MAX, LogNormal, OneStep, pseudo_huber, x_difference
from mcm.methods.interface import Batch, Draws
from mcm.methods.recipe import Phase, Setting

SMALLEST_GAP = 1e-6  # of t: less is lost in the rounding of float32 images


class Gap(Config):
    """How far s lies below t: `s / t = 1 - n(t) / q^a`, at least 0, with `n(t) = 1 + k sigmoid(-b t)`.

    The stage a is 1 at first and grows by 1 every d iterations (Geng et al. 2024, section 3; t and s are EDM's sigmas,
    s is their r). At s = 0 the target is the data, so that tuning begins close to diffusion training.
    """

    q: float = Field(2.0, gt=1)
    d: int = Field(25_000, ge=1, description="iterations of a stage; the paper has 8 stages of q = 2")
    k: float = Field(8.0, ge=0)
    b: float = Field(1.0, ge=0)

    def stage(self, iteration: int) -> int:
        """a at an iteration, counted from 0."""
        return iteration // self.d + 1

    def __call__(self, sigma_t: Tensor, iteration: int) -> Tensor:
        """sigma_s of sigma_t, float64 `[B]`."""
        n = 1 + self.k * torch.sigmoid(-self.b * sigma_t)
        return (sigma_t * (1 - n / self.q ** self.stage(iteration))).clamp(min=0)


@dataclass(frozen=True)
class EasyConsistencyTuning:
    """ECT (Geng et al. 2024): `||f(z_t, t) - f(z_s, s)|| / (t - s)` for lognormal t, without a teacher.

    That the norm is not squared is the adaptive part of the weights; with c > 0 it is pseudo-Huber's.
    """

    gap: Gap
    sigma: LogNormal
    huber_c: float

    def loss(self, student: Predictor, batch: Batch, draws: Draws, iteration: int) -> Tensor:
        sigma_t = self.sigma.at(draws.time).clamp(max=SIGMA_MAX)
        sigma_s = self.gap(sigma_t, iteration)
        x_diff = x_difference(student, batch, draws, sigma_t, sigma_s)
        return pseudo_huber(x_diff, self.huber_c) / (sigma_t - sigma_s).to(x_diff)


class EasyTuning(OneStep):
    """ECT. The levels are variance preserving and exact at both ends (`mcm.methods.edm`)."""

    title: ClassVar[str] = "easy consistency tuning"
    source: ClassVar[str] = "Geng, Pokle, Luo, Lin, Kolter 2024 (arXiv 2406.14548), section 3"
    distills: ClassVar[bool] = False

    gap: Gap = Gap()
    sigma: LogNormal = LogNormal()
    huber_c: float = Field(0.0, ge=0, description="c of the pseudo-Huber distance; 0 is the norm")

    def phases(self, student_steps: int, iterations: int) -> tuple[Phase, ...]:
        stages, most = self.gap.stage(iterations - 1), math.floor(-math.log(SMALLEST_GAP, self.gap.q))
        if stages > most:
            raise UserError(
                f"gap.d is {self.gap.d}, which makes {stages} stages of {iterations} iterations, and with gap.q "
                f"{self.gap.q:g} t and s are one after {most}; raise gap.d to {math.ceil(iterations / most)} or more"
            )
        return super().phases(student_steps, iterations)

    def make(self, setting: Setting) -> EasyConsistencyTuning:
        return EasyConsistencyTuning(self.gap, self.sigma, self.huber_c)
