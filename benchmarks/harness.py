"""What every benchmark is made of: functions timed in turn in one process, ratios of paired times, figures with aims.

A machine is never as fast in one minute as in the next. So nothing is compared over time: what is compared runs in
turn, round by round, each round in the opposite order of the one before, and a figure is the median over rounds of the
ratio within a round, beside its smallest and its largest.
"""

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Options:
    """How to measure. `quick` is for seeing that a case works: few rounds, whose figures are not for quoting."""

    quick: bool = False

    def rounds(self, full: int, quick: int = 3) -> int:
        """How many rounds to take."""
        return quick if self.quick else full


@dataclass(frozen=True)
class Ratio:
    """A ratio over rounds: its median, and the smallest and largest seen."""

    median: float
    low: float
    high: float

    def scaled(self, factor: float) -> "Ratio":
        """The ratio times a known positive factor, as of the work done in each of the two times."""
        return Ratio(self.median * factor, self.low * factor, self.high * factor)


@dataclass(frozen=True)
class Timings:
    """Seconds of each function by name, one for each round; round i of one is paired with round i of another."""

    seconds: dict[str, list[float]]

    def ratio(self, a: str, b: str) -> Ratio:
        """Time of `a` over time of `b`, round by round: above 1, b is the faster one, by that factor."""
        ratios = [first / second for first, second in zip(self.seconds[a], self.seconds[b], strict=True)]
        return Ratio(statistics.median(ratios), min(ratios), max(ratios))

    def median(self, name: str) -> float:
        """Median seconds of one call."""
        return statistics.median(self.seconds[name])

    def rate(self, name: str, count: float) -> float:
        """`count` things a call, as things per second at the median."""
        return count / self.median(name)

    def share(self, name: str, count: float, most: float) -> Ratio:
        """`count` things a call, round by round, as a share of `most` things per second."""
        shares = [count / seconds / most for seconds in self.seconds[name]]
        return Ratio(statistics.median(shares), min(shares), max(shares))

    def best(self, name: str, count: float) -> float:
        """`count` things a call, as things per second in the fastest round."""
        return count / min(self.seconds[name])


def in_turn(
    functions: Mapping[str, Callable[[], object]],
    rounds: int,
    warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> Timings:
    """Time each function once a round, for `rounds` rounds after `warmup` rounds that do not count.

    Rounds go through the functions forth and back in turn, so that none always comes first. Every time is kept, none
    is dropped. Work that a function left on a GPU counts as its own: the clock is read when the device has finished.
    """
    order = list(functions)
    seconds: dict[str, list[float]] = {name: [] for name in order}
    for number in range(-warmup, rounds):
        for name in order if number % 2 == 0 else reversed(order):
            _finish()
            start = clock()
            functions[name]()
            _finish()
            taken = clock() - start
            if number >= 0:
                seconds[name].append(taken)
    return Timings(seconds)


def _finish() -> None:
    """Wait for the GPU, where the process uses one; without torch in the process there is none."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


@dataclass(frozen=True)
class Aim:
    """What a figure should be: at least, or at most, a bound. It is of the figure's ratio where there is one."""

    bound: float
    at_least: bool = True

    def reached(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound

    def __str__(self) -> str:
        return f"{'at least' if self.at_least else 'at most'} {self.bound:g}"


def at_least(bound: float) -> Aim:
    return Aim(bound)


def at_most(bound: float) -> Aim:
    return Aim(bound, at_least=False)


@dataclass(frozen=True)
class Figure:
    """One row of a case's table. `value` is ours and `peer` the other's, both in `unit`.

    `ratio` is what is compared, and `ratio_of` says of what in words ("images/s, ours / diffusers"); paired where both
    were timed in turn. An aim is of the ratio's median, or of the value where there is no ratio.
    """

    name: str
    value: float
    unit: str
    peer: float | None = None
    peer_name: str = ""
    ratio: Ratio | None = None
    ratio_of: str = ""
    aim: Aim | None = None
    note: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether the aim is reached; None without an aim."""
        if self.aim is None:
            return None
        return self.aim.reached(self.value if self.ratio is None else self.ratio.median)


@dataclass(frozen=True)
class Plot:
    """A picture of a case as SVG text, and the sentence that stands below it; see `benchmarks.plots.plot`."""

    name: str
    caption: str
    svg: str


@dataclass(frozen=True)
class Results:
    """What a case found. `notes` are paragraphs below the table: what was the same for all, what the profile says
    where an aim is missed; `data` is kept in the JSON alone, such as every single time.
    """

    figures: list[Figure]
    plots: list[Plot] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One file of `benchmarks/cases/`, as its `CASE`. `about` says what is compared with what, and how.

    A case that takes long is not `default`: it runs where it is named.
    """

    name: str
    title: str
    about: str
    run: Callable[[Options], Results]
    default: bool = True
