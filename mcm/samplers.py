"""Samplers: loops over the steps of `mcm.steps`, for any predictor, and images that are seeded one by one.

Image k of a seed starts from the same noise in every sampler, and is the same image whatever the batch size: its noise
comes from a counter-based generator keyed by the seed, with (image, step) in its counter.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor

from mcm.config import Config, suggest
from mcm.data.arrays import quantized
from mcm.data.stream import generator
from mcm.denoiser import Predictor, guided, reads_end
from mcm.errors import UserError
from mcm.schedules import CosineSchedule, NoiseLevel, karras_grid, uniform_grid
from mcm.steps import addim, addim_inner, ddim, ddpm, heun, noise, noise_ddim
from mcm.training.devices import DEVICES

INITIAL, STEP = 3, 4  # streams of a seed, beside DRAWS and ORDER of mcm.data.stream


@dataclass(frozen=True)
class StepInputs:
    """What a sampler's step t -> s may use beside z_t and the levels; B images, all at the same level."""

    predict: Callable[[Tensor, NoiseLevel], Tensor]  # x_hat: labels and where it is to lead bound, guided, clipped
    x_var: Callable[[], Tensor]  # posterior variance per dimension at t, float64 [B]
    draw: Callable[[], Tensor]  # this step's standard normal draw, like z_t
    last: bool  # s = 0


def _ddim(z_t: Tensor, t: NoiseLevel, s: NoiseLevel, at: StepInputs) -> Tensor:
    return ddim(at.predict(z_t, t), z_t, t, s)


def _addim(z_t: Tensor, t: NoiseLevel, s: NoiseLevel, at: StepInputs) -> Tensor:
    return addim(at.predict(z_t, t), z_t, t, s, at.x_var())


def _addim_inner(z_t: Tensor, t: NoiseLevel, s: NoiseLevel, at: StepInputs) -> Tensor:
    return addim_inner(at.predict(z_t, t), z_t, t, s, at.x_var())


def _ddpm(z_t: Tensor, t: NoiseLevel, s: NoiseLevel, at: StepInputs) -> Tensor:
    return ddpm(at.predict(z_t, t), z_t, t, s, at.draw())


def _noise_ddim(z_t: Tensor, t: NoiseLevel, s: NoiseLevel, at: StepInputs) -> Tensor:
    return noise_ddim(at.predict(z_t, t), z_t, t, s, at.x_var(), at.draw())


def _heun(z_t: Tensor, t: NoiseLevel, s: NoiseLevel, at: StepInputs) -> Tensor:
    x_hat = at.predict(z_t, t)
    euler = ddim(x_hat, z_t, t, s)
    return euler if at.last else heun(x_hat, at.predict(euler, s), z_t, t, s)


def _consistency(z_t: Tensor, t: NoiseLevel, s: NoiseLevel, at: StepInputs) -> Tensor:
    x_hat = at.predict(z_t, t)
    return x_hat if at.last else noise(x_hat, at.draw(), s)


@dataclass(frozen=True)
class Sampler:
    """A row of the table: the step, how often N steps evaluate the predictor, and whether x_var is read.

    A predictor that reads ends is told the step's, or, where every prediction `jumps` to the data, t = 0.
    """

    step: Callable[[Tensor, NoiseLevel, NoiseLevel, StepInputs], Tensor]
    evaluations: Callable[[int], int] = lambda steps: steps
    reads_x_var: bool = False
    jumps: bool = False


SAMPLERS: dict[str, Sampler] = {
    "ddim": Sampler(_ddim),  # Eq. 4, Alg. 2
    "addim": Sampler(_addim, reads_x_var=True),  # Eq. 14, Alg. 3
    "addim_inner": Sampler(_addim_inner, reads_x_var=True),  # the last step DDIM's: studies/exact-addim.yaml
    "ddpm": Sampler(_ddpm),  # ancestral, Eq. 1
    "noise_ddim": Sampler(_noise_ddim, reads_x_var=True),  # App. A.4
    "heun": Sampler(_heun, evaluations=lambda steps: 2 * steps - 1),  # Karras et al. 2022, Alg. 1
    # Of one-step students: the sample, noised again and again (Song et al. 2023, Alg. 1; gamma = 1 of Kim et al. 2023).
    "consistency": Sampler(_consistency, jumps=True),
}


