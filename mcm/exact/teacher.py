"""Samplers of the closed-form teacher, and the way of samples through time."""

import functools
from collections.abc import Callable, Iterable
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mcm.denoiser import Predictor
from mcm.exact.stream import STEP, VARIANCE, keyed
from mcm.exact.truth import SCHEDULE
from mcm.methods.interface import Batch
from mcm.mixtures import GaussianMixture, mixture
from mcm.samplers import SAMPLERS, SamplerConfig, StepInputs, sample
from mcm.schedules import NoiseLevel
from mcm.steps import ddim, inv_ddim
from mcm.variance import XVar, XVarTable, analytic_x_var, measure_x_var


class MixtureSampler(SamplerConfig):
    """A sampler of a mixture's teacher. Its points have no range to clip to.

    `x_var` is measured as the variance stage does (`table`), the formula for images (`analytic`), or the posterior's
    own at every point, `tr Var[x | z_t] / d` (`exact`).
    """

    x_var: Literal["analytic", "table", "exact"] = "table"  # type: ignore[assignment]
    clip: Literal[False] = False
    guidance: Literal[0] = 0

    @property
    def row(self) -> str:
        """As every sampler's, and `-exact` where that is read."""
        reads = SAMPLERS[self.name].reads_x_var and self.x_var == "exact"
        return f"{super().row}{'-exact' * reads}"


@functools.lru_cache(maxsize=8)
def x_var_table(name: str, seed: int, x_var_frac: float, count: int, times: int = 64) -> XVarTable:
    """`x_var_frac E||x - E[x | z_t]||^2 / d` of the mixture `name` at `times` times, over `count` points each."""
    points = mixture(name)

    def batches(row: int) -> Iterable[tuple[Batch, Tensor]]:
        cell = keyed(seed, VARIANCE, row)
        x = points.sample(count, cell)
        yield Batch(x, None), torch.randn(x.shape, generator=cell, dtype=torch.float64)

    return measure_x_var(points.posterior_mean, SCHEDULE, np.arange(1, times + 1) / times, batches, x_var_frac)


def step_noise(z_1: Tensor, seed: int, step: int) -> Tensor:
    """The standard normal draw of a sampler's step, like z_1 `[N, D]`: a function of (seed, step) alone."""
    return torch.randn(z_1.shape, generator=keyed(seed, STEP, step), dtype=torch.float64).to(z_1)


def sample_teacher(
    points: GaussianMixture, sampler: MixtureSampler, z_1: Tensor, seed: int, table: Callable[[], XVar]
) -> Tensor:
    """Samples of the closed-form teacher from z_1 `[N, D]`, float64. `table()` is asked where a measured x_var is read.

    Samplers that draw noise have that of `step_noise`.
    """
    row, levels = SAMPLERS[sampler.name], sampler.levels(SCHEDULE)
    at = [NoiseLevel(*(value[i].expand(len(z_1)) for value in levels)) for i in range(sampler.steps + 1)]
    by_level = table() if sampler.needs_table else analytic_x_var

    def x_var(z_t: Tensor, t: NoiseLevel) -> Tensor:
        return points.posterior_variance(z_t, t) / points.dimensions if sampler.x_var == "exact" else by_level(t)

    z = z_1.double()
    for i in range(sampler.steps):
        inputs = StepInputs(
            predict=points.posterior_mean,
            x_var=functools.partial(x_var, z, at[i]),
            draw=functools.partial(step_noise, z, seed, i),
            last=i == sampler.steps - 1,
        )
        z = row.step(z, at[i], at[i + 1], inputs)
    return z


def trajectories(f: Predictor, steps: int, z_1: Tensor, inside: int) -> tuple[np.ndarray, np.ndarray]:
    """Times `[P]` from 1 to 0 and the way of DDIM's samples `[P, N, D]` through them, `inside` of them in every step.

    Within a step x_hat stays as it is, and DDIM draws the arc (Figure 1 of the paper).
    """
    sampler = SamplerConfig(name="ddim", steps=steps, clip=False)
    levels = sampler.levels(SCHEDULE)
    times, way, z_t = [torch.ones(1, dtype=torch.float64)], [z_1], z_1
    for k in range(steps):
        z_s = sample(f, z_t, levels.at(torch.tensor([k, k + 1])), sampler)
        t, s = (NoiseLevel(*(value[i].expand(len(z_1)) for value in levels)) for i in (k, k + 1))
        x_hat = inv_ddim(z_s, z_t, t, s)
        now = 1 - (k + torch.arange(1, inside + 1, dtype=torch.float64) / inside) / steps
        way += [ddim(x_hat, z_t, t, SCHEDULE(u.expand(len(z_1)))) for u in now]
        times.append(now)
        z_t = z_s
    return torch.cat(times).numpy(), torch.stack(way).float().numpy()
