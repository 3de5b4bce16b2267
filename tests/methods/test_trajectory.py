"""Consistency trajectory: its times, the semigroup identity, the solver, where gradients flow, a trained mixture."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mcm.denoiser import Denoiser
from mcm.errors import UserError
from mcm.methods.consistency import TeacherSteps
from mcm.methods.diffusion import Diffusion
from mcm.methods.interface import Batch, Draws
from mcm.methods.losses import squared
from mcm.methods.recipe import Phase, Setting
from mcm.methods.trajectory import ConsistencyTrajectory, Trajectory, draw_spans
from mcm.mixtures import GaussianMixture
from mcm.networks.mlp import MLPConfig
from mcm.networks.presets import build
from mcm.samplers import SamplerConfig, sample
from mcm.schedules import NoiseLevel, cosine
from mcm.steps import ddim, heun, inv_ddim, noise, per_image

SCHEDULE = cosine()
BATCH = 32
MEAN, STD = 0.3, 0.4


def make_draws(batch: int = BATCH, dimensions: int = 3) -> Draws:
    generator = torch.Generator().manual_seed(0)
    segment, time, label = torch.rand(3, batch, generator=generator, dtype=torch.float64)
    seeds = torch.randint(2**31, (batch,), generator=generator)
    return Draws(torch.randn(batch, dimensions, generator=generator), segment, time, label, seeds)


@pytest.fixture
def batch() -> Batch:
    x = MEAN + STD * torch.randn(BATCH, 3, generator=torch.Generator().manual_seed(9))
    return Batch(x, torch.arange(BATCH) % 10)


def half_teacher(z_t, t, labels=None, dropout_seeds=None):
    return 0.5 * z_t


def linear(z, t, labels, seeds, end):
    """A student that depends on where it begins and on where it ends."""
    return (0.3 + 0.1 * per_image(t.alpha, z) - 0.2 * per_image(end.alpha, z)) * z


def trajectory(total: int = 12, teacher=half_teacher, **options) -> Trajectory:
    options = {"solver_steps": 3, **options}
    return Trajectory(SCHEDULE, teacher, TeacherSteps(total, total, 0), **options)


# Times


@pytest.mark.parametrize("solver_steps", [1, 3, 12])
def test_times_are_in_order_and_the_solver_takes_no_more_than_its_steps(solver_steps):
    spans = draw_spans(make_draws(20_000), 12, solver_steps)
    t, u, s = spans.t_index, spans.u_index, spans.s_index
    assert t.dtype == u.dtype == s.dtype == torch.int64
    assert ((s >= 0) & (s <= u) & (u < t) & (t <= 12)).all()
    assert int((t - u).max()) == solver_steps
    # Every triple that may be is drawn.
    triples = {(a, b, c) for a in range(1, 13) for c in range(a) for b in range(max(c, a - solver_steps), a)}
    assert set(zip(t.tolist(), u.tolist(), s.tolist(), strict=True)) == triples


def test_times_are_uniform():
    """t over the grid, s given t, u given both: shares within 5 standard deviations."""
    count = 200_000
    spans = draw_spans(make_draws(count, 0), 4, 4)
    for t in range(1, 5):
        for s in range(t):
            for u in range(s, t):
                found = ((spans.t_index == t) & (spans.s_index == s) & (spans.u_index == u)).double().mean().item()
                share = 1 / 4 / t / (t - s)
                assert abs(found - share) < 5 * math.sqrt(share * (1 - share) / count), (t, u, s)


# The loss


def gaussian_flow(z_t: Tensor, t: NoiseLevel, s: NoiseLevel) -> Tensor:
    """The probability-flow ODE of N(MEAN, STD^2), which scales distances from the mean by the standard deviation."""
    deviation_t, deviation_s = ((at.alpha.square() * STD**2 + at.sigma.square()).sqrt() for at in (t, s))
    return per_image(s.alpha, z_t) * MEAN + per_image(deviation_s / deviation_t, z_t) * (
        z_t - per_image(t.alpha, z_t) * MEAN
    )


def gaussian_mean(z_t: Tensor, t: NoiseLevel, labels=None, seeds=None) -> Tensor:
    gain = t.alpha * STD**2 / (t.alpha.square() * STD**2 + t.sigma.square())
    return MEAN + per_image(gain, z_t) * (z_t - per_image(t.alpha * MEAN, z_t))


def exact_student(z_t: Tensor, t: NoiseLevel, labels, seeds, end: NoiseLevel) -> Tensor:
    """The x_hat whose DDIM step follows the Gaussian's flow exactly; the posterior mean where the step is none."""
    none = per_image(t.logsnr == end.logsnr, z_t).bool()
    at, to = ([torch.where(t.logsnr == end.logsnr, other, value) for value, other in zip(level, fixed, strict=True)]
              for level, fixed in ((t, SCHEDULE(torch.ones(1))), (end, SCHEDULE(torch.zeros(1)))))  # fmt: skip
    there = inv_ddim(gaussian_flow(z_t, t, end), z_t, NoiseLevel(*at), NoiseLevel(*to))
    return torch.where(none, gaussian_mean(z_t, t), there)


