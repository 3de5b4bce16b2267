"""A network read as an x-prediction: `f(z_t, t)` of the paper. Teachers, students and samplers share this signature.

A predictor that reads ends also takes the level s where its step ends, and DDIM t -> s of its x_hat is that step: the
`G(x_t, t, s)` of consistency trajectory models (Kim et al. 2023). With s = t it is the diffusion model's x_hat.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mcm.schedules import NoiseLevel
from mcm.steps import x_from_v

# f(z_t, t, labels, dropout_seeds) -> x_hat. A closed-form posterior has the same signature as a network. One that
# reads ends (`reads_end`) takes one more: f(z_t, t, labels, dropout_seeds, end).
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

    @property
    def reads_end(self) -> bool:
        """Whether the network takes the level where a step ends."""
        return bool(getattr(self.network, "reads_end", False))

    def forward(
        self,
        z_t: Tensor,
        t: NoiseLevel,
        labels: Tensor | None = None,
        dropout_seeds: Tensor | None = None,
        end: NoiseLevel | None = None,
    ) -> Tensor:
        """z_t `[B, ...]`, t levels `[B]`, labels int64 `[B]` or None, seeds int64 `[B]` or None; x_hat like z_t.

        `end` is where the step ends, levels `[B]`, for a network that reads it: None is `t` itself. UserError where the
        network does not.
        """
        told = () if end is None else (end.clipped_logsnr,)
        with torch.autocast(z_t.device.type, torch.bfloat16, enabled=self.bf16):
            v = self.network(z_t, t.clipped_logsnr, labels, dropout_seeds, *told)
        return x_from_v(v.float(), z_t, t)


def innermost(f: Predictor) -> Predictor:
    """`f` out of what wraps it, where it is a module that is wrapped (torch.compile, processes)."""
    while isinstance(inner := getattr(f, "module", None), nn.Module):
        f = inner
    return f


def reads_end(f: Predictor) -> bool:
    """Whether `f` takes where a step ends."""
    return bool(getattr(innermost(f), "reads_end", False))


def guide(x_cond: Tensor, x_uncond: Tensor, guidance: float) -> Tensor:
    """Classifier-free guidance: `x = x_cond + g (x_cond - x_uncond)`."""
    return x_cond + guidance * (x_cond - x_uncond)


def twice(level: NoiseLevel) -> NoiseLevel:
    """Levels `[B]` for two predictions of each image in one evaluation, `[2 B]`."""
    return NoiseLevel(*(torch.cat([value, value]) for value in level))


def both(
    f: Predictor, z_t: Tensor, t: NoiseLevel, labels: Tensor, null_label: int, end: NoiseLevel | None = None
) -> tuple[Tensor, Tensor]:
    """The conditional and the unconditional prediction, in one evaluation of twice the images; `end` if f reads it."""
    told = () if end is None else (None, twice(end))
    x_cond, x_uncond = f(
        torch.cat([z_t, z_t]), twice(t), torch.cat([labels, labels.new_full(labels.shape, null_label)]), *told
    ).chunk(2)
    return x_cond, x_uncond


def guided(f: Predictor, guidance: float, null_label: int) -> Predictor:
    """A predictor with classifier-free guidance, for evaluation; guidance 0 is the conditional model itself."""
    if guidance == 0.0:
        return f

    def predict(
        z_t: Tensor, t: NoiseLevel, labels: Tensor, dropout_seeds: None = None, end: NoiseLevel | None = None
    ) -> Tensor:
        return guide(*both(f, z_t, t, labels, null_label, end), guidance)

    return predict
