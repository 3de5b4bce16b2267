"""What a training method is to those who run it: its parameters, its phases, and how it is made from them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from mcm.config import Config
from mcm.denoiser import Predictor
from mcm.methods.interface import Method
from mcm.schedules import NoiseLevel


@dataclass(frozen=True)
class Phase:
    """One run of the loop. What it made is where the next one starts, and whom the next one asks as its teacher."""

    student_steps: int  # of the student that it ends with
    iterations: int


@dataclass(frozen=True)
class Setting:
    """What a method is made for: one phase of one student."""

    schedule: Callable[[Tensor], NoiseLevel]
    phase: Phase
    teacher: Predictor | None = None  # the diffusion teacher in the first phase, then what the last one made
    before: Phase | None = None  # the phase that made the teacher; None where that is the diffusion teacher
    null_label: int = 0
    fixed_shapes: bool = False


class Recipe(Config):
    """A method's own keys of the section `students`; they stand beside those of the optimizer (TrainingConfig).

    A method is a subclass in a file of its own and a row of `mcm.methods.recipes.RECIPES`. Students start from the
    teacher's weights.
    """

    title: ClassVar[str]  # what the method is called in words
    source: ClassVar[str]  # the paper it is from
    distills: ClassVar[bool]  # whether the loss asks a teacher
    reads_end: ClassVar[bool] = False  # whether its network is told where a step ends

    teacher_ema: str | None = Field(None, description="weights of the teacher to start from and to distill")

    def check(self, student_steps: int) -> None:
        """UserError where these parameters make no student of so many steps."""

    def phases(self, student_steps: int, iterations: int) -> tuple[Phase, ...]:
        """The runs that lead to the student, `iterations` in all."""
        return (Phase(student_steps, iterations),)

    def make(self, setting: Setting) -> Method:
        """The method of one phase."""
        raise NotImplementedError

    @property
    def needs_classes(self) -> bool:
        """Whether it can run on data with classes only, as guidance does."""
        return False
