"""Teacher diffusion training: the v-loss in continuous time, with label dropout and a multiscale loss."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from mcm.denoiser import Predictor
from mcm.methods.interface import Batch, Draws, drop_labels
from mcm.methods.losses import multiscale, v_difference
from mcm.methods.recipe import Recipe, Setting
from mcm.schedules import NoiseLevel
from mcm.steps import noise


@dataclass(frozen=True)
class Diffusion:
    """`E ||v - v_hat||^2 / d` for t ~ U(0, 1); `multiscale_levels` adds the same after 2x2 average pools."""

    schedule: Callable[[Tensor], NoiseLevel]
    label_dropout: float = 0.0
    null_label: int = 0
    multiscale_levels: int = 0

    def loss(self, student: Predictor, batch: Batch, draws: Draws, iteration: int) -> Tensor:
        # Never exactly t = 0, where v is not determined by x.
        t = self.schedule(draws.time.clamp(min=1e-5)).to(batch.images.device)
        labels = drop_labels(batch.labels, draws.label, self.label_dropout, self.null_label)
        x_hat = student(noise(batch.images, draws.eps, t), t, labels, draws.dropout_seeds)
        return multiscale(v_difference(batch.images - x_hat, t), self.multiscale_levels)


class DiffusionTraining(Recipe):
    """The teacher's training gone on with: what its steps cost without distillation, at a student's budget.

    `student_steps` is how many DDIM steps it is sampled with.
    """

    title: ClassVar[str] = "diffusion training"
    source: ClassVar[str] = "Salimans & Ho 2022 (arXiv 2202.00512), the v-loss"
    distills: ClassVar[bool] = False

    label_dropout: float = Field(0.0, ge=0, lt=1, description="share of labels dropped, for classifier-free guidance")
    multiscale_levels: int = Field(0, ge=0, description="2x2 average pools whose v-losses are added")

    def make(self, setting: Setting) -> Diffusion:
        return Diffusion(setting.schedule, self.label_dropout, setting.null_label, self.multiscale_levels)
