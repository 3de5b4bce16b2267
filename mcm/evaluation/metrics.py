"""Distances between two sets of features: Fréchet distance, kernel distance, precision and recall."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mcm.errors import UserError


def covariance_root(covariance: Tensor) -> Tensor:
    """Some R `[D, rank]` with `R R^T = C`, float64."""
    values, vectors = torch.linalg.eigh(covariance.double())
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
    values = np.empty(subsets)
    for k in range(subsets):
        x, y = (
            features[torch.from_numpy(generator.choice(len(features), m, replace=False)).to(features.device)].double()
            for features in (features_1, features_2)
        )
        within = sum(kernel.sum() - kernel.diagonal().sum() for kernel in (_kernel(x, x), _kernel(y, y)))
        values[k] = float(within / (m * (m - 1)) - 2 * _kernel(x, y).mean())
    spread = values.std(ddof=1) if subsets > 1 else 0.0
    return KernelDistance(float(values.mean()), float(spread * (m / (n - m)) ** 0.5))


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


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
