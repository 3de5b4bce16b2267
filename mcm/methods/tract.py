"""TRACT, transitive closure time-distillation: consistency distillation whose reference is an EMA of the student."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from mcm.denoiser import Predictor
from mcm.errors import UserError
from mcm.methods.average import Average
from mcm.methods.consistency import Consistency, TeacherSteps, Times
from mcm.methods.interface import Batch, Draws
from mcm.methods.recipe import Phase, Recipe, Setting
from mcm.schedules import NoiseLevel


@dataclass(frozen=True)
class Tract(Consistency):
    """One phase (Berthelot et al. 2023, section 3): Algorithm 1, where not the student but its EMA makes the reference.

    The self-teacher is evaluated without dropout, and, like a student, not at all where s == t_step: there the target
    is the teacher's step alone, exact. `follow` is called before `loss`.
    """

    self_teacher: Average = field(default_factory=lambda: Average("momentum", 0.5))

    def follow(self, emas: Mapping[str, Mapping[str, Tensor]]) -> None:
        """UserError where no EMA has the self-teacher's decay."""
        self.self_teacher.follow(emas)

    def refer(
        self,
        student: Predictor,
        batch: Batch,
        draws: Draws,
        times: Times,
        z_s: Tensor,
        s: NoiseLevel,
        t_step: NoiseLevel,
    ) -> Tensor:
        """`z_ref = DDIM_{s->t_step}(f_EMA(z_s, s), z_s)`, without graph."""
        network = self.self_teacher.of(student)

        def average(z: Tensor, at: NoiseLevel, labels: Tensor | None, seeds: Tensor) -> Tensor:
            return network(z, at, labels)

        return super().refer(average, batch, draws, times, z_s, s, t_step)


class TractDistillation(Recipe):
    """TRACT: phases of few, far steps (1024 -> 32 -> 1 in the paper), DDIM as the teacher's step, squared distance.

    A phase starts from the first EMA of the phase before and has it as its teacher, on the grid of its steps.
    """

    title: ClassVar[str] = "TRACT"
    source: ClassVar[str] = "Berthelot et al. 2023 (arXiv 2303.04248), section 3"
    distills: ClassVar[bool] = True

    first_steps: int = Field(1024, ge=1, description="steps of the diffusion teacher")
    between: tuple[int, ...] = Field(
        (32,), description="steps of the students between the teacher and the last one, falling; [] is one phase"
    )
    momentum: float = Field(0.5, ge=0, lt=1, description="decay of the self-teacher, one of emas")

    def check(self, student_steps: int) -> None:
        for more, fewer in pairwise(self._steps(student_steps)):
            if more <= fewer or more % fewer:
                raise UserError(
                    f"a phase from {more} to {fewer} steps cuts no segments of 2 or more whole steps; choose "
                    "first_steps and between so that each is a multiple of the next, and the last of student_steps"
                )
        self._self_teacher().check(self.resolved())  # which holds the keys of TrainingConfig too

    def _self_teacher(self) -> Average:
        return Average("momentum", self.momentum)

    def _steps(self, student_steps: int) -> tuple[int, ...]:
        return (self.first_steps, *self.between, student_steps)

    def phases(self, student_steps: int, iterations: int) -> tuple[Phase, ...]:
        """`iterations` split into equal parts."""
        _, *steps = self._steps(student_steps)
        if iterations < len(steps):
            raise UserError(f"iterations are {iterations}, and there are {len(steps)} phases; raise them")
        ends = [iterations * k // len(steps) for k in range(len(steps) + 1)]
        return tuple(Phase(count, stop - start) for count, (start, stop) in zip(steps, pairwise(ends), strict=True))

    def make(self, setting: Setting) -> Tract:
        steps = self.first_steps if setting.before is None else setting.before.student_steps
        return Tract(
            schedule=setting.schedule,
            student_steps=setting.phase.student_steps,
            teacher_steps=TeacherSteps(steps, steps, 0),
            teacher=setting.teacher,
            x_var_frac=0.0,  # DDIM
            distance="squared",
            fixed_shapes=setting.fixed_shapes,
            self_teacher=self._self_teacher(),
        )
