"""The case `soak` tells a leak and a slowing run from flat ones."""

from benchmarks.cases._long_run import Moment
from benchmarks.cases.soak import EVERY, MIB, STEPS, figures, plots


def moments(leak: float = 0.0, slowing: float = 1.0, spikes: bool = False) -> list[Moment]:
    """A run whose memory grows by `leak` bytes a step after a first quarter of warming up, and which slows down."""
    made, seconds = [], 0.0
    for iteration in range(0, STEPS, EVERY):
        warm = min(iteration, STEPS // 4) * 100_000
        spike = 200 * MIB if spikes and iteration % 100 == 0 else 0
        resident = int(300 * MIB + warm + leak * iteration) + spike
        made.append(Moment(iteration, seconds, resident, resident))
        seconds += EVERY * 0.1 * (slowing if iteration >= STEPS * 3 // 4 else 1.0)
    return made


def test_a_flat_run_reaches_both_aims_whatever_it_held_at_first() -> None:
    memory, speed = figures(moments(spikes=True))
    assert memory.reached
    assert abs(memory.value) < 0.01
    assert speed.reached


def test_a_leak_is_measured() -> None:
    memory, _ = figures(moments(leak=10_000, spikes=True))
    assert not memory.reached
    assert abs(memory.value - 10_000 * 1000 / MIB) < 0.5


def test_a_run_that_slows_down_is_seen() -> None:
    _, speed = figures(moments(slowing=1.05))
    assert speed.reached is False
    assert speed.ratio is not None
    assert abs(speed.ratio.median - 1 / 1.05) < 1e-9


def test_both_plots_are_drawn() -> None:
    assert [plot.name for plot in plots(moments())] == ["memory", "speed"]
    assert all("<svg" in plot.svg for plot in plots(moments()))
