"""Sampler steps t -> s with s < t, as pure functions of tensors. Every sampler and every method calls these.

`x_hat`, `z_t`, `z_s` are `[B, ...]` of one float dtype; `t`, `s` are noise levels `[B]` (float64); the result has the
dtype and shape of `z_t`. Coefficients are formed in float64 and rounded once.
"""

import torch
from torch import Tensor

from mcm.schedules import NoiseLevel


def per_image(value: Tensor, like: Tensor) -> Tensor:
    """A number per image `[B]` as `[B, 1, ...]` in the dtype and on the device of `like`."""
    return value.to(like).view(-1, *[1] * (like.dim() - 1))


def norm_sq(x: Tensor) -> Tensor:
    """||x||^2 of every image, `[B]`."""
    return x.flatten(1).square().sum(dim=1)


def noise(x: Tensor, eps: Tensor, t: NoiseLevel) -> Tensor:
    """The forward process: `z_t = alpha_t x + sigma_t eps`."""
    return per_image(t.alpha, x) * x + per_image(t.sigma, x) * eps


def x_from_v(v: Tensor, z_t: Tensor, t: NoiseLevel) -> Tensor:
    """`x_hat = alpha_t z_t - sigma_t v`."""
    return per_image(t.alpha, z_t) * z_t - per_image(t.sigma, z_t) * v


def eps_from_x(x_hat: Tensor, z_t: Tensor, t: NoiseLevel) -> Tensor:
    """`eps_hat = (z_t - alpha_t x_hat) / sigma_t`; t > 0."""
    return (z_t - per_image(t.alpha, z_t) * x_hat) / per_image(t.sigma, z_t)


def x_gain(t: NoiseLevel, s: NoiseLevel) -> Tensor:
    """`alpha_s - alpha_t sigma_s / sigma_t`: how much of x_hat a DDIM step takes in, float64 `[B]`."""
    return s.alpha - t.alpha * s.sigma / t.sigma


def ddim(x_hat: Tensor, z_t: Tensor, t: NoiseLevel, s: NoiseLevel) -> Tensor:
    """DDIM (Eq. 4): `z_s = alpha_s x_hat + (sigma_s / sigma_t) (z_t - alpha_t x_hat)`."""
    return per_image(x_gain(t, s), z_t) * x_hat + per_image(s.sigma / t.sigma, z_t) * z_t


def inv_ddim(z_s: Tensor, z_t: Tensor, t: NoiseLevel, s: NoiseLevel) -> Tensor:
    """Inverse DDIM (Eq. 5): the x for which `ddim(x, z_t, t, s) == z_s`."""
    return (z_s - per_image(s.sigma / t.sigma, z_t) * z_t) / per_image(x_gain(t, s), z_t)


def addim(x_hat: Tensor, z_t: Tensor, t: NoiseLevel, s: NoiseLevel, x_var: Tensor) -> Tensor:
    """Adjusted DDIM (Eq. 14, Alg. 3): eps_hat inflated so that ||z_s|| has the norm that noise would give it.

    `x_var` `[B]` is the posterior variance of x per dimension. With `x_var` 0, or with no predicted noise to inflate,
    this is `ddim` bit for bit.
    """
    eps_hat = eps_from_x(x_hat, z_t, t)
    length = norm_sq(eps_hat.double())
    per_dimension = torch.where(length > 0, z_t[0].numel() / length, 0.0)
    z_var = x_gain(t, s).square() * x_var.double()
    inflated = (s.sigma.square() + per_dimension * z_var).sqrt()
    return ddim(x_hat, z_t, t, s) + per_image(inflated - s.sigma, z_t) * eps_hat


def addim_inner(x_hat: Tensor, z_t: Tensor, t: NoiseLevel, s: NoiseLevel, x_var: Tensor) -> Tensor:
    """aDDIM between two levels of noise, and DDIM in the step to the data (s = 0). Not in the paper.

    At s = 0 the adjustment has no noise to hide in: all of x_var stands on the sample, in the direction of eps_hat.
    """
    return addim(x_hat, z_t, t, s, torch.where(s.sigma > 0, x_var, 0.0))


def ddpm(x_hat: Tensor, z_t: Tensor, t: NoiseLevel, s: NoiseLevel, draw: Tensor) -> Tensor:
    """Ancestral DDPM: a draw from q(z_s | z_t, x = x_hat) (Eq. 1). `draw` is standard normal, of z_t's shape."""
    snr_ratio = torch.exp(t.logsnr - s.logsnr)  # SNR(t) / SNR(s); 0 at s = 0 and at t = 1
    kept = torch.where(s.sigma > 0, snr_ratio * s.alpha / t.alpha, 0.0)
    kept = torch.where(t.alpha > 0, kept, 0.0)
    mean = per_image(kept, z_t) * z_t + per_image(s.alpha * (1 - snr_ratio), z_t) * x_hat
    return mean + per_image(s.sigma * (1 - snr_ratio).clamp(min=0).sqrt(), z_t) * draw


def noise_ddim(x_hat: Tensor, z_t: Tensor, t: NoiseLevel, s: NoiseLevel, x_var: Tensor, draw: Tensor) -> Tensor:
    """Noise-DDIM (App. A.4): DDIM of a prediction with Gaussian noise of variance `x_var` `[B]` added to it."""
    return ddim(x_hat + per_image(x_var.sqrt(), z_t) * draw, z_t, t, s)


def heun(x_hat: Tensor, x_next: Tensor, z_t: Tensor, t: NoiseLevel, s: NoiseLevel) -> Tensor:
    """Heun's second-order step (Karras et al. 2022, Alg. 1); `x_next` is the prediction at `ddim(x_hat, z_t, t, s)`.

    The slope of `z / alpha` in `sigma / alpha` is eps_hat, and its mean over both ends is taken. At t = 1, where
    these coordinates are infinite, the same rule is applied to `z / sigma` in `alpha / sigma`, whose slope is x_hat.
    At s = 0 there is no slope to add and the step is DDIM's.
    """
    euler = ddim(x_hat, z_t, t, s)
    has_slope = s.sigma > 0
    safe_s = NoiseLevel(s.alpha, torch.where(has_slope, s.sigma, 1.0), s.logsnr)
    eps_change = eps_from_x(x_next, euler, safe_s) - eps_from_x(x_hat, z_t, t)
    in_sigma = s.sigma - s.alpha * t.sigma / torch.where(t.alpha > 0, t.alpha, 1.0)
    by_eps = euler + per_image(0.5 * in_sigma, z_t) * eps_change
    by_x = ddim((x_hat + x_next) / 2, z_t, t, s)
    corrected = torch.where(per_image(t.alpha, z_t) > 0, by_eps, by_x)
    return torch.where(per_image(s.sigma, z_t) > 0, corrected, euler)
