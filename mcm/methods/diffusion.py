"""Teacher diffusion training: the v-loss in continuous time, with label dropout and a multiscale loss."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from mcm.denoiser import Predictor
from mcm.methods.interface import Batch, Draws, drop_labels
from mcm.methods.losses import multiscale, v_difference
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
