"""2 000 training steps: memory and speed are flat."""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchmarks.fits import median_slope
from benchmarks.harness import Case, Figure, Options, Plot, Results, Timings, at_least, at_most

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from benchmarks.cases._long_run import Moment

ABOUT = """The default teacher's training by the real loop: a prepared set, EMAs, logs, a checkpoint every 100 steps, a
grid of samples every 500, in a process of its own. Every 20 steps its resident memory and the time are read. The slope
of memory is the median of the slopes between all pairs of moments in the last three quarters of the run; speed is
compared between the last quarter and the second."""

STEPS, EVERY = 2000, 20
QUICK_STEPS, QUICK_EVERY = 80, 4
SLOPE = at_most(2.0)  # MiB in 1000 steps
SPEED = at_least(0.97)
MIB = 2**20


def run(options: Options) -> Results:
    from benchmarks.cases._long_run import long_run
    from benchmarks.memory import alone

    moments = alone(long_run, *((QUICK_STEPS, QUICK_EVERY) if options.quick else (STEPS, EVERY)))
    return Results(figures(moments), plots(moments), data={"moments": [vars(moment) for moment in moments]})


def figures(moments: "Sequence[Moment]") -> list[Figure]:
    """Slope of memory, loss of speed and highest memory of a run that was seen at `moments`, evenly spaced."""
    late = moments[len(moments) // 4 :]
    slope = 1000 * median_slope([moment.iteration for moment in late], [moment.resident for moment in late])
    speeds = quarters(moments)
    steps = moments[1].iteration - moments[0].iteration
    return [
        Figure(
            "memory: slope",
            slope / MIB,
            "MiB in 1000 steps",
            aim=SLOPE,
            note=f"over the last three quarters; {late[0].resident / MIB:.0f} MiB at their beginning, "
            f"{late[-1].resident / MIB:.0f} at their end, {max(moment.highest for moment in late) / MIB:.0f} at most",
        ),
        Figure(
            "speed: last quarter",
            speeds.rate("last", steps),
            "steps/s",
            peer=speeds.rate("second", steps),
            peer_name="second quarter",
            ratio=speeds.ratio("second", "last"),
            ratio_of="steps/s, last quarter / second",
            aim=SPEED,
            note=f"stretches of {steps} steps, paired in their order",
        ),
    ]


def quarters(moments: "Sequence[Moment]") -> Timings:
    """Seconds of the stretches between moments, of the second and of the last quarter of the run."""
    seconds = [after.seconds - before.seconds for before, after in itertools.pairwise(moments)]
    count = len(seconds) // 4
    return Timings({"second": seconds[count : 2 * count], "last": seconds[len(seconds) - count :]})


def plots(moments: "Sequence[Moment]") -> list[Plot]:
    """Memory and speed over iterations."""
    from benchmarks.plots import plot, series

    iterations = [moment.iteration for moment in moments]
    lines = [{**series(number), "marker": ""} for number in range(2)]  # there are too many points for markers

    def memory(axes: "Axes") -> None:
        axes.plot(iterations, [moment.resident / MIB for moment in moments], label="at the step", **lines[0])
        axes.plot(iterations, [moment.highest / MIB for moment in moments], label="highest since the last", **lines[1])
        axes.set(xlabel="iteration", ylabel="resident memory, MiB", ylim=(0, None))
        axes.legend()

    def speed(axes: "Axes") -> None:
        pairs = list(itertools.pairwise(moments))
        rates = [(b.iteration - a.iteration) / (b.seconds - a.seconds) for a, b in pairs]
        axes.plot([b.iteration for _, b in pairs], rates, **lines[0])
        axes.set(xlabel="iteration", ylabel="steps a second", ylim=(0, None))

    return [
        plot("memory", "Resident memory of the training process.", memory),
        plot("speed", "Steps a second; low where a grid of samples is made.", speed),
    ]


CASE = Case("soak", "Soak: 2 000 steps", ABOUT, run, default=False)
