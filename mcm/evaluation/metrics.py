"""Distances between two sets of features: Fréchet distance, kernel distance, precision and recall."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mcm.errors import UserError


def covariance_root(covariance: Tensor) -> Tensor:
    """Some R `[D, rank]` with `R R^T = C`, float64: Cholesky's at full rank, else from the eigenvectors.

    The first takes a twentieth of the time. Where it gets through a covariance short of full rank by luck, its last
    columns are rounding, and so is what they add to a trace.
    """
    covariance = covariance.double()
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if not failed:
        return factor
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > values.max() * len(values) * torch.finfo(torch.float64).eps
    return vectors[:, kept] * values[kept].sqrt()


def frechet_distance(
    mean_1: Tensor, covariance_1: Tensor, mean_2: Tensor, covariance_2: Tensor, root_1: Tensor | None = None
) -> float:
    """`||m1 - m2||^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))` between two Gaussians (Heusel et al. 2017), float64.

    With `C1 = R R^T`, the trace of the root is taken over the eigenvalues of the symmetric `R^T C2 R`, which are those
    of `C1 C2`: real, at least 0, and few where C1 has no full rank. Means `[D]`, covariances `[D, D]`; `root_1` is R,
    `[D, any]`, where it is known already.
    """
    root = covariance_root(covariance_1) if root_1 is None else root_1.double()
    trace = torch.linalg.eigvalsh(root.T @ covariance_2.double() @ root).clamp(min=0).sqrt().sum()
    distance = (mean_1.double() - mean_2.double()).square().sum()
    distance = distance + covariance_1.double().trace() + covariance_2.double().trace() - 2 * trace
    return max(float(distance), 0.0)


class KernelDistance(NamedTuple):
    """KID and the standard error of it."""

    value: float
    standard_error: float


def kernel_distance(
    features_1: Tensor, features_2: Tensor, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> KernelDistance:
    """KID (Binkowski et al. 2018): unbiased squared MMD under the kernel `(x.y / D + 1)^3`, mean over random subsets.

    `features_*` are `[N, D]`. A subset holds m images of each set, at most half of the smaller one, so that subsets
    differ; their spread times `sqrt(m / (n - m))`, n being the smaller set, is the standard error of a figure from n
    images (subsampling, Politis et al. 1999, with the correction for a finite set). A KID near 0 may be negative.
    """
    n = min(len(features_1), len(features_2))
    if n < 4:
        raise UserError(f"KID: {n} images in the smaller set; give at least 4")
    m = min(subset_size, n // 2)
    generator = np.random.default_rng(seed)
    chosen = tuple(torch.zeros(len(features), subsets, dtype=torch.float64) for features in (features_1, features_2))
    for k in range(subsets):
        for rows in chosen:
            rows[torch.from_numpy(generator.choice(len(rows), m, replace=False)), k] = 1
    x, y = features_1.double(), features_2.double()
    in_x, in_y = (rows.to(x.device) for rows in chosen)
    within = _sums(x, x, in_x, in_x, itself=True) + _sums(y, y, in_y, in_y, itself=True)
    values = (within / (m * (m - 1)) - 2 * _sums(x, y, in_x, in_y) / m**2).cpu().numpy()
    spread = values.std(ddof=1) if subsets > 1 else 0.0
    return KernelDistance(float(values.mean()), float(spread * (m / (n - m)) ** 0.5))


def _sums(x: Tensor, y: Tensor, in_x: Tensor, in_y: Tensor, itself: bool = False, chunk: int = 1024) -> Tensor:
    """The kernel `(x.y / D + 1)^3` summed over the pairs of each subset, `[S]`; of a set with itself without `x = y`.

    Subsets overlap, so each pair is computed once. `in_x` `[N, S]` and `in_y` `[M, S]` are 1 where a vector is chosen.
    """
    sums = torch.zeros(in_x.shape[1], dtype=x.dtype, device=x.device)
    for start in range(0, len(x), chunk):
        kernel = (x[start : start + chunk] @ y.T).div_(x.shape[1]).add_(1).pow_(3)
        if itself:
            kernel.diagonal(offset=start).zero_()
        sums += (in_x[start : start + chunk] * (kernel @ in_y)).sum(dim=0)
    return sums


class PrecisionRecall(NamedTuple):
    """Share of samples that lie among the real images, and of real images that lie among the samples."""

    precision: float
    recall: float


def precision_recall(real: Tensor, samples: Tensor, k: int = 3, chunk: int = 1024) -> PrecisionRecall:
    """Improved precision and recall (Kynkäänniemi et al. 2019), features `[N, D]` and `[M, D]`.

    A set's manifold is the union of balls around its points, each as wide as the way to its k-th nearest neighbour.
    """
    if min(len(real), len(samples)) <= k:
        raise UserError(f"precision and recall: {min(len(real), len(samples))} images; give more than {k}")
    real, samples = real.double(), samples.double()
    return PrecisionRecall(
        precision=_share_inside(samples, real, _radii(real, k, chunk), chunk),
        recall=_share_inside(real, samples, _radii(samples, k, chunk), chunk),
    )


def _radii(points: Tensor, k: int, chunk: int) -> Tensor:
    """Distance of every point to its k-th nearest other one, `[N]`."""
    radii = []
    for start in range(0, len(points), chunk):
        distances = torch.cdist(points[start : start + chunk], points)
        rows = torch.arange(len(distances), device=points.device)
        distances[rows, start + rows] = torch.inf
        radii.append(distances.kthvalue(k, dim=1).values)
    return torch.cat(radii)


def _share_inside(points: Tensor, centres: Tensor, radii: Tensor, chunk: int) -> float:
    """Share of the points that lie in some ball."""
    inside = sum(int((torch.cdist(part, centres) <= radii).any(dim=1).sum()) for part in points.split(chunk))
    return inside / len(points)
