"""Gaussian mixtures, where the method's claims meet exact answers (properties 3 and 6)."""

import copy

import pytest
import torch

from mcm.denoiser import Denoiser
from mcm.errors import UserError
from mcm.methods.consistency import Consistency, TeacherSteps
from mcm.methods.interface import Batch, Draws, uniform_integer
from mcm.methods.losses import squared
from mcm.mixtures import MIXTURES, GaussianMixture, mixture
from mcm.networks.mlp import MLPConfig
from mcm.networks.presets import build
from mcm.schedules import NoiseLevel, cosine, uniform_grid
from mcm.steps import addim, ddim, eps_from_x, heun, noise, norm_sq

SCHEDULE = cosine()


def level(t: float, batch: int) -> NoiseLevel:
    return SCHEDULE(torch.full((batch,), t, dtype=torch.float64))


def tilted(dimensions: int = 3, spread: float = 0.5) -> GaussianMixture:
    """Three components with different weights and full covariances."""
    generator = torch.Generator().manual_seed(4)
    roots = spread * torch.randn(3, dimensions, dimensions, generator=generator, dtype=torch.float64) / dimensions**0.5
    covariances = roots @ roots.mT + 0.1 * spread * torch.eye(dimensions, dtype=torch.float64)
    means = torch.randn(3, dimensions, generator=generator, dtype=torch.float64)
    return GaussianMixture(torch.tensor([1.0, 2.0, 3.0]), means, covariances)


# The closed form


def test_samples_have_the_mixtures_mean_and_covariance():
    mixture = tilted()
    count = 200_000
    x = mixture.sample(count, torch.Generator().manual_seed(0))
    mean = mixture.weights @ mixture.means
    centred = mixture.means - mean
    between = centred[:, :, None] * centred[:, None]
    covariance = (mixture.weights[:, None, None] * (mixture.covariances + between)).sum(dim=0)
    standard_error = (covariance.diagonal() / count).sqrt()
    assert ((x.mean(dim=0) - mean).abs() < 4.5 * standard_error).all()
    products = ((x - mean)[:, :, None] * (x - mean)[:, None]).flatten(1)
    standard_error = products.std(dim=0) / count**0.5
    assert ((products.mean(dim=0) - covariance.flatten()).abs() < 4.5 * standard_error).all()


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_density_is_that_of_the_components_by_torch(t):
    mixture = tilted()
    z = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    at = level(t, 50)
    alpha, sigma = at.alpha[0], at.sigma[0]
    covariances = alpha**2 * mixture.covariances + sigma**2 * torch.eye(3)
    components = torch.distributions.MultivariateNormal(alpha * mixture.means, covariances)
    expected = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(mixture.weights), components)
    torch.testing.assert_close(mixture.log_density(z, at), expected.log_prob(z))


@pytest.mark.parametrize("t", [0.05, 0.4, 0.9])
def test_posterior_mean_is_tweedies_and_variance_its_derivative(t):
    """E[x|z] = (z + sigma^2 score) / alpha and Var[x|z] = sigma^2 / alpha dE[x|z]/dz, by automatic differentiation."""
    mixture = tilted()
    z = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    at = level(t, 20)
    alpha, sigma = at.alpha[0], at.sigma[0]
    score = torch.autograd.grad(mixture.log_density(z, at).sum(), z)[0]
    mean = mixture.posterior_mean(z, at)
    torch.testing.assert_close(mean, (z + sigma**2 * score) / alpha)
    derivative = sum(torch.autograd.grad(mean[:, i].sum(), z, retain_graph=True)[0][:, i] for i in range(3))
    torch.testing.assert_close(mixture.posterior_variance(z, at), derivative * sigma**2 / alpha)


def test_posterior_at_the_ends_is_the_point_itself_and_the_prior():
    mixture = tilted()
    z = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(mixture.posterior_mean(z, level(0.0, 5)), z)
    assert mixture.posterior_variance(z, level(0.0, 5)).abs().max() < 1e-12
    prior_mean = mixture.weights @ mixture.means
    torch.testing.assert_close(mixture.posterior_mean(z, level(1.0, 5)), prior_mean.expand(5, 3))


