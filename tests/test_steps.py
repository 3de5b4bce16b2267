"""Sampler steps: properties 1 and 2 of the method, and every other step against its definition computed another way."""

import itertools

import pytest
import torch

from mcm.schedules import NoiseLevel, cosine, interpolated
from mcm.steps import addim, addim_inner, ddim, ddpm, eps_from_x, heun, inv_ddim, noise, noise_ddim, norm_sq, x_from_v

SCHEDULE = interpolated(64, 32, 64)
BATCH = 16


def level(t: float, batch: int = BATCH) -> NoiseLevel:
    return SCHEDULE(torch.full((batch,), t, dtype=torch.float64))


def pairs(count: int = 8) -> list[tuple[float, float]]:
    """Every (t, s) with s < t of the grid k / count, both ends included."""
    return [(i / count, j / count) for i in range(1, count + 1) for j in range(i)]


@pytest.fixture
def images() -> tuple[torch.Tensor, torch.Tensor]:
    """A prediction and noise, float32 `[B, 3, 8, 8]`."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(BATCH, 3, 8, 8, generator=generator) * 2 - 1
    return x, torch.randn(BATCH, 3, 8, 8, generator=generator)


@pytest.mark.parametrize(("t", "s"), [*pairs(8), *[(k / 64, (k - 1) / 64) for k in (1, 2, 32, 63, 64)]])
def test_property_1_ddim_undoes_inverse_ddim(t, s, images):
    z_s, z_t = images
    x = inv_ddim(z_s, z_t, level(t), level(s))
    torch.testing.assert_close(ddim(x, z_t, level(t), level(s)), z_s, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("t", "s"), pairs(4))
def test_ddim_with_the_true_image_lands_on_the_same_noise_at_s(t, s, images):
    x, eps = images
    z_s = ddim(x, noise(x, eps, level(t)), level(t), level(s))
    torch.testing.assert_close(z_s, noise(x, eps, level(s)), atol=1e-5, rtol=0)


def test_ddim_to_data_returns_the_prediction(images):
    x, eps = images
    torch.testing.assert_close(ddim(x, eps, level(0.7), level(0.0)), x, atol=0, rtol=0)


@pytest.mark.parametrize(("t", "s"), pairs(8))
def test_property_2_addim_without_variance_is_ddim_bit_for_bit(t, s, images):
    x, eps = images
    z_t = noise(0.5 * x, eps, level(t))
    assert torch.equal(addim(x, z_t, level(t), level(s), torch.zeros(BATCH)), ddim(x, z_t, level(t), level(s)))


@pytest.mark.parametrize(("t", "s"), pairs(8))
@pytest.mark.parametrize("x_var", [0.001, 0.1, 1.0])
def test_property_2_addim_never_shrinks_the_norm(t, s, x_var, images):
    """Under the paper's assumption (section 3.2) that x_hat and eps_hat are orthogonal, and then by exactly z_var d."""
    x, eps = (value.double().flatten(1) for value in images)
    eps = eps - (eps * x).sum(1, keepdim=True) / norm_sq(x)[:, None] * x
    t, s, x_var = level(t), level(s), torch.full((BATCH,), x_var, dtype=torch.float64)
    z_t = noise(x, eps, t)
    grown = norm_sq(addim(x, z_t, t, s, x_var)) - norm_sq(ddim(x, z_t, t, s))
    assert (grown > 0).all()
    z_var = (s.alpha - t.alpha * s.sigma / t.sigma) ** 2 * x_var
    torch.testing.assert_close(grown, z_var * x.shape[1])


def test_property_2_gap_between_addim_and_ddim_vanishes_faster_than_the_step(images):
    x, eps = images
    t = level(0.5)
    z_t = noise(x, eps, t)
    gaps = []
    for step in (0.2, 0.1, 0.05, 0.025):
        s = level(0.5 - step)
        gaps.append((addim(x, z_t, t, s, torch.full((BATCH,), 0.1)) - ddim(x, z_t, t, s)).norm().item())
    assert all(fine < 0.3 * coarse for coarse, fine in itertools.pairwise(gaps)), gaps


@pytest.mark.parametrize("x_var", [0.0, 0.1])
def test_addim_without_any_predicted_noise_is_ddim(x_var):
    """A point that the teacher takes for clean has eps_hat 0: nothing to inflate, and no 0 / 0 either."""
    x = torch.tensor([[0.5]])
    t, s = level(0.5, 1), level(0.4, 1)
    z_t = t.alpha.float() * x
    assert (eps_from_x(x, z_t, t) == 0).all()
    assert torch.equal(addim(x, z_t, t, s, torch.tensor([x_var])), ddim(x, z_t, t, s))


@pytest.mark.parametrize(("t", "s"), pairs(6))
def test_inner_addim_adjusts_all_steps_but_those_to_the_data(t, s, images):
    x, z_t = images
    arguments = x, z_t, level(t), level(s)
    adjusted, x_var = addim(*arguments, torch.full((BATCH,), 0.1)), torch.full((BATCH,), 0.1)
    assert torch.equal(addim_inner(*arguments, x_var), ddim(*arguments) if s == 0 else adjusted)
    assert not torch.equal(ddim(*arguments), adjusted)


def test_addim_treats_every_image_of_a_batch_alone(images):
    x, eps = images
    scale = torch.linspace(0.1, 3, BATCH)
    z_t, t, s = noise(x, eps * scale[:, None, None, None], level(0.6)), level(0.6), level(0.4)
    together = addim(x, z_t, t, s, 0.1 * scale)
    alone = [addim(x[[i]], z_t[[i]], level(0.6, 1), level(0.4, 1), 0.1 * scale[[i]]) for i in range(BATCH)]
    torch.testing.assert_close(together, torch.cat(alone))