exact_student.reads_end = True  # type: ignore[attr-defined]


def exact_teacher(total: int):
    """A teacher whose DDIM steps of 1 / total are exact: it knows the grid by the cosine schedule's inverse."""

    def predict(z_t, t, labels=None, seeds=None):
        time = 2 / math.pi * torch.atan(torch.exp(-t.logsnr / 2))
        s = SCHEDULE((time * total).round().sub(1).clamp(min=0) / total)
        return inv_ddim(gaussian_flow(z_t, t, s), z_t, t, s)

    return predict


@pytest.mark.parametrize("solver_steps", [1, 4, 16])
def test_the_exact_flow_has_no_loss_and_another_one_does(solver_steps, batch):
    """The semigroup identity `G(z_t, t, s) = G(G(z_t, t, u), u, s)` of a Gaussian's flow, in closed form."""
    exact = exact_teacher(16)
    method = trajectory(16, exact, solver="ddim", solver_steps=solver_steps, dsm_weight=0.0, distance="squared")
    precise = Batch(batch.images.double(), batch.labels)
    draws = replace(make_draws(), eps=make_draws().eps.double())
    assert method.loss(exact_student, precise, draws, 0).max() < 1e-20

    def other(z, t, labels, seeds, end):
        return 1.01 * exact_student(z, t, labels, seeds, end)

    assert method.loss(other, precise, draws, 0).mean() > 1e-6


def test_no_step_leaves_z_where_it_is(batch):
    for time in (1.0, 0.5, 0.01):
        t = SCHEDULE(torch.full((BATCH,), time))
        assert torch.equal(ddim(exact_student(batch.images, t, None, None, t), batch.images, t, t), batch.images)


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_one_student_is_exact_in_any_number_of_steps(steps):
    sampler = SamplerConfig(steps=steps, clip=False)
    z_1 = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = sample(exact_student, z_1, sampler.levels(SCHEDULE), sampler)
    torch.testing.assert_close(found, MEAN + STD * z_1)


@pytest.mark.parametrize("solver", ["ddim", "heun"])
def test_loss_is_the_definition_written_out_image_by_image(solver, batch):
    """A second implementation, in scalars."""
    draws = make_draws()
    method = trajectory(solver=solver, distance="pseudo_huber", huber_epsilon=0.1, dsm_weight=0.7)
    found = method.loss(linear, batch, draws, 0)
    for i in range(BATCH):
        x, eps = batch.images[i : i + 1].double(), draws.eps[i : i + 1].double()
        t_index = 1 + int(draws.time[i] * 12)
        s_index = int(draws.segment[i] * t_index)
        longest = min(3, t_index - s_index)
        u_index = t_index - 1 - int((draws.segment[i] * t_index - s_index) * longest)

        def level(index: int) -> NoiseLevel:
            return SCHEDULE(torch.tensor([index / 12], dtype=torch.float64))

        t, u, s = level(t_index), level(u_index), level(s_index)
        z_t = z = noise(x, eps, t)
        for index in range(t_index, u_index, -1):
            a, b = level(index), level(index - 1)
            euler = ddim(0.5 * z, z, a, b)
            z = euler if solver == "ddim" else heun(0.5 * z, 0.5 * euler, z, a, b)
        z_s = z if u_index == s_index else ddim(linear(z, u, None, None, s), z, u, s)
        ratio = s.sigma / t.sigma
        x_diff = (z_s - ratio * z_t) / (s.alpha - t.alpha * ratio) - linear(z_t, t, None, None, s)
        expected = ((x_diff / t.sigma).square().sum() + 0.1**2).sqrt() - 0.1
        expected = expected + 0.7 * math.sqrt(3) * ((x - linear(z_t, t, None, None, t)) / t.sigma).square().mean()
        assert found[i].item() == pytest.approx(expected.item(), rel=1e-4)


