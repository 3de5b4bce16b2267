"""EDM's noise levels (Karras et al. 2022), read as variance preserving: what consistency models and ECT share.

Their `x + sigma eps` is `z_t / alpha_t` at equal SNR, `logsnr = -2 log sigma`. An Euler step of theirs is then a DDIM
step, and `x_hat = alpha_t z_t - sigma_t v` is their `c_skip x + c_out F` with sigma_data = 1 and the boundary at 0
(theirs: sigma_data = 0.5, boundary at 0.002).

Their levels lie within 0.002 and 80; the ends are exact here. The first of a grid is the data, t = 0, where x_hat is
the identity: the boundary condition. A sigma of 80 or more is t = 1, pure noise, which they take 80 for and from where
a student is sampled (Alg. 2).
"""

import math
from collections.abc import Callable

import torch
from pydantic import Field
from torch import Tensor

from mcm.config import Config
from mcm.denoiser import Predictor
from mcm.errors import UserError
from mcm.methods.interface import Batch, Draws
from mcm.methods.recipe import Recipe
from mcm.schedules import NoiseLevel, karras_grid, level_from_logsnr
from mcm.steps import noise, per_image

SIGMA_MAX = 80.0

Teach = Callable[[Batch, Tensor, NoiseLevel, NoiseLevel], Tensor]  # (batch, z_t, t, s) to z_s


def level(sigma: Tensor) -> NoiseLevel:
    """The level of equal SNR of EDM's sigma, float64 `[B]`: t = 0 at 0, t = 1 from SIGMA_MAX on."""
    return level_from_logsnr(torch.where(sigma < SIGMA_MAX, -2 * sigma.log(), -math.inf))


def karras_sigmas(count: int) -> Tensor:
    """`count` sigmas from data to noise, float64 `[count]`: 0, those of Karras et al. 2022, Eq. 5 (rho 7), 80."""
    sigmas = (karras_grid(sigma_max=SIGMA_MAX)(count).logsnr[:-1] / -2).exp().flip(0)
    sigmas[0], sigmas[-1] = 0.0, SIGMA_MAX
    return sigmas


class LogNormal(Config):
    """`log sigma ~ N(mean, std^2)`: P_mean and P_std of iCT and ECT."""

    mean: float = -1.1
    std: float = Field(2.0, gt=0)

    def below(self, sigma: Tensor) -> Tensor:
        """The probability of a smaller one, like `sigma`."""
        return torch.special.ndtr((sigma.log() - self.mean) / self.std)

    def at(self, u: Tensor) -> Tensor:
        """The sigma of a uniform draw in [0, 1), like `u`; never 0, where there is no smaller one to compare with."""
        return (self.mean + self.std * torch.special.ndtri(u.clamp(min=1e-5))).exp()

    def interval(self, u: Tensor, sigmas: Tensor) -> Tensor:
        """Which two neighbours of a grid, int64 like `u`: n for `sigmas[n]` and `sigmas[n + 1]`.

        `p(n)` is the probability of a sigma between them (iCT, section 3.5). The ends of a grid are 0 and pure noise,
        so that the tails belong to its first and last interval: 0.5% and 0.3% of the draws, which iCT leaves out.
        Without that of the last, t = 1 would be met once in 50 000 draws when the grid has grown to 1281 levels.
        """
        return torch.bucketize(u, self.below(sigmas[1:-1]), right=True)


def x_difference(
    student: Predictor,
    batch: Batch,
    draws: Draws,
    sigma_t: Tensor,
    sigma_s: Tensor,
    teach: Teach | None = None,
    target: Predictor | None = None,
) -> Tensor:
    """`f(z_t, t) - f_target(z_s, s)`, `[B, ...]`; the sigmas are float64 `[B]` on the host, `sigma_s < sigma_t`.

    z_s has the noise of z_t (consistency training), or is what `teach` makes of it (distillation). The target, without
    graph and with the same dropout, is the student itself unless another predictor is given; where s = 0 it is z_s
    whatever that says.
    """
    t, s = (level(sigma).to(batch.images.device) for sigma in (sigma_t, sigma_s))
    z_t = noise(batch.images, draws.eps, t)
    with torch.no_grad():
        z_s = teach(batch, z_t, t, s) if teach else noise(batch.images, draws.eps, s)
        x_ref = (target or student)(z_s, s, batch.labels, draws.dropout_seeds)
        x_ref = torch.where(per_image(s.sigma, z_s) == 0, z_s, x_ref)
    return student(z_t, t, batch.labels, draws.dropout_seeds) - x_ref


def pseudo_huber(x_diff: Tensor, c: float) -> Tensor:
    """`sqrt(||x_diff||^2 + c^2) - c` (iCT, section 3.3), `[B]`; with c = 0 the norm, whose gradient at 0 is 0."""
    norm = torch.linalg.vector_norm(x_diff.flatten(1), dim=1)
    return (norm.square() + c**2).sqrt() - c if c else norm


class OneStep(Recipe):
    """A recipe of students that take one step."""

    def check(self, student_steps: int) -> None:
        if student_steps != 1:
            raise UserError(
                f"student_steps is {student_steps}, and a consistency model takes 1; set it to 1, or use cd or ct, "
                "which are this method for more steps"
            )