def test_posterior_mean_is_a_predictor_of_any_shape_and_dtype():
    mixture = tilted(dimensions=12)
    images = torch.randn(6, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    x_hat = mixture.posterior_mean(images, level(0.5, 6), torch.arange(6), torch.arange(6))
    assert (x_hat.shape, x_hat.dtype) == (images.shape, torch.float32)
    torch.testing.assert_close(x_hat.flatten(1), mixture.posterior_mean(images.flatten(1), level(0.5, 6)))


def test_posterior_draws_have_the_posteriors_mean_and_variance():
    mixture = tilted()
    count = 100_000
    z = torch.tensor([[0.4, -0.2, 0.1]]).expand(count, 3)
    at = level(0.5, count)
    x = mixture.posterior_sample(z, at, torch.Generator().manual_seed(1))
    mean = mixture.posterior_mean(z[:1].double(), level(0.5, 1))
    assert ((x.mean(dim=0) - mean).abs() < 4.5 * x.std(dim=0) / count**0.5).all()
    squares = norm_sq(x - mean)
    variance = mixture.posterior_variance(z[:1], level(0.5, 1)).item()
    assert abs(squares.mean().item() - variance) < 4.5 * squares.std().item() / count**0.5


def test_mixtures_that_are_none_are_user_errors():
    with pytest.raises(UserError, match="positive"):
        GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.zeros(1))
    with pytest.raises(UserError, match="shapes"):
        GaussianMixture(torch.ones(2), torch.zeros(1, 1), torch.ones(1))


# The probability-flow ODE


def test_flow_by_integration_and_by_quantiles_agree_on_a_line():
    mixture = GaussianMixture(torch.tensor([0.3, 0.7]), torch.tensor([[-1.0], [0.5]]), torch.tensor([0.2, 0.4]))
    z_1 = torch.linspace(-5, 5, 101, dtype=torch.float64)[:, None]
    integrated = mixture.flow(z_1, level(1.0, 101), level(0.0, 101))
    torch.testing.assert_close(integrated, mixture.flow_by_quantiles(z_1), atol=1e-6, rtol=0)


