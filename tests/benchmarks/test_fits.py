"""Exponents and slopes come out of data that were made with them."""

import pytest

from benchmarks.fits import exponent, median_slope


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_the_power_of_a_power_is_found(power: float) -> None:
    work = [1, 4, 16, 100]
    assert exponent(work, [3 * w**power for w in work]) == pytest.approx(power, abs=1e-12)


def test_a_fixed_cost_beside_the_work_lowers_the_power() -> None:
    work = [1, 4, 16]
    assert 0 < exponent(work, [10 + w for w in work]) < 0.5


@pytest.mark.parametrize(("work", "cost"), [([2, 2], [1, 2]), ([1, 2], [0, 1]), ([-1, 2], [1, 1])])
def test_no_power_without_two_amounts_above_zero(work: list[float], cost: list[float]) -> None:
    with pytest.raises(ValueError, match="two different amounts"):
        exponent(work, cost)


def test_spikes_do_not_move_a_slope() -> None:
    x = list(range(40))
    y = [5 + 0.25 * value + (1000 if value % 5 == 4 else 0) for value in x]
    assert median_slope(x, y) == pytest.approx(0.25, rel=1e-9)


def test_no_slope_of_one_place() -> None:
    with pytest.raises(ValueError, match="two points"):
        median_slope([3, 3], [1, 2])
