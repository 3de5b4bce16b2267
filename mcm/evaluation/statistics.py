"""Streaming statistics of features: nothing grows with the number of images but the bounded store."""

import numpy as np
import torch
from torch import Tensor


class Moments:
    """Mean and covariance of a stream of feature vectors, float64, by the exact merge of batches.

    Chan, Golub & LeVeque (1979): the order and the size of the batches change the result by rounding only.
    """

    def __init__(self, dimensions: int):
        self.count = 0
        self.mean = torch.zeros(dimensions, dtype=torch.float64)
        self._scatter = torch.zeros(dimensions, dimensions, dtype=torch.float64)  # sum of (x - mean)(x - mean)^T

    def update(self, features: np.ndarray) -> None:
        """Take in features `[B, D]`."""
        x = torch.from_numpy(np.asarray(features, dtype=np.float64))
        if len(x):
            mean = x.mean(dim=0)
            centred = x - mean
            self._merge(len(x), mean, centred.T @ centred)

    def merge(self, other: "Moments") -> None:
        """Take in what another stream has seen."""
        if other.count:
            self._merge(other.count, other.mean, other._scatter)

    @property
    def covariance(self) -> Tensor:
        """Unbiased covariance `[D, D]`; of fewer than two vectors it is 0."""
        return self._scatter / max(self.count - 1, 1)

    def _merge(self, count: int, mean: Tensor, scatter: Tensor) -> None:
        total = self.count + count
        delta = mean - self.mean
        self._scatter = self._scatter + scatter + torch.outer(delta, delta) * (self.count * count / total)
        self.mean = self.mean + delta * (count / total)
        self.count = total


class FeatureStore:
    """The first `limit` feature vectors of a stream, in its order: for figures that compare pairs of images."""

    def __init__(self, limit: int):
        self.limit = limit
        self._kept: list[np.ndarray] = []
        self._count = 0

    def update(self, features: np.ndarray) -> None:
        """Take in features `[B, D]`, as long as there is room."""
        kept = np.array(features[: self.limit - self._count], dtype=np.float32)
        if len(kept):
            self._kept.append(kept)
            self._count += len(kept)

    @property
    def features(self) -> np.ndarray:
        """What was kept, float32 `[min(count, limit), D]`."""
        return np.concatenate(self._kept)