@pytest.mark.parametrize(("t", "s"), pairs(6))
def test_ddpm_is_the_gaussian_posterior_of_z_s(t, s, images):
    """Mean and variance by multiplying q(z_s | x) with q(z_t | z_s), precision by precision."""
    x, z_t = (value.double() for value in images)
    draw = torch.ones_like(x)
    t, s = level(t), level(s)
    mean = ddpm(x, z_t, t, s, torch.zeros_like(x))
    deviation = ddpm(x, z_t, t, s, draw) - mean
    if s.sigma[0] == 0:  # q(z_0 | x) is a point
        torch.testing.assert_close(mean, x)
        assert (deviation == 0).all()
        return
    alpha_t_s = t.alpha / s.alpha
    var_t_s = t.sigma**2 - alpha_t_s**2 * s.sigma**2
    precision = 1 / s.sigma**2 + alpha_t_s**2 / var_t_s
    weight_x, weight_z = (s.alpha / s.sigma**2 / precision)[0], (alpha_t_s / var_t_s / precision)[0]
    torch.testing.assert_close(mean, weight_x * x + weight_z * z_t, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(deviation, draw / precision[0].sqrt(), atol=1e-9, rtol=1e-9)


def test_ddpm_with_the_true_image_keeps_the_marginal_variance():
    generator = torch.Generator().manual_seed(1)
    count = 200_000
    t, s = level(0.7, 1), level(0.4, 1)
    x = torch.full((1, count), 0.5, dtype=torch.float64)
    eps, draw = torch.randn(2, 1, count, generator=generator, dtype=torch.float64)
    z_s = ddpm(x, noise(x, eps, t), t, s, draw)
    sampling_error = (2 / count) ** 0.5 * s.sigma.item() ** 2
    assert abs(z_s.var().item() - s.sigma.item() ** 2) < 4 * sampling_error
    assert abs(z_s.mean().item() - 0.5 * s.alpha.item()) < 4 * s.sigma.item() / count**0.5


@pytest.mark.parametrize(("t", "s"), pairs(4))
def test_noise_ddim_adds_noise_of_variance_z_var(t, s, images):
    x, z_t = images
    t, s = level(t), level(s)
    draw = torch.full_like(x, 2.0)
    added = noise_ddim(x, z_t, t, s, torch.full((BATCH,), 0.09), draw) - ddim(x, z_t, t, s)
    z_std = 0.3 * (s.alpha - t.alpha * s.sigma / t.sigma)[0].item()
    torch.testing.assert_close(added, z_std * draw, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("t", "s"), pairs(6))
def test_heun_is_ddim_where_both_predictions_agree(t, s, images):
    x, z_t = images
    t, s = level(t), level(s)
    torch.testing.assert_close(heun(x, x, z_t, t, s), ddim(x, z_t, t, s), atol=1e-5, rtol=0)


def test_heun_ends_with_an_euler_step(images):
    x, z_t = images
    other = torch.zeros_like(x)
    assert torch.equal(heun(x, other, z_t, level(0.3), level(0.0)), ddim(x, z_t, level(0.3), level(0.0)))


def test_heun_averages_the_slopes_of_edm(images):
    """Karras et al. 2022, Alg. 1, in its own variables: z / alpha and sigma / alpha."""
    x, z_t = (value.double() for value in images)
    x_next = 0.5 * x
    t, s = level(0.6), level(0.3)
    noise_t, noise_s = (t.sigma / t.alpha)[0], (s.sigma / s.alpha)[0]
    start = z_t / t.alpha[0]
    slope = (start - x) / noise_t
    euler = start + (noise_s - noise_t) * slope
    expected = start + (noise_s - noise_t) * (slope + (euler - x_next) / noise_s) / 2
    torch.testing.assert_close(heun(x, x_next, z_t, t, s), expected * s.alpha[0])


@pytest.mark.parametrize("t", [0.1, 0.5, 1.0])
def test_v_reads_as_x_and_as_eps(t, images):
    x, eps = images
    t = level(t)
    z_t = noise(x, eps, t)
    v = t.alpha[0].float() * eps - t.sigma[0].float() * x
    torch.testing.assert_close(x_from_v(v, z_t, t), x, atol=1e-5, rtol=0)
    torch.testing.assert_close(eps_from_x(x, z_t, t), eps, atol=1e-5, rtol=0)


def test_steps_keep_dtype_and_shape(images):
    x, z_t = images
    t, s = level(0.6), level(0.3)
    x_var = torch.full((BATCH,), 0.1)
    results = [
        ddim(x, z_t, t, s),
        inv_ddim(x, z_t, t, s),
        addim(x, z_t, t, s, x_var),
        ddpm(x, z_t, t, s, x),
        noise_ddim(x, z_t, t, s, x_var, x),
        heun(x, x, z_t, t, s),
    ]
    assert {(result.dtype, result.shape) for result in results} == {(torch.float32, x.shape)}


def test_plain_cosine_ddim_is_a_rotation():
    """With eps_hat and x_hat fixed, DDIM turns by the difference of the angles (Salimans & Ho 2022, App. D)."""
    x, eps = torch.tensor([[0.3]]), torch.tensor([[-1.2]])
    t, s = cosine()(torch.tensor([0.8])), cosine()(torch.tensor([0.5]))
    turn = torch.tensor(0.3 * torch.pi / 2)
    v = t.alpha.float() * eps - t.sigma.float() * x
    z_t = noise(x, eps, t)
    torch.testing.assert_close(ddim(x, z_t, t, s), turn.cos() * z_t - turn.sin() * v)