class SamplerConfig(Config):
    """One way to sample. Images have `clip`: x_hat is held to [-1, 1]; data without such a range must not."""

    name: str = "ddim"
    steps: int = Field(ge=1)
    grid: Literal["uniform", "karras"] = "uniform"
    guidance: float = 0.0
    x_var: Literal["analytic", "table"] = "analytic"
    clip: bool = True

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in SAMPLERS:
            raise ValueError(f"no such sampler; {suggest(name, list(SAMPLERS))}")
        return name

    @property
    def nfe(self) -> int:
        """Evaluations of f an image; with guidance each of them runs the network twice."""
        return SAMPLERS[self.name].evaluations(self.steps)

    @property
    def needs_table(self) -> bool:
        """Whether a measured x_var is read."""
        return SAMPLERS[self.name].reads_x_var and self.x_var == "table"

    def check_student(self, student_steps: int, reads_end: bool) -> None:
        """UserError where it is none for this student: x_var is measured on teachers, and a student of several steps
        knows where a step of its own ends, not the data, unless it can be told (`reads_end`)."""
        row = SAMPLERS[self.name]
        if row.reads_x_var:
            raise UserError(f"sampler {self.name} reads the teacher's x_var; sample students by ddim")
        if row.jumps and student_steps > 1 and not reads_end:
            raise UserError(
                f"sampler {self.name} asks for the data at once, and this student has {student_steps} steps to it; "
                "use ddim, or a student of 1 step"
            )

    @property
    def row(self) -> str:
        """`<sampler>-<nfe>`, then what is uncommon about it: the name of its row in a table of results."""
        parts = [self.name, str(self.nfe)]
        if self.grid != "uniform":
            parts.append(self.grid)
        if self.guidance:
            parts.append(f"guidance{self.guidance:g}")
        if SAMPLERS[self.name].reads_x_var and self.x_var == "analytic":
            parts.append("analytic")
        return "-".join(parts)

    def levels(self, schedule: CosineSchedule) -> NoiseLevel:
        """The `steps + 1` noise levels from noise to data, float64."""
        grid = uniform_grid(schedule) if self.grid == "uniform" else karras_grid()
        return grid(self.steps)


def sample(
    f: Predictor,
    z_1: Tensor,
    levels: NoiseLevel,
    sampler: SamplerConfig,
    labels: Tensor | None = None,
    null_label: int = 0,
    x_var: Callable[[NoiseLevel], Tensor] | None = None,
    draw: Callable[[int], Tensor] | None = None,
) -> Tensor:
    """N steps of `sampler` over `levels` `[N + 1]`, from noise z_1 `[B, ...]` to samples of its shape and dtype.

    `labels` int64 `[B]`, or None where unconditional; `x_var` and `draw(step)` (standard normal, like z_1) are needed
    by the samplers that read them. x_var belongs to the conditional prediction, with guidance too. A predictor that
    reads ends is told where its step goes, as `Sampler` says: both of Heun's predictions are told s.
    Raises UserError where guidance has no labels or something needed is missing.
    """
    if sampler.guidance and labels is None:
        raise UserError(f"sampler {sampler.row}: guidance needs a model with classes; set guidance to 0")
    predictor, told = guided(f, sampler.guidance, null_label), reads_end(f)

    def predict(end: NoiseLevel, z_t: Tensor, t: NoiseLevel) -> Tensor:
        x_hat = predictor(z_t, t, labels, None, end) if told else predictor(z_t, t, labels)
        return x_hat.clamp(-1, 1) if sampler.clip else x_hat

    def missing(*_: object) -> Tensor:
        raise UserError(
            f"sampler {sampler.row}: it reads x_var or draws noise, and none was given; give it or use ddim"
        )

    row = SAMPLERS[sampler.name]
    steps = len(levels.alpha) - 1
    # All that steps read is computed here and moved once: a step then waits for nothing.
    variances = x_var(levels.at(torch.arange(steps))).to(z_1.device) if row.reads_x_var and x_var else None
    levels = levels.to(z_1.device)
    at = [NoiseLevel(*(value[i].expand(len(z_1)) for value in levels)) for i in range(steps + 1)]
    reads = None if variances is None else variances.unbind()
    end_step = DEVICES[z_1.device.type].end_step
    end_step()  # so that levels are data to a step, the same program for each of them
    z = z_1
    for i in range(steps):
        read = missing if reads is None else functools.partial(reads[i].expand, len(z_1))
        draw_step = missing if draw is None else functools.partial(draw, i)
        t, s = at[i], at[i + 1]
        predict_to = functools.partial(predict, at[-1] if row.jumps else s)
        z = row.step(z, t, s, StepInputs(predict_to, read, draw_step, last=i == steps - 1))
        end_step()
    return z


