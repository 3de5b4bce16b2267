"""Guidance distillation, stage one (Meng et al. 2022, arXiv 2210.03142, section 3.1): one network for a guided teacher.

The guided prediction takes two evaluations of the teacher, the student's one. Few steps are the second stage's: its
student is a denoiser like any other, and can be the teacher of progressive or of multistep consistency distillation.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from mcm.denoiser import Predictor, guided
from mcm.methods.interface import Batch, Draws
from mcm.methods.losses import squared
from mcm.methods.recipe import Recipe, Setting
from mcm.schedules import NoiseLevel
from mcm.steps import noise


@dataclass(frozen=True)
class GuidanceDistillation:
    """`E (SNR(t) + 1) ||x_guided(z_t, t) - x_hat(z_t, t)||^2 / d` for t ~ U(0, 1), the target without gradient.

    The weight is that of the v-loss, one of those of Salimans & Ho (2022, section 4) that the paper refers to. The
    paper's student reads the strength of guidance; here it is one number, as in the rows "guidance distilled" of
    Table 6 of Heek et al. 2024. The batch needs labels unless that number is 0.
    """

    schedule: Callable[[Tensor], NoiseLevel]
    teacher: Predictor
    guidance: float
    null_label: int

    def loss(self, student: Predictor, batch: Batch, draws: Draws, iteration: int) -> Tensor:
        # Never exactly t = 0, where v is not determined by x.
        t = self.schedule(draws.time.clamp(min=1e-5)).to(batch.images.device)
        z_t = noise(batch.images, draws.eps, t)
        with torch.no_grad():
            x_guided = guided(self.teacher, self.guidance, self.null_label)(z_t, t, batch.labels)
        x_hat = student(z_t, t, batch.labels, draws.dropout_seeds)
        return squared(x_guided - x_hat, t, 0.0)


class GuidanceDistillationRecipe(Recipe):
    """Guidance distillation (gd): `student_steps` is how many DDIM steps the student is sampled with."""

    title: ClassVar[str] = "guidance distillation"
    source: ClassVar[str] = "Meng et al. 2022 (arXiv 2210.03142), stage one"
    distills: ClassVar[bool] = True

    guidance: float = Field(0.5, ge=0, description="g of x_cond + g (x_cond - x_uncond)")

    @property
    def needs_classes(self) -> bool:
        return self.guidance > 0

    def make(self, setting: Setting) -> GuidanceDistillation:
        assert setting.teacher is not None, "a method that distills is given a teacher"
        return GuidanceDistillation(setting.schedule, setting.teacher, self.guidance, setting.null_label)