def test_its_second_term_is_the_diffusion_loss_of_a_step_that_ends_where_it_begins(batch):
    draws = make_draws()
    spans = draw_spans(draws, 12, 3)
    same_times = replace(draws, time=spans.t_index / 12)
    plain, with_term = (
        trajectory(dsm_weight=weight, distance="squared").loss(linear, batch, draws, 0) for weight in (0.0, 2.0)
    )

    def diffusion_model(z, t, labels, seeds):
        return linear(z, t, labels, seeds, t)

    torch.testing.assert_close((with_term - plain) / 2, Diffusion(SCHEDULE).loss(diffusion_model, batch, same_times, 0))


def test_gradient_flows_through_the_prediction_from_t_alone_in_one_evaluation(batch):
    calls = []

    def student(z, t, labels, seeds, end):
        calls.append((torch.is_grad_enabled(), len(z)))
        return linear(z, t, labels, seeds, end)

    def teacher(z, t, labels):
        assert not torch.is_grad_enabled()
        return 0.5 * z

    trajectory(teacher=teacher, fixed_shapes=True).loss(student, batch, make_draws(), 0)
    assert calls == [(False, BATCH), (True, 2 * BATCH)]


def test_the_target_does_not_see_the_student_where_the_solver_has_come_to_the_end(batch):
    draws = make_draws()
    at_end = draw_spans(draws, 12, 3).at_end
    assert 0 < at_end.sum() < BATCH

    def student(z, t, labels, seeds, end):
        x_hat = linear(z, t, labels, seeds, end)
        if not torch.is_grad_enabled():
            x_hat[at_end] = math.nan
        return x_hat

    method = trajectory(fixed_shapes=True)
    assert torch.equal(method.loss(student, batch, draws, 0), method.loss(linear, batch, draws, 0))


def test_student_and_teacher_are_asked_only_where_they_are_read(batch):
    draws, asked = make_draws(), []

    def student(z, t, labels, seeds, end):
        asked.append((labels, seeds))
        return linear(z, t, labels, seeds, end)

    whole, part = (trajectory(fixed_shapes=fixed).loss(student, batch, draws, 0) for fixed in (True, False))
    torch.testing.assert_close(part, whole, rtol=1e-5, atol=1e-7)
    read = ~draw_spans(draws, 12, 3).at_end
    assert torch.equal(asked[2][0], batch.labels[read])
    assert torch.equal(asked[2][1], draws.dropout_seeds[read])
    assert torch.equal(asked[3][1], torch.cat([draws.dropout_seeds] * 2))  # the same masks as in the target


def test_every_process_asks_teacher_and_student_equally_often(batch):
    """Once each time, also where a process happens to need none of it."""
    draws = replace(make_draws(), segment=torch.full((BATCH,), 0.99, dtype=torch.float64))
    assert draw_spans(draws, 12, 3).at_end.all()
    of_student, of_teacher = [], []

    def student(z, t, labels, seeds, end):
        of_student.append(len(z))
        return linear(z, t, labels, seeds, end)

    def teacher(z, t, labels):
        of_teacher.append(len(z))
        return 0.5 * z

    loss = trajectory(teacher=teacher, solver="ddim").loss(student, batch, draws, 0)
    assert loss.isfinite().all()
    assert of_student == [1, 2 * BATCH]
    assert of_teacher == [BATCH, 1, 1]


def test_heun_follows_the_teachers_flow_closer_than_ddim(batch):
    mixture = GaussianMixture(torch.ones(2), torch.tensor([[-1.0, 0, 0], [1, 0, 0]]), torch.tensor([0.3, 0.3]))
    draws = make_draws()
    errors = {}
    for solver in ("ddim", "heun"):
        method = trajectory(16, mixture.posterior_mean, solver=solver, solver_steps=16)
        spans = draw_spans(draws, 16, 16)
        t, u = (SCHEDULE(index / 16) for index in (spans.t_index, spans.u_index))
        z_t = noise(batch.images, draws.eps, t)
        exact = mixture.flow(z_t, t, u, steps=64)
        errors[solver] = (method.solve(batch, spans, z_t) - exact).norm(dim=1).mean().item()
    assert errors["heun"] < errors["ddim"] / 2, errors


