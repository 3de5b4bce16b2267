"""Noise schedules (App. A.1; simple diffusion, Hoogeboom et al. 2023): time t in [0, 1] to noise levels.

Variance preserving: `z_t = alpha_t x + sigma_t eps`, `alpha^2 + sigma^2 = 1`, `SNR(t) = alpha^2 / sigma^2`. t = 0 is
data and t = 1 is noise, both exact. Everything here is float64: a level is a handful of numbers per image, and
differences of levels (Eq. 5) lose digits that float32 does not have.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

LOGSNR_LIMIT = 20.0  # clip where a network or a loss weight reads logsnr; never where a step does


class NoiseLevel(NamedTuple):
    """Noise levels of a batch: float64 tensors `[B]`; `logsnr` is +inf at t = 0 and -inf at t = 1."""

    alpha: Tensor
    sigma: Tensor
    logsnr: Tensor

    @property
    def snr(self) -> Tensor:
        """alpha^2 / sigma^2, `[B]`; infinite at t = 0."""
        return (self.alpha / self.sigma).square()

    @property
    def clipped_logsnr(self) -> Tensor:
        """logsnr within +-LOGSNR_LIMIT, float32 `[B]`: what a network reads."""
        return self.logsnr.clamp(-LOGSNR_LIMIT, LOGSNR_LIMIT).float()

    def at(self, rows: Tensor) -> "NoiseLevel":
        """The levels of some rows (an index or a mask)."""
        return NoiseLevel(self.alpha[rows], self.sigma[rows], self.logsnr[rows])

    def to(self, device: torch.device) -> "NoiseLevel":
        """The same on `device`, in one copy."""
        if self.alpha.device == device:
            return self
        return NoiseLevel(*torch.stack(self).to(device, non_blocking=True).unbind())


def level_from_logsnr(logsnr: Tensor) -> NoiseLevel:
    """Variance-preserving level of a float64 logsnr `[B]`, exact at +-inf."""
    logsnr = logsnr.double()
    return NoiseLevel(logsnr.sigmoid().sqrt(), (-logsnr).sigmoid().sqrt(), logsnr)


@dataclass(frozen=True)
class CosineSchedule:
    """`logsnr(t) = -2 log tan(pi t / 2)`, shifted by `2 log(noise / image)` resolution.

    `noise_low` and `noise_high` are the noise resolutions at t = 1 and at t = 0; the shift is interpolated linearly
    between them. Both equal to `image` give the plain cosine schedule, both equal to n the one shifted to n.
    """

    image: int
    noise_low: int
    noise_high: int

    def __post_init__(self) -> None:
        if min(self.image, self.noise_low, self.noise_high) < 1:
            raise ValueError("resolutions of a noise schedule are at least 1")

    def logsnr(self, t: Tensor) -> Tensor:
        """float64 logsnr of t `[B]`, any float dtype; +inf at 0, -inf at 1."""
        t = t.double()
        cosine = -2 * torch.log(torch.tan(t * (math.pi / 2)))
        cosine = torch.where(t <= 0, math.inf, torch.where(t >= 1, -math.inf, cosine))
        low, high = (2 * math.log(noise / self.image) for noise in (self.noise_low, self.noise_high))
        return cosine + t * low + (1 - t) * high

    def __call__(self, t: Tensor) -> NoiseLevel:
        """Noise level of t `[B]`."""
        return level_from_logsnr(self.logsnr(t))


def cosine(image: int = 64) -> CosineSchedule:
    """Plain cosine schedule."""
    return CosineSchedule(image, image, image)


def shifted(image: int, noise: int) -> CosineSchedule:
    """Cosine schedule shifted from noise resolution `noise` at image resolution `image`."""
    return CosineSchedule(image, noise, noise)


def interpolated(image: int, noise_low: int, noise_high: int) -> CosineSchedule:
    """`t * shifted(noise_low) + (1 - t) * shifted(noise_high)`: the schedule of every run of the paper."""
    return CosineSchedule(image, noise_low, noise_high)


# A grid gives the N + 1 levels of N sampler steps, from noise to data, each float64 `[N + 1]`.
Grid = Callable[[int], NoiseLevel]


def uniform_grid(schedule: CosineSchedule) -> Grid:
    """t = 1, (N-1)/N, ..., 1/N, 0 of a schedule (Alg. 2)."""

    def grid(steps: int) -> NoiseLevel:
        return schedule(torch.arange(steps, -1, -1, dtype=torch.float64) / steps)

    return grid


def karras_grid(sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Grid:
    """The sigmas of EDM (Karras et al. 2022, Eq. 5) at equal SNR, then 0 (Fig. 5)."""

    def grid(steps: int) -> NoiseLevel:
        ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
        low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
        sigmas = (high + ramp * (low - high)) ** rho
        return level_from_logsnr(torch.cat([-2 * sigmas.log(), torch.tensor([math.inf], dtype=torch.float64)]))

    return grid
