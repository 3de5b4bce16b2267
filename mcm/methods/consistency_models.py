"""Consistency models (CM) and improved consistency training (iCT), as their authors train them: students of one step.

What differs from the papers: levels are variance preserving and exact at both ends (`mcm.methods.edm`). Students start
from the teacher's weights, in training too, where both papers start anew. The metric of CM is the squared distance,
their l2: LPIPS, with which their best models are trained, needs a network of its own. The optimizer is this project's.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from mcm.denoiser import Predictor
from mcm.errors import UserError
from mcm.methods.average import Average
from mcm.methods.edm import LogNormal, OneStep, Teach, karras_sigmas, pseudo_huber, x_difference
from mcm.methods.interface import Batch, Draws, uniform_integer
from mcm.methods.recipe import Setting
from mcm.schedules import NoiseLevel
from mcm.steps import ddim, heun, norm_sq

Levels = Callable[[int], int]  # N(k): the number of levels at iteration k


@dataclass(frozen=True)
class GrowingLevels:
    """N(k) of CM: from s0 at first to s1 + 1 in the end, evenly in the square (Song et al. 2023, App. C)."""

    s0: int
    s1: int
    iterations: int  # K

    def __call__(self, iteration: int) -> int:
        square = iteration / self.iterations * ((self.s1 + 1) ** 2 - self.s0**2) + self.s0**2
        return math.ceil(math.sqrt(square) - 1) + 1


@dataclass(frozen=True)
class DoublingLevels:
    """N(k) of iCT: s0 + 1 at first, s0 doubled every K' iterations until it is s1 (Song & Dhariwal 2023, Table 1)."""

    s0: int
    s1: int
    iterations: int  # K

    @property
    def every(self) -> int:
        """K', by which all doublings fit into K with as much time for the last."""
        return max(1, math.floor(self.iterations / (math.log2(self.s1 // self.s0) + 1)))

    def __call__(self, iteration: int) -> int:
        doublings = min(iteration // self.every, self.s1.bit_length())  # beyond, s1 is reached
        return min(self.s0 * 2**doublings, self.s1) + 1


@dataclass(frozen=True)
class SolverStep:
    """The teacher's step z_t -> z_s: Heun's (Karras et al. 2022, Alg. 1) or Euler's, which is DDIM."""

    teacher: Predictor
    solver: str

    def __call__(self, batch: Batch, z_t: Tensor, t: NoiseLevel, s: NoiseLevel) -> Tensor:
        x_hat = self.teacher(z_t, t, batch.labels)
        euler = ddim(x_hat, z_t, t, s)
        if self.solver == "ddim":
            return euler
        return heun(x_hat, self.teacher(euler, s, batch.labels), z_t, t, s)


@dataclass(frozen=True)
class ConsistencyModel:
    """Consistency distillation (CD, with `teach`) and training (CT): Song et al. 2023, Alg. 2 and 3.

    Two neighbours of a grid of N(k) levels, any pair as likely as another, with weight 1 and the squared distance. The
    target is the student itself or, with `target_ema`, its EMA of that decay.
    """

    levels: Levels
    teach: Teach | None = None
    target_ema: Average | None = None

    def follow(self, emas: Mapping[str, Mapping[str, Tensor]]) -> None:
        """UserError where no EMA has the decay of `target_ema`."""
        if self.target_ema is not None:
            self.target_ema.follow(emas)

    def loss(self, student: Predictor, batch: Batch, draws: Draws, iteration: int) -> Tensor:
        sigmas = karras_sigmas(self.levels(iteration))
        n = uniform_integer(draws.time, len(sigmas) - 1)
        target = student if self.target_ema is None else self.target_ema.of(student)
        x_diff = x_difference(student, batch, draws, sigmas[n + 1], sigmas[n], self.teach, target)
        return norm_sq(x_diff) / x_diff[0].numel()


@dataclass(frozen=True)
class ImprovedConsistencyTraining:
    """iCT (Song & Dhariwal 2023, Table 1): the target is the student itself, the distance is pseudo-Huber.

    Neighbours of the grid are drawn lognormally and weigh `1 / (sigma_t - sigma_s)`.
    """

    levels: Levels
    sigma: LogNormal
    huber_scale: float  # c / sqrt(d)

    def loss(self, student: Predictor, batch: Batch, draws: Draws, iteration: int) -> Tensor:
        sigmas = karras_sigmas(self.levels(iteration))
        n = self.sigma.interval(draws.time, sigmas)
        x_diff = x_difference(student, batch, draws, sigmas[n + 1], sigmas[n])
        c = self.huber_scale * math.sqrt(x_diff[0].numel())
        return pseudo_huber(x_diff, c) / (sigmas[n + 1] - sigmas[n]).to(x_diff)


class ModelRecipe(OneStep):
    """What CD and CT of consistency models share."""

    source: ClassVar[str] = "Song, Dhariwal, Chen, Sutskever 2023 (arXiv 2303.01469), Alg. 2 and 3"

    target_ema: float | None = Field(
        None, gt=0, lt=1, description="decay of the target network, one of emas; null: the student itself"
    )

    def check(self, student_steps: int) -> None:
        super().check(student_steps)
        if (average := self._average()) is not None:
            average.check(self.resolved())  # which holds the keys of TrainingConfig too

    def _average(self) -> Average | None:
        return None if self.target_ema is None else Average("target_ema", self.target_ema)


class ConsistencyModelTraining(ModelRecipe):
    """CT. The decay of their target network rises from 0.9 with N(k), here it is one number."""

    title: ClassVar[str] = "consistency model, trained"
    distills: ClassVar[bool] = False

    s0: int = Field(2, ge=2, description="levels at first")
    s1: int = Field(150, ge=2, description="levels in the end, less 1")

    def check(self, student_steps: int) -> None:
        super().check(student_steps)
        _check_growth(self.s0, self.s1)

    def make(self, setting: Setting) -> ConsistencyModel:
        levels = GrowingLevels(self.s0, self.s1, setting.phase.iterations)
        return ConsistencyModel(levels, target_ema=self._average())


class ConsistencyModelDistillation(ModelRecipe):
    """CD, with the diffusion teacher's step of a solver."""

    title: ClassVar[str] = "consistency model, distilled"
    distills: ClassVar[bool] = True

    levels: int = Field(18, ge=2, description="N: levels of the grid")
    solver: Literal["heun", "ddim"] = "heun"

    def make(self, setting: Setting) -> ConsistencyModel:
        assert setting.teacher is not None, "distillation has a teacher"
        return ConsistencyModel(lambda _: self.levels, SolverStep(setting.teacher, self.solver), self._average())


class ImprovedTraining(OneStep):
    """iCT."""

    title: ClassVar[str] = "improved consistency training"
    source: ClassVar[str] = "Song, Dhariwal 2023 (arXiv 2310.14189), Table 1"
    distills: ClassVar[bool] = False

    s0: int = Field(10, ge=1, description="levels at first, less 1")
    s1: int = Field(1280, ge=1, description="levels in the end, less 1")
    sigma: LogNormal = LogNormal()
    huber_scale: float = Field(0.00054, ge=0, description="c of the pseudo-Huber distance, over the root of d")

    def check(self, student_steps: int) -> None:
        super().check(student_steps)
        _check_growth(self.s0, self.s1)

    def make(self, setting: Setting) -> ImprovedConsistencyTraining:
        levels = DoublingLevels(self.s0, self.s1, setting.phase.iterations)
        return ImprovedConsistencyTraining(levels, self.sigma, self.huber_scale)


def _check_growth(s0: int, s1: int) -> None:
    if s1 < s0:
        raise UserError(
            f"s0 is {s0} and s1 is {s1}, and the number of levels grows from s0 to s1; raise s1 or lower s0"
        )