# The recipe


def test_recipe_makes_the_method_with_its_own_keys():
    keys = {
        "teacher_steps": {"first": 6, "last": 6, "iterations": 0}, "solver": "ddim", "solver_steps": 2,
        "dsm_weight": 0.5, "distance": "pseudo_huber", "huber_epsilon": 0.1,
    }  # fmt: skip
    recipe = ConsistencyTrajectory.parse(keys, "here")
    recipe.check(6)
    method = recipe.make(Setting(SCHEDULE, Phase(2, 10), half_teacher, fixed_shapes=True))
    assert method == Trajectory(
        SCHEDULE, half_teacher, TeacherSteps(6, 6, 0), "ddim", 2, 0.5, "pseudo_huber", 0.1, True
    )
    assert recipe.reads_end and recipe.distills and not recipe.needs_classes


@pytest.mark.parametrize("keys", [{"solver": "euler"}, {"solver_steps": 0}, {"dsm_weight": -1}, {"guidance": 1.0}])
def test_unfit_keys_are_user_errors(keys):
    with pytest.raises(UserError, match=next(iter(keys))):
        ConsistencyTrajectory.parse(keys, "here")


def test_more_steps_than_the_grid_has_are_a_user_error():
    with pytest.raises(UserError, match="choose 1 to 40"):
        ConsistencyTrajectory().check(41)


# Trained


COMB = GaussianMixture(torch.ones(4), torch.tensor([[-1.5], [-0.5], [0.5], [1.5]]), torch.full((4,), 0.1))


@pytest.mark.slow
def test_one_trained_student_comes_closer_to_the_flow_with_more_steps():
    """Mean distance to the exact map at quantiles of the noise; the exact teacher by DDIM in as many is farther."""

    class Exact:
        """Diffusion's target without its noise, for a short training."""

        def loss(self, student, batch, draws, iteration):
            t = SCHEDULE(draws.time.clamp(min=1e-5))
            z_t = noise(batch.images, draws.eps, t)
            return squared(COMB.posterior_mean(z_t, t) - student(z_t, t), t, 0.0)

    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    fresh = Denoiser(build(MLPConfig(1, width=64, blocks=2, embedding=64, reads_end=True)))
    method = Trajectory(SCHEDULE, COMB.posterior_mean, TeacherSteps(32, 32, 0), "ddim", 4, 0.1, distance="pseudo_huber")
    student = _trained(_trained(fresh, Exact(), 400, generator), method, 400, generator)
    quantiles = (torch.arange(500, dtype=torch.float64) + 0.5) / 500
    z_1 = torch.special.ndtri(quantiles).float()[:, None]
    exact = COMB.flow_by_quantiles(z_1)

    def error(predict, steps: int) -> float:
        sampler = SamplerConfig(steps=steps, clip=False)
        with torch.no_grad():
            return float((sample(predict, z_1, sampler.levels(SCHEDULE), sampler) - exact).abs().mean())

    found = [error(student, steps) for steps in (1, 2, 4)]
    by_ddim = [error(COMB.posterior_mean, steps) for steps in (1, 2, 4)]
    print("student", found, "exact teacher by DDIM", by_ddim)
    assert found[0] > found[1] > found[2]
    assert all(a < b / 2 for a, b in zip(found, by_ddim, strict=True))


def _trained(start: Denoiser, method, iterations: int, generator: torch.Generator, size: int = 256) -> Denoiser:
    """The EMA of `start` after Adam on draws of COMB."""
    model, ema = copy.deepcopy(start), copy.deepcopy(start)
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=iterations)
    for iteration in range(iterations):
        segment, time, label = torch.rand(3, size, generator=generator, dtype=torch.float64)
        draws = Draws(torch.randn(size, 1, generator=generator), segment, time, label, torch.zeros(size).long())
        optimizer.zero_grad()
        method.loss(model, Batch(COMB.sample(size, generator).float(), None), draws, iteration).mean().backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            for averaged, value in zip(ema.parameters(), model.parameters(), strict=True):
                averaged.lerp_(value, 0.01)
    return ema
