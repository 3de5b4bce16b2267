"""Gaussian mixtures under the VP process, where all that the method approximates is known in closed form.

`x ~ sum_k w_k N(mu_k, C_k)` and `z_t = alpha_t x + sigma_t eps` give, for every component, a Gaussian `z_t` with
covariance `alpha_t^2 C_k + sigma_t^2 I` and a Gaussian posterior of x; the mixture only adds the responsibilities.
In the eigenbasis of C_k everything is a number per axis. The arithmetic is float64 throughout.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from mcm.config import suggest
from mcm.errors import UserError
from mcm.schedules import NoiseLevel


class _Components(NamedTuple):
    """Every component at given points: K components, D axes, float64."""

    log_joint: Tensor  # [B, K] log w_k N(z; alpha mu_k, alpha^2 C_k + sigma^2 I)
    posterior_mean: Tensor  # [B, K, D] E[x | z, k], in the data's axes
    posterior_variance: Tensor  # [B, K, D] eigenvalues of Var[x | z, k]
    score: Tensor  # [B, K, D] gradient of log_joint in z, in the component's axes

    @property
    def responsibilities(self) -> Tensor:
        """p(k | z), `[B, K]`."""
        return self.log_joint.softmax(dim=1)


@dataclass(frozen=True)
class GaussianMixture:
    """Weights `[K]`, means `[K, D]`, covariances `[K, D, D]` or one standard deviation per component `[K]`.

    Points have shape `[B, ...]` with D values each. Raises UserError unless weights and covariances are positive.
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor
    _variances: Tensor = field(init=False, repr=False)  # [K, D] eigenvalues of the covariances
    _axes: Tensor = field(init=False, repr=False)  # [K, D, D] eigenvectors, in columns

    def __post_init__(self) -> None:
        means = self.means.double()
        count, dimensions = means.shape
        covariances = self.covariances.double()
        if covariances.dim() == 1:
            covariances = covariances.square()[:, None, None] * torch.eye(dimensions, dtype=torch.float64)
        if self.weights.shape != (count,) or covariances.shape != (count, dimensions, dimensions):
            raise UserError("mixture: shapes differ; give weights [K], means [K, D], covariances [K, D, D] or [K]")
        variances, axes = torch.linalg.eigh(covariances)
        if variances.min() <= 0 or self.weights.min() <= 0:
            raise UserError("mixture: a weight or a variance is not positive; make all of them positive")
        weights = self.weights.double()
        for name, value in {
            "weights": weights / weights.sum(),
            "means": means,
            "covariances": covariances,
            "_variances": variances,
            "_axes": axes,
        }.items():
            object.__setattr__(self, name, value)

    @property
    def dimensions(self) -> int:
        """D, the number of values of a point."""
        return self.means.shape[1]

    @property
    def mean_norm_sq(self) -> float:
        """E||x||^2 over the data: that of the means and the trace of the covariances."""
        return float(self.weights @ (self.means.square().sum(dim=1) + self._variances.sum(dim=1)))

    @property
    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean `[D]` and covariance `[D, D]` of the data: within the components and between their means."""
        mean = self.weights @ self.means
        away = self.means - mean
        return mean, torch.einsum("k,kij->ij", self.weights, self.covariances + away[:, :, None] * away[:, None, :])

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draws of x, float64 `[count, D]`."""
        chosen = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        draw = torch.randn(count, self.means.shape[1], generator=generator, dtype=torch.float64)
        return self.means[chosen] + self._spread(chosen, self._variances[chosen], draw)

    def log_density(self, z_t: Tensor, t: NoiseLevel) -> Tensor:
        """log p_t(z_t), float64 `[B]`; at t = 0 the data's own density."""
        return self._components(z_t, t.alpha, t.sigma).log_joint.logsumexp(dim=1)

    def posterior_mean(
        self, z_t: Tensor, t: NoiseLevel, labels: Tensor | None = None, dropout_seeds: Tensor | None = None
    ) -> Tensor:
        """E[x | z_t], of z_t's shape and dtype: the exact teacher, with the signature of a denoiser.

        A mixture has no classes and no dropout: `labels` and `dropout_seeds` change nothing.
        """
        at = self._components(z_t, t.alpha, t.sigma)
        mean = (at.responsibilities[..., None] * at.posterior_mean).sum(dim=1)
        return mean.to(z_t).view_as(z_t)

    def posterior_variance(self, z_t: Tensor, t: NoiseLevel) -> Tensor:
        """tr Var[x | z_t], float64 `[B]`: within the components and between their means."""
        at = self._components(z_t, t.alpha, t.sigma)
        r = at.responsibilities
        mean = (r[..., None] * at.posterior_mean).sum(dim=1, keepdim=True)
        between = (at.posterior_mean - mean).square().sum(dim=2)
        return (r * (at.posterior_variance.sum(dim=2) + between)).sum(dim=1)

    def posterior_sample(self, z_t: Tensor, t: NoiseLevel, generator: torch.Generator) -> Tensor:
        """A draw of x ~ p(x | z_t) for every row, of z_t's shape, float64."""
        at = self._components(z_t, t.alpha, t.sigma)
        chosen = torch.multinomial(at.responsibilities, 1, generator=generator)[:, 0]
        rows = torch.arange(len(z_t))
        mean, variance = at.posterior_mean[rows, chosen], at.posterior_variance[rows, chosen]
        draw = torch.randn(mean.shape, generator=generator, dtype=torch.float64)
        return (mean + self._spread(chosen, variance, draw)).view(z_t.shape)

    def flow(self, z_t: Tensor, t: NoiseLevel, s: NoiseLevel, steps: int = 512) -> Tensor:
        """Probability-flow ODE from t to s, float64 of z_t's shape; `t` = 1 and `s` = 0 are exact, s > t is allowed.

        In the angle `phi = atan2(sigma, alpha)` the ODE reads `dz/dphi = v` (Salimans & Ho 2022, App. D), smooth up to
        both ends. Runge-Kutta of fourth order, `steps` equal steps of phi: the error falls with steps^-4.
        """
        start = torch.atan2(t.sigma, t.alpha)
        step = (torch.atan2(s.sigma, s.alpha) - start) / steps
        z, h = z_t.double().flatten(1), step[:, None]
        for i in range(steps):
            phi = start + i * step
            k1 = self._v(z, phi)
            k2 = self._v(z + h / 2 * k1, phi + step / 2)
            k3 = self._v(z + h / 2 * k2, phi + step / 2)
            k4 = self._v(z + h * k3, phi + step)
            z = z + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return z.view(z_t.shape)

    def flow_by_quantiles(self, z_1: Tensor, iterations: int = 80) -> Tensor:
        """Probability-flow ODE from t = 1 to t = 0 of points `[B, 1]` on a line: the flow keeps their order.

        So z_0 is the data's quantile at the normal distribution's quantile of z_1. The inverse is found by bisection;
        both tails are measured from their own end, where the quantile is small and has all its digits.
        """
        if self.means.shape[1] != 1:
            raise UserError("mixture: quantiles order the points of a line only; use flow in more dimensions")
        z = z_1.double().flatten()
        side = torch.where(z > 0, -1.0, 1.0).double()
        tail = torch.special.ndtr(side * z)
        means, stds = self.means[:, 0], self.covariances[:, 0, 0].sqrt()
        low = (means - 40 * stds).min().expand_as(z)
        high = (means + 40 * stds).max().expand_as(z)
        for _ in range(iterations):
            middle = (low + high) / 2
            mass = torch.special.ndtr(side[:, None] * (middle[:, None] - means) / stds) @ self.weights
            above = (mass > tail) == (side > 0)
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return ((low + high) / 2).view(z_1.shape)

    def _v(self, z: Tensor, phi: Tensor) -> Tensor:
        """`v = alpha eps_hat - sigma x_hat` with `eps_hat = -sigma score`, which has no division by sigma. `[B, D]`."""
        alpha, sigma = phi.cos(), phi.sin()
        at = self._components(z, alpha, sigma)
        slope = self._rotate(alpha[:, None, None] * at.score) + at.posterior_mean
        return -sigma[:, None] * (at.responsibilities[..., None] * slope).sum(dim=1)

    def _components(self, z_t: Tensor, alpha_t: Tensor, sigma_t: Tensor) -> _Components:
        alpha, sigma = alpha_t[:, None, None], sigma_t[:, None, None]
        centred = z_t.double().flatten(1)[:, None] - alpha * self.means  # [B, K, D]
        along = torch.einsum("kde,bkd->bke", self._axes, centred)
        variance = alpha.square() * self._variances + sigma.square()
        exponent = (along.square() / variance + variance.log() + math.log(2 * math.pi)).sum(dim=2)
        return _Components(
            log_joint=self.weights.log() - 0.5 * exponent,
            posterior_mean=self.means + self._rotate(alpha * self._variances / variance * along),
            posterior_variance=self._variances * sigma.square() / variance,
            score=-along / variance,
        )

    def _rotate(self, along: Tensor) -> Tensor:
        """Coordinates in every component's eigenbasis to the data's axes, `[B, K, D]`."""
        return torch.einsum("kde,bke->bkd", self._axes, along)

    def _spread(self, chosen: Tensor, variance: Tensor, draw: Tensor) -> Tensor:
        """A standard normal draw with the variances of a component's axes, in the data's axes, `[B, D]`."""
        return torch.einsum("bde,be->bd", self._axes[chosen], variance.sqrt() * draw)


