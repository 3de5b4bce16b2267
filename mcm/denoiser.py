"""A network read as an x-prediction: `f(z_t, t)` of the paper. Teachers, students and samplers share this signature."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mcm.schedules import NoiseLevel
from mcm.steps import x_from_v

# f(z_t, t, labels, dropout_seeds) -> x_hat. A closed-form posterior has the same signature as a network.
Predictor = Callable[..., Tensor]


class Denoiser(nn.Module):
    """`x_hat = alpha_t z_t - sigma_t v(z_t, logsnr_t, label)` around a v-prediction network.

    With `bf16` the network alone runs under autocast; the arithmetic around it stays float32. Each call is an autocast
    region of its own, because the weights that a region has cast without a graph would be reused, still without one,
    by a later call in the same region that needs their gradient.
    """

    def __init__(self, network: nn.Module, bf16: bool = False):
        super().__init__()
        self.network = network
        self.bf16 = bf16

    def forward(
        self, z_t: Tensor, t: NoiseLevel, labels: Tensor | None = None, dropout_seeds: Tensor | None = None
    ) -> Tensor:
        """z_t `[B, ...]`, t levels `[B]`, labels int64 `[B]` or None, seeds int64 `[B]` or None; x_hat like z_t."""
        with torch.autocast(z_t.device.type, torch.bfloat16, enabled=self.bf16):
            v = self.network(z_t, t.clipped_logsnr, labels, dropout_seeds)
        return x_from_v(v.float(), z_t, t)


def guide(x_cond: Tensor, x_uncond: Tensor, guidance: float) -> Tensor:
    """Classifier-free guidance: `x = x_cond + g (x_cond - x_uncond)`."""
    return x_cond + guidance * (x_cond - x_uncond)


def both(f: Predictor, z_t: Tensor, t: NoiseLevel, labels: Tensor, null_label: int) -> tuple[Tensor, Tensor]:
    """The conditional and the unconditional prediction, in one evaluation of twice the images."""
    twice = NoiseLevel(*(torch.cat([value, value]) for value in t))
    x_cond, x_uncond = f(
        torch.cat([z_t, z_t]), twice, torch.cat([labels, labels.new_full(labels.shape, null_label)])
    ).chunk(2)
    return x_cond, x_uncond


def guided(f: Predictor, guidance: float, null_label: int) -> Predictor:
    """A predictor with classifier-free guidance; guidance 0 is the conditional model itself."""
    if guidance == 0.0:
        return f

    def predict(z_t: Tensor, t: NoiseLevel, labels: Tensor) -> Tensor:
        return guide(*both(f, z_t, t, labels, null_label), guidance)

    return predict
