"""Streaming statistics of features: nothing grows with the number of images but the bounded store."""

import torch
from torch import Tensor


class Moments:
    """Mean and covariance of a stream of feature vectors, float64, where the features are: no batch comes to the host.

    By the exact merge of batches (Chan, Golub & LeVeque 1979): order and size of them change the result by rounding
    only.
    """

    def __init__(self, dimensions: int, device: torch.device | str = "cpu"):
        self.count = 0
        self.mean = torch.zeros(dimensions, dtype=torch.float64, device=device)
        self._scatter = torch.zeros(dimensions, dimensions, dtype=torch.float64, device=device)

    def update(self, features: Tensor) -> None:
        """Take in features `[B, D]`."""
        if not len(features):
            return
        x = features.to(self.mean)
        mean = x.mean(dim=0)
        # The scatter about the common mean is that about each mean and one vector more: all of it is one product.
        between = self._between(len(x), mean)
        rows = torch.cat([x - mean, between[None]])
        self._scatter.addmm_(rows.T, rows)
        self._move(len(x), mean)

    def merge(self, other: "Moments") -> None:
        """Take in what another stream has seen."""
        if other.count:
            between = self._between(other.count, other.mean)
            self._scatter.add_(other._scatter).addr_(between, between)
            self._move(other.count, other.mean)

    @property
    def covariance(self) -> Tensor:
        """Unbiased covariance `[D, D]`; of fewer than two vectors it is 0."""
        return self._scatter / max(self.count - 1, 1)

    def _between(self, count: int, mean: Tensor) -> Tensor:
        """The vector whose square is the scatter between the means, `[D]`."""
        return (mean - self.mean) * (self.count * count / (self.count + count)) ** 0.5

    def _move(self, count: int, mean: Tensor) -> None:
        self.count += count
        self.mean = self.mean + (mean - self.mean) * (count / self.count)


class FeatureStore:
    """The first `limit` feature vectors of a stream, in its order: for figures that compare pairs of images."""

    def __init__(self, limit: int):
        self.limit = limit
        self._kept: list[Tensor] = []
        self._count = 0

    def update(self, features: Tensor) -> None:
        """Take in features `[B, D]`, as long as there is room."""
        kept = features[: self.limit - self._count]
        if len(kept):
            self._kept.append(kept.float().clone())
            self._count += len(kept)

    @property
    def features(self) -> Tensor:
        """What was kept, float32 `[min(count, limit), D]`, where it came from."""
        return torch.cat(self._kept)
