"""TRACT, transitive closure time-distillation: consistency distillation whose reference is an EMA of the student."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from mcm.denoiser import Predictor
from mcm.errors import UserError
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

    momentum: float = 0.5
    self_teacher: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def follow(self, emas: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Keep the tensors of the EMA with decay `momentum`, which training goes on to update in place.

        UserError where there is none.
        """
        name = f"ema_{self.momentum:g}"
        if name not in emas:
            raise UserError(f"tract's momentum is {self.momentum:g}, and no EMA has that decay; add it to emas")
        self.self_teacher.update(emas[name])

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
        network = _eager(student)

        def average(z: Tensor, at: NoiseLevel, labels: Tensor | None, seeds: Tensor) -> Tensor:
            return functional_call(network, self.self_teacher, (z, at, labels))

        return super().refer(average, batch, draws, times, z_s, s, t_step)


def _eager(student: Predictor) -> nn.Module:
    """The module whose parameters the EMAs are named for, out of its wrappers (a compiled one, DDP).

    A compiled program would be compiled anew for tensors that are no parameters, and DDP expects a backward pass.
    """
    while isinstance(inner := getattr(student, "module", None), nn.Module):
        student = inner
    assert isinstance(student, nn.Module), "the EMA of a student is one of its parameters"
    return student


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
        # Those of TrainingConfig, which stand beside a recipe's own keys.
        beside = self.resolved()
        if self.momentum not in beside.get("emas", [self.momentum]):
            raise UserError(
                f"momentum is {self.momentum:g}, the decay of the self-teacher; add it to emas, not as the first"
            )
        if beside.get("parallel") == "fsdp":
            raise UserError("tract asks an EMA of whole weights, and fsdp keeps parts of them; set parallel to ddp")

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
            momentum=self.momentum,
        )
