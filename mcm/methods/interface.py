"""What every training method is to the loop: a loss per image, from a student, a batch and its draws.

Methods differ in where the target comes from. The loop, EMA, checkpoints and logging never know which one runs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from mcm.denoiser import Predictor


@dataclass(frozen=True)
class Draws:
    """The random draws of one training step, each keyed by (seed, iteration, position in the global batch).

    The uniform ones stay on the host: times are decided there, so that a step never waits for a device to know them,
    and no number that changes with the iteration becomes part of a compiled graph.
    """

    eps: Tensor  # [B, C, H, W] standard normal
    segment: Tensor  # [B] float64 uniform, on the host: which student step
    time: Tensor  # [B] float64 uniform, on the host: where inside it
    label: Tensor  # [B] float64 uniform, on the host: label dropout
    dropout_seeds: Tensor  # [B] int64

    def to(self, device: torch.device) -> Self:
        """What the network reads, on `device`."""
        eps = self.eps.to(device, non_blocking=True)
        return replace(self, eps=eps, dropout_seeds=self.dropout_seeds.to(device, non_blocking=True))

    def pin_memory(self) -> Self:
        """With what travels in page-locked memory, from where a GPU copies while the host goes on."""
        return replace(self, eps=self.eps.pin_memory(), dropout_seeds=self.dropout_seeds.pin_memory())

    def rows(self, rows: slice) -> Self:
        """The draws of some images."""
        return type(self)(
            self.eps[rows], self.segment[rows], self.time[rows], self.label[rows], self.dropout_seeds[rows]
        )


@dataclass(frozen=True)
class Batch:
    """Clean images float32 `[B, C, H, W]` in [-1, 1] and labels int64 `[B]` (None where unconditional)."""

    images: Tensor
    labels: Tensor | None

    def to(self, device: torch.device) -> Self:
        """The same on `device`."""
        labels = None if self.labels is None else self.labels.to(device, non_blocking=True)
        return replace(self, images=self.images.to(device, non_blocking=True), labels=labels)

    def pin_memory(self) -> Self:
        """The same in page-locked memory, from where a GPU copies while the host goes on."""
        labels = None if self.labels is None else self.labels.pin_memory()
        return replace(self, images=self.images.pin_memory(), labels=labels)

    def rows(self, rows: slice) -> Self:
        """Some of the images."""
        return type(self)(self.images[rows], None if self.labels is None else self.labels[rows])


class Method(Protocol):
    """A training method. `student` maps (z_t, t, labels, dropout_seeds) to x_hat."""

    def loss(self, student: Predictor, batch: Batch, draws: Draws, iteration: int) -> Tensor:
        """The loss of every image of a (micro-)batch, `[B]`, at training iteration `iteration`, counted from 0."""
        ...


@runtime_checkable
class FollowsEMAs(Protocol):
    """A method whose target comes from an average of the student itself (as TRACT's self-teacher does)."""

    def follow(self, emas: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Called once before the first step with the student's EMAs, by `ema_<decay>` and parameter name.

        The tensors are updated in place as training goes on; evaluate them with `torch.func.functional_call`.
        """
        ...


def uniform_integer(u: Tensor, count: int) -> Tensor:
    """A uniform draw in [0, 1) `[B]` as a uniform integer in {0, ..., count - 1}, int64 `[B]`."""
    return (u * count).long().clamp(max=count - 1)


def drop_labels(labels: Tensor | None, u: Tensor, rate: float, null_label: int) -> Tensor | None:
    """Label dropout for classifier-free guidance: the null label with probability `rate`. `u` may lie on the host."""
    if labels is None or rate == 0.0:
        return labels
    return torch.where((u < rate).to(labels.device, non_blocking=True), null_label, labels)