def _normal(seed: int, stream: int, step: int, indices: Sequence[int], shape: Sequence[int]) -> Tensor:
    draws = np.empty((len(indices), *shape), dtype=np.float32)
    for row, index in enumerate(indices):
        draws[row] = generator(seed, stream, index, step).standard_normal(tuple(shape), dtype=np.float32)
    return torch.from_numpy(draws)


def initial_noise(seed: int, indices: Sequence[int], shape: Sequence[int]) -> Tensor:
    """z_1 of images `indices`, standard normal float32 `[len(indices), *shape]`: a function of (seed, index) alone."""
    return _normal(seed, INITIAL, 0, indices, shape)


def step_noise(seed: int, indices: Sequence[int], step: int, shape: Sequence[int]) -> Tensor:
    """The draw of sampler step `step` for images `indices`: a function of (seed, index, step) alone."""
    return _normal(seed, STEP, step, indices, shape)


def labels_for(indices: Sequence[int], num_classes: int) -> Tensor | None:
    """The classes in turn, `k mod num_classes`, int64 `[len(indices)]`; None where unconditional."""
    return torch.as_tensor(indices, dtype=torch.int64) % num_classes if num_classes else None


def generate(
    f: Predictor,
    sampler: SamplerConfig,
    schedule: CosineSchedule,
    seed: int,
    count: int,
    shape: Sequence[int],
    num_classes: int,
    batch_size: int,
    device: torch.device | str = "cpu",
    x_var: Callable[[NoiseLevel], Tensor] | None = None,
    rank: int = 0,
    world_size: int = 1,
    equal_batches: bool = False,
) -> Iterator[Tensor]:
    """Images 0 to `count - 1` of `seed` in order, uint8 `[B, H, W, C]` on `device` in batches of `batch_size`.

    Process r of W makes the batches r, r + W, ...; the last of all is shorter. With `equal_batches` it is computed as
    long as the others and cut, for a predictor that is compiled for one shape. `shape` is (C, H, W), `num_classes` 0 is
    unconditional, the null label is `num_classes`. Sampler arithmetic is float32; the predictor chooses its own. Raises
    UserError at an image that is not finite: on a CPU at once, elsewhere at the end, since to look is to wait.
    """
    device, levels = torch.device(device), sampler.levels(schedule)
    looked: list[tuple[int, Tensor]] = []
    for start in range(0, count, batch_size)[rank::world_size]:
        stop = min(start + batch_size, count)
        indices = range(start, start + batch_size if equal_batches else stop)

        def draw(step: int, indices: range = indices) -> Tensor:
            return step_noise(seed, indices, step, shape).to(device)

        labels = labels_for(indices, num_classes)
        with torch.no_grad():  # XLA has no inference mode
            x = sample(
                f,
                initial_noise(seed, indices, shape).to(device),
                levels,
                sampler,
                None if labels is None else labels.to(device),
                num_classes,
                x_var,
                draw,
            )[: stop - start]
            looked.append((start, x.flatten(1).isfinite().all(dim=1)))
            if device.type == "cpu":
                _check(looked, sampler, seed)
            pixels = quantized(x)
        yield pixels
    _check(looked, sampler, seed)


def _check(looked: list[tuple[int, Tensor]], sampler: SamplerConfig, seed: int) -> None:
    """UserError that names the first image that is not finite; empties the list of (first image, finite `[B]`)."""
    for start, finite in looked:
        if not all(found := finite.tolist()):
            raise UserError(
                f"sampler {sampler.row}, seed {seed}: image {start + found.index(False)} is not finite; "
                "use float32 precision, or train the model again with a lower learning rate"
            )
    looked.clear()
