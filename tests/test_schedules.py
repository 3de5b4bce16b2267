"""Noise schedules: exact ends, the formulas of App. A.1, and Karras' sigmas at equal SNR."""

import math

import pytest
import torch

from mcm.schedules import LOGSNR_LIMIT, CosineSchedule, cosine, interpolated, karras_grid, shifted, uniform_grid

SCHEDULES = [cosine(), shifted(64, 32), interpolated(64, 32, 64), interpolated(512, 32, 512)]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_ends_are_exact_data_and_exact_noise(schedule):
    level = schedule(torch.tensor([0.0, 1.0]))
    assert level.alpha.tolist() == [1.0, 0.0]
    assert level.sigma.tolist() == [0.0, 1.0]
    assert level.logsnr.tolist() == [math.inf, -math.inf]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedule_preserves_variance_and_loses_signal_all_the_way(schedule):
    level = schedule(torch.linspace(0, 1, 1001, dtype=torch.float64))
    torch.testing.assert_close(level.alpha**2 + level.sigma**2, torch.ones(1001, dtype=torch.float64))
    assert (level.alpha.diff() < 0).all()
    assert (level.sigma.diff() > 0).all()


def test_cosine_schedule_is_a_cosine():
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    torch.testing.assert_close(cosine()(t).alpha, torch.cos(math.pi / 2 * t), atol=1e-12, rtol=0)
    torch.testing.assert_close(cosine()(t).sigma, torch.sin(math.pi / 2 * t), atol=1e-12, rtol=0)


def test_shift_multiplies_the_signal_to_noise_ratio_by_the_square_of_the_resolutions():
    t = torch.linspace(0.01, 0.99, 50)
    torch.testing.assert_close(shifted(64, 32)(t).snr, cosine()(t).snr * (32 / 64) ** 2)


def test_interpolated_schedule_moves_from_the_high_shift_at_data_to_the_low_one_at_noise():
    t = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    expected = t * shifted(128, 32).logsnr(t) + (1 - t) * shifted(128, 128).logsnr(t)
    torch.testing.assert_close(interpolated(128, 32, 128).logsnr(t), expected)


def test_snr_is_alpha_over_sigma_squared_and_only_the_network_sees_it_clipped():
    level = cosine()(torch.tensor([0.0, 0.3, 1.0]))
    torch.testing.assert_close(level.snr.log(), level.logsnr)
    assert level.clipped_logsnr.dtype == torch.float32
    assert level.clipped_logsnr[[0, 2]].tolist() == [LOGSNR_LIMIT, -LOGSNR_LIMIT]


def test_float32_times_give_float64_levels():
    level = cosine()(torch.tensor([0.5]))
    assert level.alpha.dtype == level.sigma.dtype == level.logsnr.dtype == torch.float64


def test_rows_of_a_level_are_the_levels_of_those_rows():
    t = torch.linspace(0, 1, 5)
    assert torch.equal(cosine()(t).at(torch.tensor([4, 1])).alpha, cosine()(t[[4, 1]]).alpha)


def test_resolution_below_one_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        CosineSchedule(64, 0, 64)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_uniform_grid_holds_the_times_of_algorithm_2(steps):
    grid = uniform_grid(cosine())(steps)
    expected = cosine()(torch.tensor([1 - k / steps for k in range(steps + 1)], dtype=torch.float64))
    torch.testing.assert_close(grid.alpha, expected.alpha, atol=1e-12, rtol=0)
    assert (grid.alpha[0], grid.sigma[-1]) == (0, 0)


def test_karras_grid_has_the_signal_to_noise_ratio_of_edms_sigmas():
    steps, rho = 18, 7
    low, high = 0.002 ** (1 / rho), 80 ** (1 / rho)
    sigmas = torch.tensor([(high + i / (steps - 1) * (low - high)) ** rho for i in range(steps)], dtype=torch.float64)
    grid = karras_grid()(steps)
    torch.testing.assert_close(grid.snr[:-1], 1 / sigmas**2)
    torch.testing.assert_close(grid.sigma[:-1] / grid.alpha[:-1], sigmas)
    assert (sigmas[0].item(), sigmas[-1].item()) == (pytest.approx(80), pytest.approx(0.002))
    assert (grid.alpha[-1], grid.sigma[-1]) == (1, 0)
    assert len(grid.alpha) == steps + 1


def test_karras_grid_of_one_step_starts_at_the_largest_sigma():
    grid = karras_grid()(1)
    torch.testing.assert_close(grid.sigma[0] / grid.alpha[0], torch.tensor(80.0, dtype=torch.float64))
