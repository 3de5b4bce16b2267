"""ECT: the gap function and its stages, the noise it draws, losses against EDM's own equations and an exact flow."""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from mcm.errors import UserError
from mcm.methods.ect import EasyConsistencyTuning, EasyTuning, Gap
from mcm.methods.edm import LogNormal
from mcm.methods.interface import Batch, Draws
from mcm.methods.recipe import Phase, Setting
from mcm.mixtures import GaussianMixture
from mcm.schedules import NoiseLevel, cosine

BATCH, D = 64, 5
LATE = 199_999  # of 200 000 iterations: stage 8


def make_draws(batch: int = BATCH, seed: int = 0, time: Tensor | None = None) -> Draws:
    generator = torch.Generator().manual_seed(seed)
    u = torch.rand(3, batch, generator=generator, dtype=torch.float64)
    eps = torch.randn(batch, D, generator=generator, dtype=torch.float64)
    return Draws(eps, u[0], u[1] if time is None else time, u[2], torch.arange(batch))


def tuning(huber_c: float = 0.0, gap: Gap | None = None) -> EasyConsistencyTuning:
    return EasyConsistencyTuning(gap or Gap(), LogNormal(), huber_c)


@pytest.fixture
def batch() -> Batch:
    x = torch.randn(BATCH, D, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    return Batch(0.5 * x, None)


def network(z: Tensor, logsnr: Tensor) -> Tensor:
    """Some smooth v."""
    return torch.sin(2 * z) + 0.1 * z * logsnr[:, None]


def denoise(z_t: Tensor, t: NoiseLevel, labels: Tensor | None = None, dropout_seeds: Tensor | None = None) -> Tensor:
    """`mcm.denoiser.Denoiser` of `network`, in float64."""
    return t.alpha[:, None] * z_t - t.sigma[:, None] * network(z_t, t.logsnr.clamp(-20, 20))


# The gap


@pytest.mark.parametrize("iteration", [0, 25_000, 60_000, LATE])
def test_gap_is_the_papers(iteration: int) -> None:
    a = 1 + iteration // 25_000
    for t in (1e-4, 0.3, 2.0, 15.0, 80.0):
        n = 1 + 8 / (1 + math.exp(t))
        found = Gap()(torch.tensor([t], dtype=torch.float64), iteration).item()
        assert found == pytest.approx(max(0.0, t * (1 - n / 2**a)), rel=1e-12)


def test_gap_is_positive_and_shrinks_by_stages_and_within_a_stage_it_stays() -> None:
    t = torch.logspace(-4, 2, 500, dtype=torch.float64)
    gaps = [t - Gap(d=10)(t, iteration) for iteration in range(0, 160)]
    for before, after in pairwise(gaps):
        assert (after > 0).all() and (after <= before).all()
    changes = [i for i in range(1, 160) if not torch.equal(gaps[i], gaps[i - 1])]
    assert changes == list(range(10, 160, 10))
    torch.testing.assert_close(gaps[150] / gaps[140], torch.full_like(t, 0.5), rtol=1e-9, atol=0)


def test_tuning_begins_close_to_diffusion_training() -> None:
    """Most of the first stage's targets are the data."""
    t = LogNormal().at(torch.linspace(0.001, 0.999, 999, dtype=torch.float64))
    assert 0.7 < (Gap()(t, 0) == 0).double().mean() < 0.9
    assert (Gap()(t, 25_000 * 3) > 0).all()


def test_stages_that_float32_cannot_tell_apart_are_an_error() -> None:
    with pytest.raises(UserError, match=r"gap\.d is 10, which makes 30 stages of 300.* raise gap.d to 16 or more"):
        EasyTuning(gap=Gap(d=10)).phases(1, 300)
    assert EasyTuning(gap=Gap(d=16)).phases(1, 300) == (Phase(1, 300),)
    assert EasyTuning(gap=Gap(q=256.0, d=8000)).phases(1, 8000) == (Phase(1, 8000),)


# The noise


def test_noise_is_lognormal() -> None:
    u = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    sigma = LogNormal().at(u)
    assert stats.kstest(np.log(sigma.numpy()), stats.norm(-1.1, 2.0).cdf).statistic < 1e-4
    assert 0 < LogNormal().at(torch.zeros(1, dtype=torch.float64)) < 1e-4


def test_the_far_tail_is_pure_noise_from_where_students_are_sampled(batch: Batch) -> None:
    """0.3% of the draws are t = 1 exactly, with the gap and the weight of sigma = 80."""
    seen = []

    def student(z: Tensor, t: NoiseLevel, labels: Tensor | None, seeds: Tensor) -> Tensor:
        seen.append((z, t))
        return torch.zeros_like(z) + float(torch.is_grad_enabled())

    u = torch.full((BATCH,), 0.9975, dtype=torch.float64)
    draws = make_draws(time=u)
    loss = tuning().loss(student, batch, draws, 0)
    (_, s), (z_t, t) = seen
    assert torch.equal(z_t, draws.eps) and (t.alpha == 0).all() and (t.logsnr == -math.inf).all()
    sigma_s = Gap()(torch.tensor([80.0], dtype=torch.float64), 0)
    torch.testing.assert_close(s.sigma / s.alpha, sigma_s.expand(BATCH))
    torch.testing.assert_close(loss, (math.sqrt(D) / (80 - sigma_s)).expand(BATCH))
    assert stats.norm(-1.1, 2.0).sf(math.log(80)) == pytest.approx(0.003, abs=2e-4)


# The loss


@pytest.mark.parametrize("iteration", [0, 60_000, LATE])
@pytest.mark.parametrize("huber_c", [0.0, 0.06])
def test_loss_is_the_papers_in_edms_own_terms_image_by_image(huber_c: float, iteration: int, batch: Batch) -> None:
    """A second implementation, in scalars: `D(x, sigma) = c_skip x + c_out F(c_in x)`, sigma_data = 1."""

    def edm(x: Tensor, sigma: float) -> Tensor:
        c_in = 1 / math.sqrt(1 + sigma**2)
        logsnr = torch.tensor([-2 * math.log(sigma)], dtype=torch.float64)
        return c_in**2 * x - sigma * c_in * network((c_in * x)[None], logsnr)[0]

    draws = make_draws(time=0.001 + 0.995 * torch.arange(BATCH, dtype=torch.float64) / BATCH)
    found = tuning(huber_c).loss(denoise, batch, draws, iteration)
    ends = 0
    for i in range(BATCH):
        x, eps = batch.images[i], draws.eps[i]
        t = math.exp(stats.norm(-1.1, 2.0).ppf(draws.time[i].item()))
        r = max(0.0, t * (1 - (1 + 8 / (1 + math.exp(t))) / 2 ** (1 + iteration // 25_000)))
        target = edm(x + r * eps, r) if r else x
        ends += r == 0
        square = (edm(x + t * eps, t) - target).square().sum()
        expected = ((square + huber_c**2).sqrt() - huber_c) / (t - r)
        assert found[i].item() == pytest.approx(expected.item(), rel=1e-8), f"sigma {t} to {r}"
    assert (ends > 0) == (iteration == 0)


def loss_and_gradient(batch: Batch, at_data: float) -> tuple[Tensor, Tensor]:
    """With a student that adds `at_data` to its answers to targets at s = 0; the first stage has many."""
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)

    def student(z: Tensor, t: NoiseLevel, labels: Tensor | None, seeds: Tensor) -> Tensor:
        return weight * denoise(z, t) + torch.where((t.sigma == 0)[:, None], at_data, 0.0)

    loss = tuning().loss(student, batch, make_draws(), 0)
    return loss, torch.autograd.grad(loss.mean(), weight)[0]


def test_at_the_datas_end_the_target_is_no_networks(batch: Batch) -> None:
    expected, broken = loss_and_gradient(batch, 0.0), loss_and_gradient(batch, math.nan)
    assert expected[0].isfinite().all()
    assert torch.equal(expected[0], broken[0]) and torch.equal(expected[1], broken[1])


def test_target_is_the_data_where_the_gap_reaches_it(batch: Batch) -> None:
    """A student that knows the image has no loss there; nor has its gradient a NaN, where the norm has a corner."""
    weight = torch.zeros((), dtype=torch.float64, requires_grad=True)
    early = make_draws(time=torch.linspace(0.0, 0.5, BATCH, dtype=torch.float64))
    loss = tuning().loss(lambda z, t, labels, seeds: batch.images + weight * z, batch, early, 0)
    assert not loss.any()
    assert torch.autograd.grad(loss.mean(), weight)[0] == 0


def test_gradient_is_of_the_later_prediction_alone_and_dropout_is_the_same(batch: Batch) -> None:
    calls = []

    def student(z: Tensor, t: NoiseLevel, labels: Tensor | None, seeds: Tensor) -> Tensor:
        calls.append((torch.is_grad_enabled(), seeds.tolist(), t.sigma))
        return denoise(z, t)

    tuning().loss(student, batch, make_draws(), LATE)
    (target_graph, target_seeds, s), (graph, seeds, t) = calls
    assert (target_graph, graph) == (False, True)
    assert target_seeds == seeds == list(range(BATCH))
    assert (s < t).all()


def exact_student(mean: Tensor, std: float) -> Callable[..., Tensor]:
    """The flow of one Gaussian to its data: `x = mean + (z_t - alpha mean) std / sqrt(alpha^2 std^2 + sigma^2)`."""

    def student(z: Tensor, t: NoiseLevel, labels: Tensor | None = None, seeds: Tensor | None = None) -> Tensor:
        spread = (t.alpha.square() * std**2 + t.sigma.square()).sqrt()
        return mean + (z - t.alpha[:, None] * mean) * (std / spread)[:, None]

    return student


def test_an_exact_flow_has_no_loss_and_no_gradient_as_the_gap_closes() -> None:
    """Where the distance is a square (c is large); the norm of one image, over the gap, has a limit above 0."""
    mean, std, count = torch.zeros(D, dtype=torch.float64), 0.5, 50_000
    x = GaussianMixture(torch.ones(1), mean[None], torch.tensor([std])).sample(count, torch.Generator().manual_seed(1))
    flow, draws = exact_student(mean, std), make_draws(count, time=torch.full((count,), 0.7, dtype=torch.float64))
    slopes, losses = [], []
    for stage in (3, 8, 14):
        scale = torch.ones((), dtype=torch.float64, requires_grad=True)
        loss = tuning(huber_c=10.0).loss(
            lambda z, t, labels, seeds, scale=scale: scale * flow(z, t), Batch(x, None), draws, (stage - 1) * 25_000
        )
        slopes.append(abs(torch.autograd.grad(loss.mean(), scale)[0].item()))
        losses.append(loss.mean().item())
    assert slopes[2] < 0.05 * slopes[0]
    assert losses[2] < 0.01 * losses[0]


# The recipe


def test_students_take_one_step() -> None:
    EasyTuning().check(1)
    with pytest.raises(UserError, match=r"student_steps is 4.* set it to 1, or use cd or ct"):
        EasyTuning().check(4)


def test_recipe_makes_what_the_paper_states_and_asks_no_teacher() -> None:
    made = EasyTuning().make(Setting(cosine(), Phase(1, 10)))
    assert made == EasyConsistencyTuning(Gap(q=2.0, d=25_000, k=8.0, b=1.0), LogNormal(mean=-1.1, std=2.0), 0.0)
    assert not EasyTuning.distills