def _line() -> GaussianMixture:
    """Figure 1 of the paper: two narrow normals on a line."""
    return GaussianMixture(torch.tensor([0.5, 0.5]), torch.tensor([[-1.0], [1.0]]), torch.tensor([0.2, 0.2]))


def _rings() -> GaussianMixture:
    """A ring of eight narrow arcs around three small round spots, in the plane: three scales of variance."""
    parts = [(1.0, 1.4, k / 8, 0.22, 0.05) for k in range(8)] + [
        (1.2, 0.5, k / 3 + 1 / 12, 0.06, 0.06) for k in range(3)
    ]
    weights, radii, turns, along, across = torch.tensor(parts, dtype=torch.float64).unbind(1)
    outward = torch.stack([(2 * math.pi * turns).cos(), (2 * math.pi * turns).sin()], dim=1)
    sideways = torch.stack([-outward[:, 1], outward[:, 0]], dim=1)
    axes = torch.stack([sideways, outward], dim=2)  # [K, D, D], in columns
    scales = torch.stack([along, across], dim=1)
    covariances = axes @ torch.diag_embed(scales.square()) @ axes.mT
    return GaussianMixture(weights, radii[:, None] * outward, covariances)


def _pictures(count: int = 6, side: int = 8) -> GaussianMixture:
    """`count` kinds of pictures of 8 x 8 values, in which most of the variance lies in few directions.

    The variance of a spatial frequency f falls as (1 + f)^-2, as that of photographs does: of means of equal norm, and
    of random directions around each of them, by a scale of its own.
    """
    generator = torch.Generator().manual_seed(side * side)
    values = side * side
    position, frequency = torch.arange(side, dtype=torch.float64) + 0.5, torch.arange(side, dtype=torch.float64)
    cosines = torch.cos(math.pi / side * frequency[:, None] * position) * math.sqrt(2 / side)
    cosines[0] /= math.sqrt(2)
    basis = torch.einsum("ux,vy->uvxy", cosines, cosines).flatten(2).flatten(0, 1)  # [D, D], a wave in each row
    spectrum = (1 + (frequency[:, None].square() + frequency.square()).sqrt()).pow(-2).flatten()
    waves = (spectrum / spectrum.mean()).sqrt()[:, None] * basis  # white noise times these has variance 1 per value
    means = torch.randn(count, values, generator=generator, dtype=torch.float64) @ waves
    means = 0.45 * math.sqrt(values) * means / means.norm(dim=1, keepdim=True)
    scales = torch.linspace(0.4, 0.7, count, dtype=torch.float64)[:, None, None]
    roots = torch.randn(count, values, values, generator=generator, dtype=torch.float64) @ waves
    roots = scales / math.sqrt(values) * roots
    covariances = roots.mT @ roots + 0.02**2 * torch.eye(values, dtype=torch.float64)
    return GaussianMixture(torch.linspace(1, 2, count), means, covariances)


MIXTURES: dict[str, Callable[[], GaussianMixture]] = {"line-1d": _line, "rings-2d": _rings, "pictures-64d": _pictures}


@functools.cache
def mixture(name: str) -> GaussianMixture:
    """A row of MIXTURES, about one per value in scale; UserError where there is none of this name."""
    if name not in MIXTURES:
        raise UserError(f"mixture '{name}' is unknown; {suggest(name, list(MIXTURES))}")
    return MIXTURES[name]()
