"""Progressive distillation: where its target lands, which phases aDDIM belongs to, how phases follow each other."""

import math
from itertools import pairwise

import pytest
import torch

from mcm.denoiser import guide
from mcm.errors import UserError
from mcm.methods.interface import Batch, Draws
from mcm.methods.progressive import Progressive, ProgressiveDistillation, draw_steps
from mcm.methods.recipe import Phase, Setting
from mcm.mixtures import GaussianMixture
from mcm.schedules import cosine, interpolated, uniform_grid
from mcm.steps import addim, ddim, inv_ddim, noise, norm_sq

SCHEDULE = interpolated(16, 8, 16)
BATCH = 16


def make_batch(dtype: torch.dtype = torch.float32, count: int = BATCH) -> Batch:
    generator = torch.Generator().manual_seed(9)
    images = torch.rand(count, 3, 4, 4, generator=generator, dtype=torch.float64) * 2 - 1
    return Batch(images.to(dtype), torch.arange(count) % 10)


def make_draws(dtype: torch.dtype = torch.float32, count: int = BATCH) -> Draws:
    generator = torch.Generator().manual_seed(0)
    segment, time, label = torch.rand(3, count, generator=generator, dtype=torch.float64)
    eps = torch.randn(count, 3, 4, 4, generator=generator, dtype=torch.float64).to(dtype)
    return Draws(eps, segment, time, label, torch.arange(count))


def teacher(z_t, t, labels=None, dropout_seeds=None):
    assert dropout_seeds is None and not torch.is_grad_enabled()
    return 0.5 * z_t + 0.1 * t.alpha.to(z_t).view(-1, 1, 1, 1) * (z_t * 3).sin()


def method(student_steps: int, **options) -> Progressive:
    return Progressive(SCHEDULE, student_steps, teacher=teacher, **options)


def level(k: int, steps: int, count: int = BATCH):
    return SCHEDULE(torch.full((count,), k / steps, dtype=torch.float64))


# Times


