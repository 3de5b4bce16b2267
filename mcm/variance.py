"""Posterior variance x_var(t) for aDDIM (section 3.2, Alg. 3): measured over data for a grid of t, or analytic."""

import csv
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mcm.artifacts import atomic_file
from mcm.denoiser import Predictor
from mcm.errors import UserError
from mcm.methods.interface import Batch
from mcm.schedules import NoiseLevel
from mcm.steps import noise, norm_sq

# x_var of noise levels `[B]`, float64 `[B]`, per dimension of x.
XVar = Callable[[NoiseLevel], Tensor]

COLUMNS = ("t", "logsnr", "x_var", "standard_error", "n", "analytic")


def analytic_x_var(level: NoiseLevel) -> Tensor:
    """`0.1 / (2 + SNR)`: 10% of the posterior variance under a factorized Gaussian prior of variance 0.5."""
    return 0.1 / (2.0 + level.snr)


@dataclass(frozen=True)
class XVarTable:
    """Measured x_var on a grid of t, one numpy column each; off the grid it is interpolated in logsnr."""

    t: np.ndarray
    logsnr: np.ndarray
    x_var: np.ndarray
    standard_error: np.ndarray
    n: np.ndarray
    analytic: np.ndarray

    def __call__(self, level: NoiseLevel) -> Tensor:
        """x_var of levels `[B]`, float64 `[B]`; constant beyond the ends of the table."""
        order = np.argsort(self.logsnr)
        wanted = level.logsnr.detach().cpu().numpy()
        return torch.from_numpy(np.interp(wanted, self.logsnr[order], self.x_var[order])).to(level.logsnr.device)

    def write(self, path: Path) -> None:
        """The table as CSV; numbers round-trip exactly."""
        with atomic_file(path) as temporary, temporary.open("w", newline="") as opened:
            writer = csv.writer(opened, lineterminator="\n")
            writer.writerow(COLUMNS)
            for row in zip(*(getattr(self, column).tolist() for column in COLUMNS), strict=True):
                writer.writerow(row)

    @classmethod
    def read(cls, path: Path) -> "XVarTable":
        """Read what `write` wrote."""
        try:
            with Path(path).open(newline="") as opened:
                rows = list(csv.DictReader(opened))
            columns = {column: np.array([float(row[column]) for row in rows]) for column in COLUMNS}
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: not a posterior-variance table ({error}); run the variance stage again") from None
        if not len(rows):
            raise UserError(f"{path}: the posterior-variance table is empty; run the variance stage again")
        return cls(**columns)


@torch.no_grad()
def measure_x_var(
    f: Predictor,
    schedule: Callable[[Tensor], NoiseLevel],
    grid: np.ndarray,
    batches: Callable[[int], Iterable[tuple[Batch, Tensor]]],
    eta: float = 0.75,
    progress: Callable[[int], object] = lambda rows: None,
) -> XVarTable:
    """`eta E||x - f(z_t, t)||^2 / d` for every t of `grid` (float64 `[T]`, in (0, 1]), over clean images.

    `batches(row)` yields (batch, eps) for row `row` of the grid; f is the conditional prediction, never a guided one.
    The standard error is that of the mean over images.
    """
    means, errors, counts = [], [], []
    for row, t in enumerate(grid):
        samples = []
        for batch, eps in batches(row):
            images = batch.images
            level = schedule(torch.full((len(images),), float(t), dtype=torch.float64, device=images.device))
            x_hat = f(noise(images, eps, level), level, batch.labels)
            samples.append(norm_sq((images - x_hat).double()) / images[0].numel())
        errors_sq = eta * torch.cat(samples)
        means.append(float(errors_sq.mean()))
        errors.append(float(errors_sq.std()) / len(errors_sq) ** 0.5 if len(errors_sq) > 1 else float("nan"))
        counts.append(len(errors_sq))
        progress(row + 1)
    levels = schedule(torch.as_tensor(grid, dtype=torch.float64))
    return XVarTable(
        t=np.asarray(grid, dtype=np.float64),
        logsnr=levels.clipped_logsnr.double().numpy(),
        x_var=np.array(means),
        standard_error=np.array(errors),
        n=np.array(counts),
        analytic=analytic_x_var(levels).numpy(),
    )
