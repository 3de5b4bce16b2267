"""What is true of a mixture at fixed noise, and how far from it points are."""

import functools
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mcm.errors import UserError
from mcm.evaluation.metrics import frechet_distance
from mcm.evaluation.statistics import Moments
from mcm.exact.stream import DATA, NOISE, keyed
from mcm.mixtures import GaussianMixture, mixture
from mcm.schedules import NoiseLevel, cosine
from mcm.steps import norm_sq

SCHEDULE = cosine()  # of every teacher and student here


def wasserstein(a: Tensor, b: Tensor) -> float:
    """Wasserstein-2 distance of two sets of points `[N, D]`: the root mean square way of the best assignment."""
    if a.shape != b.shape:
        raise UserError(f"Wasserstein distance: sets of shape {tuple(a.shape)} and {tuple(b.shape)}; give equal ones")
    cost = torch.cdist(a.double(), b.double(), compute_mode="donot_use_mm_for_euclid_dist").square().numpy()
    rows, columns = linear_sum_assignment(cost)
    return math.sqrt(cost[rows, columns].mean())


def rmse(a: Tensor, b: Tensor) -> float:
    """Root mean square difference of points `[N, D]`, per value: one of the data's scale is about 1."""
    return (a.double() - b.double()).square().mean().sqrt().item()


@dataclass(frozen=True, eq=False)
class Truth:
    """Noise of one seed, where the probability-flow ODE takes it, and data to compare with; N points each."""

    mixture: GaussianMixture
    z_1: Tensor  # [N, D] float32
    z_0: Tensor  # [N, D] float64, the exact map of z_1
    data: Tensor  # [N, D] float64, drawn from the mixture
    flow_error: float  # how far z_0 is from that of half the integration steps, which is more than its own error
    w2_floor: float  # between `data` and another such draw

    METRICS: ClassVar = ("flow_rmse", "w2", "frechet", "norm_ratio", "norm_sq")

    def metrics(self, points: Tensor) -> dict[str, float]:
        """Figures of samples `[N, D]` that were made from z_1.

        - `flow_rmse`: error to the exact map of the same noise, per value;
        - `w2`: Wasserstein-2 distance to the data; `w2_floor` is what the data itself has;
        - `frechet`: Fréchet distance to the mixture, from its own mean and covariance: what FID is of features;
        - `norm_sq`: mean ||z_0||^2;
        - `norm_ratio`: the same over E||x||^2, which is known. The exact map of the same noise has that expectation
          too, so how its mean falls out is taken off.
        """
        if not points.isfinite().all():
            raise UserError("a sample is not finite; train the student again with a lower learning rate")
        norm, exact = norm_sq(points.double()).mean().item(), norm_sq(self.z_0).mean().item()
        return {
            "flow_rmse": rmse(points, self.z_0),
            "w2": wasserstein(points, self.data),
            "frechet": self.frechet(points),
            "norm_ratio": 1 + (norm - exact) / self.mixture.mean_norm_sq,
            "norm_sq": norm,
        }

    def frechet(self, points: Tensor) -> float:
        """Fréchet distance of points `[N, D]` to the mixture."""
        of_points = Moments(self.mixture.dimensions)
        of_points.update(points)
        return frechet_distance(*self.mixture.moments, of_points.mean, of_points.covariance)

    def shown(self, count: int) -> Tensor:
        """Noise `[count, D]` to draw the ways of: the first of z_1, and on a line quantiles, which lie evenly."""
        if self.mixture.dimensions > 1:
            return self.z_1[:count]
        return torch.special.ndtri((torch.arange(count, dtype=torch.float64) + 0.5) / count).float()[:, None]

    @property
    def about(self) -> dict[str, float]:
        """What the figures are to be read by."""
        return {
            "samples": len(self.z_1),
            "reference_samples": len(self.data),
            "noise_floor_w2": self.w2_floor,
            "noise_floor_frechet": self.frechet(self.data),
            "noise_floor_flow_rmse": self.flow_error,
            "norm_sq_data": self.mixture.mean_norm_sq,
        }


@functools.lru_cache(maxsize=8)
def truth(name: str, seed: int, samples: int, flow_steps: int) -> Truth:
    """The truth of the mixture `name`: a function of its arguments, kept for the rows that are measured after.

    `flow_steps` Runge-Kutta steps, an even number.
    """
    points = mixture(name)
    z_1 = torch.randn(samples, points.dimensions, generator=keyed(seed, NOISE))
    one, zero = ends(samples)
    z_0 = points.flow(z_1, one, zero, flow_steps)
    coarse = points.flow(z_1, one, zero, flow_steps // 2)
    data, other = (points.sample(samples, keyed(seed, DATA, which)) for which in range(2))
    return Truth(points, z_1, z_0, data, rmse(z_0, coarse), wasserstein(data, other))


def ends(count: int) -> tuple[NoiseLevel, NoiseLevel]:
    """The levels at t = 1 and t = 0 for `count` points."""
    one, zero = (SCHEDULE(torch.full((count,), t, dtype=torch.float64)) for t in (1.0, 0.0))
    return one, zero