@pytest.mark.parametrize("student_steps", [1, 2, 32])
def test_times_are_those_of_the_students_sampler_alike(student_steps):
    count = 64_000
    times = draw_steps(make_draws(count=count), student_steps)
    assert times.total == 2 * student_steps
    assert torch.equal(times.t_index - times.step_index, torch.full((count,), 2))
    share = torch.bincount(times.t_index // 2, minlength=student_steps + 1) / count
    expected = 1 / student_steps
    assert share[0] == 0 and (times.t_index % 2 == 0).all()
    assert (share[1:] - expected).abs().max() <= 5 * math.sqrt(expected * (1 - expected) / count)
    grid = uniform_grid(SCHEDULE)(student_steps)
    at = SCHEDULE(torch.unique(times.t_index).double() / times.total)
    assert torch.equal(at.logsnr.flip(0), grid.logsnr[:-1])


# The target


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
@pytest.mark.parametrize("x_var_frac", [0.0, 0.75])
def test_one_step_of_the_student_lands_where_two_of_the_teacher_land(dtype, tolerance, x_var_frac):
    """At every pair of a grid, t = 1 and s = 0 included."""
    batch, eps, steps = make_batch(dtype), make_draws(dtype).eps, 8
    for k in range(steps, 0, -1):
        t, s, t_step = (level(index, 2 * steps) for index in (2 * k, 2 * k - 1, 2 * k - 2))
        z_t = noise(batch.images, eps, t)
        found = method(steps, x_var_frac=x_var_frac).target(batch, z_t, t, s, t_step)
        z = z_t
        for start, end in ((t, s), (s, t_step)):
            with torch.no_grad():
                x = teacher(z, start)
            z = addim(x, z, start, end, x_var_frac * norm_sq(x - batch.images) / 48)
        assert found.dtype == dtype
        torch.testing.assert_close(ddim(found, z_t, t, t_step), z, rtol=0, atol=tolerance)


def test_a_student_that_answers_the_target_has_no_loss():
    progressive, batch, draws = method(4, distance="squared"), make_batch(), make_draws()

    def perfect(z, t, labels, seeds):
        indices = draw_steps(draws, 4).t_index
        s, t_step = (SCHEDULE((indices - back).double() / 8) for back in (1, 2))
        return progressive.target(batch, z, t, s, t_step)

    assert torch.equal(progressive.loss(perfect, batch, draws, 0), torch.zeros(BATCH))


@pytest.mark.parametrize("guidance", [0.0, 2.0])
def test_loss_is_written_out_image_by_image(guidance):
    """A second implementation, in scalars: two aDDIM steps, x_var from the conditional prediction, v-space."""

    def by_class(z_t, t, labels=None, dropout_seeds=None):
        return (0.3 + 0.04 * labels.to(z_t)).view(-1, 1, 1, 1) * z_t

    batch, draws, null = make_batch(), make_draws(), 10
    progressive = Progressive(SCHEDULE, 4, teacher=by_class, guidance=guidance, null_label=null, distance="squared")
    found = progressive.loss(lambda z, t, labels, seeds: 0.2 * z, batch, draws, 0)
    for i in range(BATCH):
        x, eps, label = batch.images[i].double(), draws.eps[i].double(), int(batch.labels[i])
        k = int(draws.segment[i] * 4) + 1
        t, s, t_step = (SCHEDULE(torch.tensor([j / 8], dtype=torch.float64)) for j in (2 * k, 2 * k - 1, 2 * k - 2))
        z_t = z = t.alpha * x + t.sigma * eps
        for a, b in ((t, s), (s, t_step)):
            x_cond = (0.3 + 0.04 * label) * z
            x_teacher = guide(x_cond, (0.3 + 0.04 * null) * z, guidance)
            eps_hat = (z - a.alpha * x_teacher) / a.sigma
            z_var = (b.alpha - a.alpha * b.sigma / a.sigma) ** 2 * 0.75 * (x_cond - x).square().mean()
            z = b.alpha * x_teacher + (b.sigma**2 + z_var / eps_hat.square().mean()).sqrt() * eps_hat
        ratio = t_step.sigma / t.sigma
        x_diff = (z - ratio * z_t) / (t_step.alpha - t.alpha * ratio) - 0.2 * z_t
        assert found[i].item() == pytest.approx(((x_diff / t.sigma) ** 2).mean().item(), rel=1e-4)


def test_no_gradient_goes_through_the_target():
    weight = torch.tensor(0.2, requires_grad=True)

    def shared(z_t, t, labels=None, dropout_seeds=None):
        return weight * z_t

    batch, draws = make_batch(), make_draws()
    loss = Progressive(SCHEDULE, 2, teacher=shared, distance="squared").loss(shared, batch, draws, 0).mean()
    (found,) = torch.autograd.grad(loss, weight)
    times = draw_steps(draws, 2)
    t, s, t_step = (SCHEDULE((times.t_index - back).double() / 4) for back in (0, 1, 2))
    z_t = noise(batch.images, draws.eps, t)
    constant = Progressive(SCHEDULE, 2, teacher=shared).target(batch, z_t, t, s, t_step)
    assert not constant.requires_grad
    v_diff = (weight * z_t - constant) / t.sigma.float().view(-1, 1, 1, 1)
    expected = torch.autograd.grad(v_diff.square().flatten(1).mean(), weight)[0]
    torch.testing.assert_close(found, expected)


def test_fixed_point_on_one_gaussian():
    """All is linear there: x ~ N(0, c^2) has x_hat = a z, and the best student of a DDIM step is a z too.

    Two DDIM steps multiply z by two numbers, and inverse DDIM finds the a of their product.
    """
    c = 0.6
    gaussian = GaussianMixture(torch.ones(1), torch.zeros(1, 48), torch.tensor([c], dtype=torch.float64))
    progressive = Progressive(SCHEDULE, 4, teacher=gaussian.posterior_mean, x_var_frac=0.0)

    def multiplied(t, s):
        """What a DDIM step of the posterior mean multiplies z by."""
        mean = t.alpha * c**2 / (t.alpha**2 * c**2 + t.sigma**2)
        return s.alpha * mean + s.sigma / t.sigma * (1 - t.alpha * mean)

    batch, z_t = make_batch(torch.float64), make_draws(torch.float64).eps
    for k in (4, 3, 2, 1):
        t, s, t_step = (level(index, 8) for index in (2 * k, 2 * k - 1, 2 * k - 2))
        ratio = t_step.sigma / t.sigma
        best = (multiplied(t, s) * multiplied(s, t_step) - ratio) / (t_step.alpha - t.alpha * ratio)
        found = progressive.target(batch, z_t, t, s, t_step)
        torch.testing.assert_close(found, best.view(-1, 1, 1, 1) * z_t, rtol=1e-10, atol=1e-12)


# aDDIM and its phases


def perfect_students(mixture: GaussianMixture, first_steps: int, adjusted: str, x_var_frac: float):
    """`step(n, z, k)`: the step k/n -> (k-1)/n of perfect students of all phases, the exact posterior being the first.

    aDDIM with the variance that `||x_hat - x||^2` has on average given z_t: the posterior's, and that of its mean to
    x_hat.
    """
    schedule = cosine()

    def at(k, n, z):
        return schedule(torch.full((len(z),), k / n, dtype=torch.float64))

    def x_hat(n, z, k):
        if n == first_steps:
            return mixture.posterior_mean(z, at(k, n, z))
        z_step = teach(2 * n, teach(2 * n, z, 2 * k), 2 * k - 1)
        return inv_ddim(z_step, z, at(k, n, z), at(k - 1, n, z))

    def teach(n, z, k):
        x, t, s = x_hat(n, z, k), at(k, n, z), at(k - 1, n, z)
        if adjusted == "never" or (adjusted == "first" and n < first_steps):
            return ddim(x, z, t, s)
        squared = mixture.posterior_variance(z, t) + norm_sq(x - mixture.posterior_mean(z, t))
        return addim(x, z, t, s, x_var_frac * squared / z.shape[1])

    def sample(n, z):
        for k in range(n, 0, -1):
            z = ddim(x_hat(n, z, k), z, at(k, n, z), at(k - 1, n, z))
        return z

    return sample, teach


def test_norms_call_for_addim_in_the_first_phase_alone():
    """The figures in the docstring of ProgressiveDistillation."""
    generator = torch.Generator().manual_seed(0)
    means = 0.5 * torch.randn(4, 64, generator=generator, dtype=torch.float64)
    mixture = GaussianMixture(torch.ones(4), means, torch.full((4,), 0.2, dtype=torch.float64))
    z_1 = torch.randn(32, 64, generator=generator, dtype=torch.float64)
    data = norm_sq(means).mean() + 64 * 0.2**2
    norms = {}
    for adjusted in ("never", "first", "every"):
        sample, teach = perfect_students(mixture, 16, adjusted, 0.75)
        norms[adjusted] = (norm_sq(sample(1, z_1)).mean() / data).item()
        if adjusted == "first":  # the student lands where all steps of the diffusion teacher land
            z = z_1
            for k in range(16, 0, -1):
                z = teach(16, z, k)
            torch.testing.assert_close(sample(1, z_1), z, rtol=0, atol=1e-9)
    assert norms == pytest.approx({"never": 0.92, "first": 1.07, "every": 8.7}, rel=0.01)


def test_later_phases_have_the_plain_step_and_no_guidance():
    recipe = ProgressiveDistillation(first_steps=8, guidance=1.5)
    first = recipe.make(Setting(SCHEDULE, Phase(4, 10), teacher, None, 10))
    later = recipe.make(Setting(SCHEDULE, Phase(2, 10), teacher, Phase(4, 10), 10))
    assert (first.x_var_frac, first.guidance, first.null_label, first.student_steps) == (0.75, 1.5, 10, 4)
    assert (later.x_var_frac, later.guidance, later.student_steps, later.teacher_steps.last) == (0.0, 0.0, 2, 4)
    assert recipe.needs_classes and not ProgressiveDistillation().needs_classes


# Phases


@pytest.mark.parametrize(("student_steps", "first_steps"), [(1, 64), (4, 64), (8, 16), (3, 48)])
@pytest.mark.parametrize("iterations", [100, 101, 1000])
@pytest.mark.parametrize("longer_phases", [0, 2])
def test_phases_halve_the_steps_and_use_all_iterations(student_steps, first_steps, iterations, longer_phases):
    recipe = ProgressiveDistillation(first_steps=first_steps, longer_phases=longer_phases)
    recipe.check(student_steps)
    phases = recipe.phases(student_steps, iterations)
    steps = [phase.student_steps for phase in phases]
    assert steps[0] == first_steps / 2 and steps[-1] == student_steps
    assert all(more == 2 * fewer for more, fewer in pairwise(steps))
    assert sum(phase.iterations for phase in phases) == iterations
    shares = [1 + (count <= longer_phases) for count in steps]
    for phase, share in zip(phases, shares, strict=True):
        assert abs(phase.iterations - iterations * share / sum(shares)) < 1


@pytest.mark.parametrize(
    ("student_steps", "first_steps", "near"), [(3, 64, "48 or 96"), (64, 64, "128 or 256"), (8, 4, "16 or 32")]
)
def test_steps_that_cannot_be_halved_to_the_students_are_an_error_that_names_others(student_steps, first_steps, near):
    with pytest.raises(
        UserError, match=rf"first_steps is {first_steps}, .* of {student_steps} steps; set it to {near}"
    ):
        ProgressiveDistillation(first_steps=first_steps).check(student_steps)


def test_too_few_iterations_for_the_phases_are_an_error():
    recipe = ProgressiveDistillation(first_steps=64)
    assert [phase.iterations for phase in recipe.phases(1, 8)] == [1, 1, 1, 1, 2, 2]
    with pytest.raises(UserError, match="iterations are 7, and the 6 phases from 64 to 1 steps take at least 8"):
        recipe.phases(1, 7)
