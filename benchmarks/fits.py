"""How a quantity grows: exponents of powers, slopes of lines that a few spikes do not move."""

import math
import statistics
from collections.abc import Sequence


def exponent(work: Sequence[float], cost: Sequence[float]) -> float:
    """k of `cost ~ work^k`, by least squares of the logarithms: 1 grows as the work does, 0 not at all.

    Raises ValueError at fewer than two different amounts of work, or at anything that is not above 0.
    """
    if len(set(work)) < 2 or min(*work, *cost) <= 0:
        raise ValueError(f"no power of {list(work)} and {list(cost)}: two different amounts, all above 0, are needed")
    return statistics.linear_regression([math.log(w) for w in work], [math.log(c) for c in cost]).slope


def median_slope(x: Sequence[float], y: Sequence[float]) -> float:
    """The median of the slopes between all pairs (Theil 1950, Sen 1968): up to 29% of the points may lie anywhere."""
    pairs = [(i, j) for i in range(len(x)) for j in range(i) if x[i] != x[j]]
    if not pairs:
        raise ValueError("a slope needs two points")
    return statistics.median((y[i] - y[j]) / (x[i] - x[j]) for i, j in pairs)
