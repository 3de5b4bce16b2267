"""Guidance distillation: its target is the guided teacher's step; guidance 0 is the conditional model."""

import pytest
import torch

from mcm.denoiser import guided
from mcm.errors import UserError
from mcm.methods.diffusion import Diffusion, DiffusionTraining
from mcm.methods.guidance_distillation import GuidanceDistillation, GuidanceDistillationRecipe
from mcm.methods.interface import Batch, Draws
from mcm.methods.recipe import Phase, Setting
from mcm.schedules import interpolated
from mcm.steps import ddim, noise, norm_sq

SCHEDULE = interpolated(16, 8, 16)
BATCH, NULL = 32, 10


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(9)
    return Batch(torch.rand(BATCH, 3, 4, 4, generator=generator) * 2 - 1, torch.arange(BATCH) % NULL)


@pytest.fixture
def draws() -> Draws:
    generator = torch.Generator().manual_seed(0)
    segment, time, label = torch.rand(3, BATCH, generator=generator, dtype=torch.float64)
    time[0] = 0.0
    return Draws(torch.randn(BATCH, 3, 4, 4, generator=generator), segment, time, label, torch.arange(BATCH))


def teacher(z_t, t, labels, dropout_seeds=None):
    """Another prediction for every class, and for none; without dropout and without a graph."""
    assert dropout_seeds is None and not torch.is_grad_enabled()
    return (0.05 * labels.to(z_t).view(-1, 1, 1, 1)) * z_t


def loss(student, batch, draws, guidance):
    return GuidanceDistillation(SCHEDULE, teacher, guidance, NULL).loss(student, batch, draws, 0)


@pytest.mark.parametrize("guidance", [0.0, 0.5, 3.0])
def test_a_student_without_loss_makes_the_guided_teachers_step(guidance, batch, draws):
    """For the one prediction that has no loss, DDIM lands where the guided teacher's DDIM lands."""

    def student(z, t, labels, seeds):
        conditional = 0.05 * labels.to(z).view(-1, 1, 1, 1)
        return (conditional + guidance * (conditional - 0.05 * NULL)) * z

    torch.testing.assert_close(loss(student, batch, draws, guidance), torch.zeros(BATCH), atol=1e-6, rtol=0)
    t, s = SCHEDULE(torch.full((BATCH,), 0.6)), SCHEDULE(torch.full((BATCH,), 0.2))
    z_t = noise(batch.images, draws.eps, t)
    with torch.no_grad():
        by_teacher = ddim(guided(teacher, guidance, NULL)(z_t, t, batch.labels), z_t, t, s)
    torch.testing.assert_close(ddim(student(z_t, t, batch.labels, None), z_t, t, s), by_teacher)


def test_guidance_zero_distills_the_conditional_model_which_alone_is_asked(batch, draws):
    asked = []

    def remembering(z_t, t, labels):
        asked.append(labels)
        return teacher(z_t, t, labels)

    method = GuidanceDistillation(SCHEDULE, remembering, 0.0, NULL)
    method.loss(lambda z, t, labels, seeds: 0.1 * z, batch, draws, 0)
    assert len(asked) == 1 and torch.equal(asked[0], batch.labels)


def test_loss_is_the_squared_distance_in_v(batch, draws):
    """`||v - v_guided||^2 / d` with `v = (alpha z_t - x_hat) / sigma`, at the times and the noise of the draws."""
    found = loss(lambda z, t, labels, seeds: 0.3 * z, batch, draws, 2.0)
    t = SCHEDULE(draws.time.clamp(min=1e-5))
    z_t = noise(batch.images, draws.eps, t)
    gain = 0.05 * (batch.labels + 2.0 * (batch.labels - NULL))
    distance = norm_sq((0.3 - gain.view(-1, 1, 1, 1)) * z_t).double() / t.sigma.square() / z_t[0].numel()
    torch.testing.assert_close(found, distance.float())
    assert found.isfinite().all()


def test_the_gradient_is_the_students_and_its_dropout_is_on(batch, draws):
    weight = torch.tensor(0.3, requires_grad=True)
    seen = []

    def student(z, t, labels, seeds):
        seen.append((labels, seeds))
        return weight * z

    (gradient,) = torch.autograd.grad(loss(student, batch, draws, 1.0).mean(), weight)
    assert gradient.abs() > 0
    assert len(seen) == 1 and torch.equal(seen[0][0], batch.labels) and torch.equal(seen[0][1], draws.dropout_seeds)


def test_recipe_needs_classes_where_it_guides_and_makes_the_method():
    recipe = GuidanceDistillationRecipe.parse({"guidance": 3.0}, "here")
    assert recipe.needs_classes and recipe.distills
    assert not GuidanceDistillationRecipe(guidance=0.0).needs_classes
    made = recipe.make(Setting(SCHEDULE, Phase(256, 10), teacher, null_label=NULL))
    assert made == GuidanceDistillation(SCHEDULE, teacher, 3.0, NULL)
    with pytest.raises(UserError, match="guidance"):
        GuidanceDistillationRecipe.parse({"guidance": -1.0}, "here")


def test_diffusion_as_a_recipe_is_the_teachers_training():
    recipe = DiffusionTraining.parse({"label_dropout": 0.1, "multiscale_levels": 1}, "here")
    assert not recipe.distills
    assert recipe.make(Setting(SCHEDULE, Phase(8, 10), null_label=NULL)) == Diffusion(SCHEDULE, 0.1, NULL, 1)