def test_flow_carries_noise_to_data_and_back():
    mixture = tilted()
    z_1 = torch.randn(2000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    one, zero = level(1.0, len(z_1)), level(0.0, len(z_1))
    z_0 = mixture.flow(z_1, one, zero, steps=32)
    x = mixture.sample(len(z_1), torch.Generator().manual_seed(1))
    for moment in (lambda points: points, lambda points: points**2, lambda points: points[:, :1] * points):
        a, b = moment(z_0), moment(x)
        standard_error = ((a.var(dim=0) + b.var(dim=0)) / len(a)).sqrt()
        assert ((a.mean(dim=0) - b.mean(dim=0)).abs() < 4.5 * standard_error).all()
    few = slice(100)
    there = mixture.flow(z_1[few], one.at(few), zero.at(few))
    torch.testing.assert_close(mixture.flow(there, zero.at(few), one.at(few)), z_1[few], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("step", "order"), [("ddim", 1), ("heun", 2)])
def test_samplers_converge_to_the_flow_with_their_order(step, order):
    """Away from the ends; the error of N and 2N steps falls by 2^order, within a fifth."""
    mixture = tilted()
    z = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    exact = mixture.flow(z, level(0.9, 50), level(0.1, 50))
    errors = []
    for steps in (64, 128):
        z_t = z
        for k in range(steps):
            t, s = (level(0.9 - 0.8 * i / steps, 50) for i in (k, k + 1))
            x_hat = mixture.posterior_mean(z_t, t)
            z_s = ddim(x_hat, z_t, t, s)
            z_t = heun(x_hat, mixture.posterior_mean(z_s, s), z_t, t, s) if step == "heun" else z_s
        errors.append((z_t - exact).square().mean().sqrt().item())
    assert 0.8 * 2**order < errors[0] / errors[1] < 1.25 * 2**order, errors


# Property 3: the variance that DDIM lacks

POSTERIOR_PAIRS = [(1.0, 0.6), (0.8, 0.5), (0.5, 0.25), (0.5, 0.0), (0.2, 0.1)]


def test_property_3_a_draw_of_x_gains_the_posterior_variance_in_norm():
    """Eq. 12, 13 at fixed z_t: 10 points, 4000 draws each, within 4.5 standard errors."""
    mixture = tilted(dimensions=8)
    generator = torch.Generator().manual_seed(5)
    draws = 4000
    for t, s in POSTERIOR_PAIRS:
        x = mixture.sample(10, generator)
        points = noise(x, torch.randn(x.shape, generator=generator, dtype=torch.float64), level(t, 10))
        x_gain = (level(s, 1).alpha - level(t, 1).alpha * level(s, 1).sigma / level(t, 1).sigma).item()
        for z in points:
            z_t = z.expand(draws, 8)
            at, to = level(t, draws), level(s, draws)
            drawn = norm_sq(ddim(mixture.posterior_sample(z_t, at, generator), z_t, at, to))
            one_t, one_s = level(t, 1), level(s, 1)
            plain = norm_sq(ddim(mixture.posterior_mean(z[None], one_t), z[None], one_t, one_s)).item()
            expected = x_gain**2 * mixture.posterior_variance(z[None], one_t).item()
            standard_error = drawn.std().item() / draws**0.5
            assert abs(drawn.mean().item() - plain - expected) < 4.5 * standard_error


def where_signal_and_noise_are_orthogonal(mixture: GaussianMixture, z: torch.Tensor, t: NoiseLevel) -> torch.Tensor:
    """Scale every point so that `x_hat . eps_hat = 0`, the assumption of aDDIM (section 3.2), by bisection.

    The product is negative at scale 0 (eps_hat is -alpha x_hat / sigma there) and positive far out.
    """
    low, high = torch.zeros(2, len(z), 1, dtype=torch.float64)
    high = high + 100
    for _ in range(100):
        middle = (low + high) / 2
        x_hat = mixture.posterior_mean(middle * z, t)
        positive = (x_hat * eps_from_x(x_hat, middle * z, t)).sum(dim=1, keepdim=True) > 0
        low, high = torch.where(positive, low, middle), torch.where(positive, middle, high)
    return low * z


def test_property_3_addim_with_the_true_variance_restores_the_norm():
    """E||z_s||^2 over the posterior against aDDIM's one norm: 10 points, 4000 draws, within 4.5 standard errors."""
    mixture = tilted(dimensions=8)
    generator = torch.Generator().manual_seed(6)
    draws = 4000
    for t, s in POSTERIOR_PAIRS[1:]:  # at t = 1 every x_hat is the mean of the data and no scale is orthogonal to it
        one_t, one_s = level(t, 10), level(s, 10)
        x = mixture.sample(10, generator)
        eps = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        points = where_signal_and_noise_are_orthogonal(mixture, noise(x, eps, one_t), one_t)
        x_hat, x_var = mixture.posterior_mean(points, one_t), mixture.posterior_variance(points, one_t) / 8
        adjusted = norm_sq(addim(x_hat, points, one_t, one_s, x_var))
        plain = norm_sq(ddim(x_hat, points, one_t, one_s))
        at, to = level(t, draws), level(s, draws)
        for i in range(10):
            z_t = points[i].expand(draws, 8)
            drawn = norm_sq(ddim(mixture.posterior_sample(z_t, at, generator), z_t, at, to))
            standard_error = drawn.std().item() / draws**0.5
            assert abs(drawn.mean().item() - adjusted[i].item()) < 4.5 * standard_error
            assert drawn.mean().item() - plain[i].item() > 0


@pytest.mark.parametrize("t", [0.5, 0.75, 0.95])
def test_property_3_over_the_data_addim_restores_the_norm_but_for_the_orthogonality_it_assumes(t):
    """The change of norm is what DDIM lacks, plus a cross term that the paper takes for 0.

    On data far from a Gaussian of the noise's own size, as images are, that term is within a tenth of the whole.
    """
    mixture = tilted(dimensions=32, spread=0.15)
    generator = torch.Generator().manual_seed(7)
    count = 4000
    t, s = level(t, count), level(t - 0.01, count)
    eps = torch.randn(count, 32, generator=generator, dtype=torch.float64)
    z_t = noise(mixture.sample(count, generator), eps, t)
    x_hat, x_var = mixture.posterior_mean(z_t, t), mixture.posterior_variance(z_t, t) / 32
    lacking = (s.alpha - t.alpha * s.sigma / t.sigma) ** 2 * x_var * 32
    restored = norm_sq(addim(x_hat, z_t, t, s, x_var)) - norm_sq(ddim(x_hat, z_t, t, s))
    cross = 2 * s.alpha * (x_hat * eps_from_x(x_hat, z_t, t)).sum(dim=1)
    grown = (s.sigma**2 + lacking / norm_sq(eps_from_x(x_hat, z_t, t))).sqrt() - s.sigma
    torch.testing.assert_close(restored, lacking + grown * cross, rtol=1e-6, atol=1e-9)
    assert abs((restored - lacking).mean() / lacking.mean()) < 0.1


# Property 6: students of the exact teacher

COMB = GaussianMixture(torch.ones(4), torch.tensor([[-1.5], [-0.5], [0.5], [1.5]]), torch.full((4,), 0.1))


def train(denoiser: Denoiser, loss, iterations: int, generator: torch.Generator, batch_size: int = 256) -> Denoiser:
    """The EMA of `denoiser` after Adam on `loss(denoiser, x, draws)`, draws of COMB and of Algorithm 1."""
    denoiser = copy.deepcopy(denoiser)
    ema = copy.deepcopy(denoiser)
    optimizer = torch.optim.Adam(denoiser.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=iterations)
    no_seeds = torch.zeros(batch_size, dtype=torch.long)
    for _ in range(iterations):
        x = COMB.sample(batch_size, generator).float()
        segment, time, label = torch.rand(3, batch_size, generator=generator, dtype=torch.float64)
        eps = torch.randn(batch_size, 1, generator=generator)
        optimizer.zero_grad()
        loss(denoiser, x, Draws(eps, segment, time, label, no_seeds)).mean().backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            for averaged, value in zip(ema.parameters(), denoiser.parameters(), strict=True):
                averaged.lerp_(value, 0.01)
    return ema


def teacher_loss(denoiser: Denoiser, x: torch.Tensor, draws: Draws) -> torch.Tensor:
    """v-loss towards the exact posterior mean, which is what the v-loss towards x converges to."""
    t = SCHEDULE((1 + uniform_integer(draws.time, 64)) / 64)
    z_t = noise(x, draws.eps, t)
    return squared(COMB.posterior_mean(z_t, t) - denoiser(z_t, t), t, 0.0)


def student_loss(student_steps: int):
    """Distillation from the exact teacher. x_var_frac 0: aDDIM is for many dimensions, a line's ODE is DDIM's limit."""
    method = Consistency(
        SCHEDULE, student_steps, TeacherSteps(64, 64, 0), COMB.posterior_mean, x_var_frac=0.0, distance="squared"
    )
    return lambda denoiser, x, draws: method.loss(denoiser, Batch(x, None), draws, 0)


@torch.no_grad()
def sample(predict, steps: int, z: torch.Tensor) -> torch.Tensor:
    """Alg. 2: plain DDIM on the uniform grid."""
    grid = uniform_grid(SCHEDULE)(steps)
    for k in range(steps):
        t, s = (grid.at(torch.full((len(z),), i)) for i in (k, k + 1))
        z = ddim(predict(z, t), z, t, s)
    return z


@pytest.mark.slow
def test_property_6_students_of_the_exact_teacher_approach_the_flow_as_their_steps_grow():
    """Mean distance to the exact ODE map at 1000 quantiles of the noise, for 1, 2, 4 and 8 steps, mean of three seeds.

    Every student has the same short training. With a long one all of them come near the error of the teacher's 64
    DDIM steps, and differ by less than their own scatter.
    """
    all_steps = (1, 2, 4, 8)
    quantiles = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    z_1 = torch.special.ndtri(quantiles).float()[:, None]
    exact = COMB.flow_by_quantiles(z_1)

    def errors(predictors) -> torch.Tensor:
        pairs = zip(predictors, all_steps, strict=True)
        return torch.stack([(sample(predict, steps, z_1) - exact).abs().mean() for predict, steps in pairs])

    runs = []
    for seed in range(3):
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        fresh = Denoiser(build(MLPConfig(dimensions=1, width=64, blocks=2, embedding=64)))
        start = train(fresh, teacher_loss, 1000, generator)
        runs.append(errors([train(start, student_loss(steps), 300, generator) for steps in all_steps]))
    students = torch.stack(runs).mean(dim=0)
    by_ddim = errors([COMB.posterior_mean] * 4)
    print("students", students.tolist(), "exact teacher by DDIM in as many steps", by_ddim.tolist())
    assert (students[1:] < 0.85 * students[:-1]).all(), students
    assert (students < by_ddim / 2).all(), (students, by_ddim)


# Named mixtures


@pytest.mark.parametrize("name", sorted(MIXTURES))
def test_named_mixtures_are_of_unit_scale_and_know_their_norm(name: str):
    points = mixture(name)
    squares = norm_sq(points.sample(4000, torch.Generator().manual_seed(0)))
    assert abs(squares.mean().item() - points.mean_norm_sq) < 4.5 * squares.std().item() / 4000**0.5
    assert 0.4 < points.mean_norm_sq / points.dimensions < 1.2
    assert points.dimensions == int(name.split("-")[1].removesuffix("d"))


def test_pictures_vary_in_few_directions():
    """Participation ratio of the eigenvalues, which is D for equal ones and 1 for one alone."""
    variances = torch.linalg.eigvalsh(mixture("pictures-64d").covariances)
    assert (variances.sum(dim=1).square() / variances.square().sum(dim=1) < 12).all()


def test_a_mixture_that_is_not_in_the_table_is_a_user_error():
    with pytest.raises(UserError, match="did you mean 'rings-2d'"):
        mixture("rings2d")
