"""The network that students of a closed-form teacher start from: a student needs weights, and a formula has none."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mcm.denoiser import Predictor
from mcm.methods.interface import Batch, Draws
from mcm.methods.losses import squared
from mcm.schedules import NoiseLevel
from mcm.steps import noise


@dataclass(frozen=True)
class Imitation:
    """`E ||v_teacher - v_hat||^2 / d` for t ~ U(0, 1): diffusion training towards the exact posterior mean.

    Its optimum is that of diffusion training towards x, whose expectation given z_t the posterior mean is; the scatter
    of x around it, which is most of that loss, is left out.
    """

    schedule: Callable[[Tensor], NoiseLevel]
    teacher: Predictor

    def loss(self, student: Predictor, batch: Batch, draws: Draws, iteration: int) -> Tensor:
        # Never exactly t = 0, where v is not determined by x.
        t = self.schedule(draws.time.clamp(min=1e-5))
        z_t = noise(batch.images, draws.eps, t)
        with torch.no_grad():
            x_teacher = self.teacher(z_t, t)
        return squared(x_teacher - student(z_t, t, batch.labels, draws.dropout_seeds), t, 0.0)
