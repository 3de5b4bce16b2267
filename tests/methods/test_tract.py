"""TRACT: its target, its self-teacher, which is an EMA of the student, and its phases."""

import math
import types

import pytest
import torch
from pydantic import create_model
from torch import nn

from mcm.compiled import compiled
from mcm.denoiser import Denoiser
from mcm.errors import UserError
from mcm.methods.consistency import draw_times
from mcm.methods.interface import Batch, Draws, FollowsEMAs
from mcm.methods.recipe import Phase, Setting
from mcm.methods.tract import Tract, TractDistillation
from mcm.networks.mlp import MLP, MLPConfig
from mcm.schedules import interpolated
from mcm.steps import ddim, inv_ddim, noise
from mcm.training.config import TrainingConfig
from mcm.training.ema import EMAs

SCHEDULE = interpolated(16, 8, 16)
BATCH = 16


class Linear(nn.Module):
    """A student with one weight: `x_hat = w z`. It notes how many images it is asked for, and with which seeds."""

    def __init__(self, weight: float):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))
        self.asked: list[tuple[int, bool]] = []

    def forward(self, z, t, labels=None, seeds=None):
        self.asked.append((len(z), seeds is not None))
        return self.weight * z


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(9)
    return Batch(torch.rand(BATCH, 3, 4, 4, generator=generator) * 2 - 1, torch.arange(BATCH) % 10)


@pytest.fixture
def draws() -> Draws:
    generator = torch.Generator().manual_seed(0)
    segment, time, label = torch.rand(3, BATCH, generator=generator, dtype=torch.float64)
    return Draws(torch.randn(BATCH, 3, 4, 4, generator=generator), segment, time, label, torch.arange(BATCH))


def teacher(z_t, t, labels=None, dropout_seeds=None):
    assert dropout_seeds is None and not torch.is_grad_enabled()
    return 0.5 * z_t


def tract(student_steps: int, teacher_steps: int, self_teacher: nn.Module | None = None, **options) -> Tract:
    recipe = TractDistillation(first_steps=teacher_steps, between=(), **options)
    made = recipe.make(Setting(SCHEDULE, Phase(student_steps, 10), teacher))
    if self_teacher is not None:
        average = {name: value.detach().clone() for name, value in self_teacher.named_parameters()}
        made.follow({"ema_0.9999": {}, f"ema_{recipe.momentum:g}": average})
    return made


def test_loss_is_written_out_image_by_image(batch, draws):
    """A second implementation, in scalars: a DDIM step of the teacher (0.5 z), one of the average (0.3 z)."""
    method = tract(4, 12, Linear(0.3))
    assert isinstance(method, FollowsEMAs)
    found = method.loss(Linear(0.2), batch, draws, 0)
    for i in range(BATCH):
        x, eps = batch.images[i].double(), draws.eps[i].double()
        step, n_rel = int(draws.segment[i] * 4), 1 + int(draws.time[i] * 3)
        indices = (3 * step + n_rel, 3 * step + n_rel - 1, 3 * step)
        t, s, t_step = (SCHEDULE(torch.tensor([k / 12], dtype=torch.float64)) for k in indices)
        z_t = t.alpha * x + t.sigma * eps
        z_ref = z_s = s.alpha * 0.5 * z_t + s.sigma / t.sigma * (z_t - t.alpha * 0.5 * z_t)
        if n_rel > 1:
            z_ref = t_step.alpha * 0.3 * z_s + t_step.sigma / s.sigma * (z_s - s.alpha * 0.3 * z_s)
        ratio = t_step.sigma / t.sigma
        x_diff = (z_ref - ratio * z_t) / (t_step.alpha - t.alpha * ratio) - 0.2 * z_t
        assert found[i].item() == pytest.approx(((x_diff / t.sigma) ** 2).mean().item(), rel=1e-4)


@pytest.mark.parametrize("steps", [1, 4])
def test_with_one_teacher_step_a_segment_the_target_is_a_ddim_step_of_the_teacher(steps, batch, draws):
    """So it is the teacher's own prediction, and nobody else is asked."""
    nan, student = Linear(math.nan), Linear(0.5)
    loss = tract(steps, steps, nan).loss(student, batch, draws, 0)
    torch.testing.assert_close(loss, torch.zeros(BATCH), rtol=0, atol=1e-10)
    assert student.asked == [(BATCH, True)]


def test_where_the_teachers_step_ends_the_segment_the_self_teacher_is_not_read(batch, draws):
    at_step = draw_times(draws, 2, 8).at_step
    assert at_step.any() and not at_step.all()
    student = Linear(0.2)
    loss = tract(2, 8, Linear(math.nan)).loss(student, batch, draws, 0)
    assert torch.equal(loss.isnan(), ~at_step)
    # Asked where it is read, without dropout; the student with its dropout.
    assert student.asked == [(int((~at_step).sum()), False), (BATCH, True)]
    fixed = Tract(
        SCHEDULE, 2, tract(2, 8).teacher_steps, teacher, x_var_frac=0.0, distance="squared", fixed_shapes=True
    )
    fixed.follow({"ema_0.5": dict(Linear(math.nan).named_parameters())})
    torch.testing.assert_close(fixed.loss(student, batch, draws, 0), loss, equal_nan=True)


def test_only_the_student_has_a_gradient_and_its_weights_are_left_as_they_are(batch, draws):
    student, average = Linear(0.2), {"weight": nn.Parameter(torch.tensor(0.3))}
    method = tract(2, 8)
    method.follow({"ema_0.5": average})
    method.loss(student, batch, draws, 0).mean().backward()
    assert average["weight"].grad is None and student.weight.item() == pytest.approx(0.2)
    times = draw_times(draws, 2, 8)
    t, s, t_step = (SCHEDULE(k.double() / 8) for k in (times.t_index, times.t_index - 1, times.step_index))
    z_t = noise(batch.images, draws.eps, t)
    z_ref = method.refer(Linear(9.0), batch, draws, times, method.teach(batch, z_t, t, s), s, t_step)
    assert not z_ref.requires_grad
    v_diff = (inv_ddim(z_ref, z_t, t, t_step) - student.weight * z_t) / t.sigma.float().view(-1, 1, 1, 1)
    expected = torch.autograd.grad(v_diff.square().mean(), student.weight)[0]
    torch.testing.assert_close(student.weight.grad, expected)


def wrapped(denoiser: Denoiser, how: str, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    if how == "itself":
        return denoiser
    monkeypatch.setattr(torch, "compile", lambda *_, **__: pytest.fail)  # what is not to be called is not made either
    outer = nn.Module()  # DistributedDataParallel keeps the module that it wraps under this name
    outer.add_module("module", compiled(denoiser))
    return outer


@pytest.mark.parametrize("how", ["itself", "compiled and in parallel"])
def test_the_self_teacher_is_the_ema_as_training_moves_it(how, batch, draws, monkeypatch):
    """The reference moves with the EMA's update, and is that of a network that has these weights."""
    torch.manual_seed(0)
    denoiser, other = (Denoiser(MLP(MLPConfig(48, 8, 1, 8, dropout=0.5))).train() for _ in range(2))
    with torch.no_grad():
        denoiser.network.write.weight.normal_()
    parameters = dict(denoiser.named_parameters())
    emas = EMAs(parameters, (0.999, 0.5))
    method = tract(2, 8)
    method.follow(emas.shadows)
    flat = Batch(batch.images.flatten(1), None)
    times = draw_times(draws, 2, 8)
    s, t_step = (SCHEDULE(k.double() / 8) for k in (times.t_index - 1, times.step_index))
    z_s, found = draws.eps.flatten(1), []
    for update in (0, 100):
        if update:
            with torch.no_grad():
                for value in parameters.values():
                    value.add_(torch.randn_like(value))
            emas.update(parameters, update)
        other.load_state_dict(emas.shadows["ema_0.5"])
        student = wrapped(denoiser, how, monkeypatch)
        found.append(method.refer(student, flat, draws, times, z_s, s, t_step))
        rows = ~times.at_step
        with torch.no_grad():
            x_ref = other(z_s[rows], s.at(rows))
        torch.testing.assert_close(found[-1][rows], ddim(x_ref, z_s[rows], s.at(rows), t_step.at(rows)))
    assert not torch.allclose(found[0][rows], found[1][rows])
    assert torch.equal(found[0][~rows], found[1][~rows])


def test_an_ema_that_is_not_kept_is_an_error():
    with pytest.raises(UserError, match=r"momentum is 0\.9, and emas are 0\.5; add 0\.9 to emas"):
        tract(2, 8, momentum=0.9).follow({"ema_0.5": {}})


# Phases


@pytest.mark.parametrize(("between", "steps"), [((32,), 1), ((), 4), ((256, 32), 2)])
@pytest.mark.parametrize("iterations", [10, 101])
def test_phases_have_equal_parts_of_the_iterations_and_the_grid_of_their_teacher(between, steps, iterations):
    recipe = TractDistillation(first_steps=1024, between=between)
    recipe.check(steps)
    phases = recipe.phases(steps, iterations)
    assert [phase.student_steps for phase in phases] == [*between, steps]
    assert sum(phase.iterations for phase in phases) == iterations
    assert max(phase.iterations for phase in phases) - min(phase.iterations for phase in phases) <= 1
    before, grid = None, 1024
    for phase in phases:
        method = recipe.make(Setting(SCHEDULE, phase, teacher, before))
        assert (method.teacher_steps(0), method.student_steps) == (pytest.approx(grid), phase.student_steps)
        assert (method.x_var_frac, method.guidance, method.distance) == (0.0, 0.0, "squared")
        before, grid = phase, phase.student_steps


@pytest.mark.parametrize(
    ("first_steps", "between", "steps", "pair"),
    [(1024, (32,), 3, "32 to 3"), (1024, (32,), 32, "32 to 32"), (8, (32,), 1, "8 to 32"), (60, (32,), 1, "60 to 32")],
)
def test_phases_that_do_not_nest_are_an_error(first_steps, between, steps, pair):
    with pytest.raises(UserError, match=f"a phase from {pair} steps .*; choose first_steps and between"):
        TractDistillation(first_steps=first_steps, between=between).check(steps)


def test_too_few_iterations_for_the_phases_are_an_error():
    with pytest.raises(UserError, match="iterations are 1, and there are 2 phases; raise them"):
        TractDistillation().phases(1, 1)


def test_what_cannot_be_trained_is_an_error_before_training():
    student = create_model("Student", __base__=(TractDistillation, TrainingConfig))
    values = types.MappingProxyType({"iterations": 10, "batch_size": 2, "learning_rate": 1e-3, "emas": (0.999, 0.5)})
    student(**values).check(1)
    with pytest.raises(UserError, match=r"momentum is 0\.9, and emas are 0\.999, 0\.5; add 0\.9 to emas, behind"):
        student(**values, momentum=0.9).check(1)
    with pytest.raises(UserError, match="momentum asks for an EMA of whole weights, and fsdp keeps parts"):
        student(**values, parallel="fsdp").check(1)
