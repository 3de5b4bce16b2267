"""How time and memory grow with batch, resolution, network and data: as the work does, or not at all."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.fits import exponent
from benchmarks.harness import Case, Figure, Options, Plot, Ratio, Results, Timings, at_most

if TYPE_CHECKING:
    from benchmarks.cases._network_growth import Memory, Size

ABOUT = """One axis at a time. Network: a step of diffusion training, bf16, around the default network, from 1x to 64x
(blocks: all stages, to 16x). Time is per FLOP counted from the network (`mcm.planning.flops`), all sizes in turn in one
process; memory is the highest of a process of its own, per byte that the weights' state and the tensors kept for the
backward pass need. The largest size is compared with the best of the smaller ones, so a slow small size flatters
nothing. Data: sets from 1x to 100x, time per picture, and memory that should stay. Processes are another case."""

AS_THE_WORK = at_most(1.3)
FLAT = at_most(1.1)
BYTES_A_PICTURE = at_most(800)  # so that the 1.28 million pictures of ImageNet are prepared in a gibibyte
BYTES_OF_ORDER = at_most(24)
MIB = 2**20


def run(options: Options) -> Results:
    figures: list[Figure] = []
    plots: list[Plot] = []
    data: dict[str, object] = {}
    for part in (_network, _data):
        results = part(options)
        figures += results.figures
        plots += results.plots
        data |= results.data
    return Results(figures, plots, data=data)


def _network(options: Options) -> Results:
    from benchmarks.cases import _network_growth as network
    from benchmarks.memory import alone

    figures: list[Figure] = []
    plots: list[Plot] = []
    data: dict[str, object] = {}
    for axis, sizes in network.axes(options.quick).items():
        taken = alone(network.times, sizes, options.rounds(5, 1))
        memory = [alone(network.memory, size) for size in sizes]
        figures += network_figures(axis, sizes, taken, memory)
        seconds = [taken.median(str(size.units)) for size in sizes]
        flops = [size.flops for size in sizes]
        plots.append(
            _plot(
                axis.split()[0],
                f"A training step by {axis}, each as a multiple of the smallest size. Seconds grow as FLOPs^"
                f"{exponent(flops, seconds):.2f} over all sizes, as FLOPs^{exponent(flops[-2:], seconds[-2:]):.2f} "
                "between the two largest.",
                axis,
                [size.units for size in sizes],
                {
                    "FLOPs": flops,
                    "seconds": seconds,
                    "bytes counted": [found.counted for found in memory],
                    "memory at its highest": [found.peak for found in memory],
                },
            )
        )
        data[axis] = [
            {"units": size.units, "flops": size.flops, "seconds": second, **vars(found)}
            for size, second, found in zip(sizes, seconds, memory, strict=True)
        ]
    return Results(figures, plots, data=data)


def network_figures(axis: str, sizes: "Sequence[Size]", taken: Timings, memory: "Sequence[Memory]") -> list[Figure]:
    """The largest size against the best of the smaller ones: seconds a FLOP, bytes a byte, bytes kept a unit."""
    *smaller, largest = sizes
    best = min(smaller, key=lambda size: taken.median(str(size.units)) / size.flops)
    time = taken.ratio(str(largest.units), str(best.units)).scaled(best.flops / largest.flops)
    figures = [
        Figure(
            f"{axis}: time",
            largest.flops / taken.median(str(largest.units)) / 1e9,
            "GFLOP/s",
            peer=best.flops / taken.median(str(best.units)) / 1e9,
            peer_name=f"at {best.units}",
            ratio=time,
            ratio_of=f"seconds a FLOP, at {largest.units} / at {best.units}",
            aim=AS_THE_WORK,
            note=f"FLOPs from 1x to {largest.flops / sizes[0].flops:.0f}x",
        )
    ]
    *less, most = memory
    thrifty = min(less, key=lambda found: found.peak / found.counted)
    figures.append(
        Figure(
            f"{axis}: memory",
            most.peak / MIB,
            "MiB",
            peer=thrifty.peak / MIB,
            peer_name=f"at {smaller[less.index(thrifty)].units}",
            ratio=_known(most.peak / most.counted, thrifty.peak / thrifty.counted),
            ratio_of="memory at its highest a byte counted, largest / best of the smaller",
            aim=AS_THE_WORK,
            note=f"{most.state / MIB:.0f} MiB state and {most.kept / MIB:.0f} MiB kept for the backward pass counted",
        )
    )
    if axis in ("images a batch", "pixels"):  # with width and depth, weights are kept too, in half precision
        per_unit = [found.kept / size.units for size, found in zip(sizes, memory, strict=True)]
        figures.append(
            Figure(
                f"{axis}: kept for the backward pass",
                per_unit[-1] / 1024,
                "KiB each",
                peer=min(per_unit[:-1]) / 1024,
                peer_name="least of the smaller",
                ratio=_known(per_unit[-1], min(per_unit[:-1])),
                ratio_of="bytes each, largest / least of the smaller",
                aim=AS_THE_WORK,
            )
        )
    return figures


def _data(options: Options) -> Results:
    from benchmarks.cases import _data_growth as sets
    from benchmarks.memory import alone

    sizes = [100, 1000] if options.quick else [100, 1000, 10_000]
    many = [10 * size for size in sizes]
    first, last = str(sizes[0]), str(sizes[-1])
    batches = many[-1] // sets.BATCH + 10  # into the second epoch of the largest
    with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
        folder = Path(scratch)
        sets.write_pictures(folder / "pictures", sizes)
        for count in many:
            sets.make_set(folder / "sets", count)
        prepared = alone(sets.prepare_times, folder / "pictures", sizes, options.rounds(2, 1))
        prepare_bytes = [alone(sets.prepare_memory, folder / "pictures", count, sizes[0]) for count in sizes]
        loaded = alone(sets.loading_times, folder / "sets", many, options.rounds(200, 20), options.rounds(5, 2))
        loading_bytes = [alone(sets.loading_memory, folder / "sets", count, batches) for count in (many[0], many[-1])]
        features_bytes = [alone(sets.features_memory, folder / "sets", count) for count in (many[0], many[-1])]
        counts = many[-2:]
        evaluation_bytes = [alone(sets.evaluation_memory, count) for count in counts]
    figures = [
        _time("preparing", prepared, sizes, "a picture", int(last) / int(first)),
        Figure(
            "preparing: memory a picture",
            (prepare_bytes[-1] - prepare_bytes[0]) / (sizes[-1] - sizes[0]),
            "bytes",
            aim=BYTES_A_PICTURE,
            note=f"between {first} and {last} pictures: what grows with the set is what the manifest is made of",
        ),
        _time("loading", loaded, many, "a batch", 1.0),
        Figure(
            "loading: memory an image of the set",
            (loading_bytes[-1] - loading_bytes[0]) / (many[-1] - many[0]),
            "bytes",
            aim=BYTES_OF_ORDER,
            note=f"between {many[0]} and {many[-1]} images: the orders of two epochs are 16 bytes an image",
        ),
        _flat(
            "features of the set: memory",
            features_bytes[-1],
            many[-1] * sets.FEATURE_BYTES,
            f"what is held while {many[-1]} images are read / all their features",
        ),
        _flat(
            "evaluation: memory",
            evaluation_bytes[-1],
            evaluation_bytes[0],
            f"highest of {counts[-1]} samples / of {counts[0]}",
        ),
    ]
    seconds = [prepared.median(str(count)) for count in sizes]
    series: dict[str, Sequence[float]] = {"pictures": sizes, "seconds": seconds}
    caption = "Preparing a folder of pictures, each as a multiple of the smallest set."
    plots = [_plot("pictures", caption, "pictures", sizes, series)]
    data = {
        "preparing": {"pictures": sizes, "seconds": prepared.seconds, "bytes": prepare_bytes},
        "loading": {"images": many, "seconds": loaded.seconds, "bytes at first and last": loading_bytes},
        "features": {"bytes at first and last": features_bytes},
        "evaluation": {"samples": counts, "bytes": evaluation_bytes},
    }
    return Results(figures, plots, data=data)


def _time(name: str, taken: Timings, sizes: Sequence[int], each: str, work: float) -> Figure:
    """The largest set against the smallest; `work` is how many times as much there is to do."""
    first, last = str(sizes[0]), str(sizes[-1])
    return Figure(
        f"{name}: time",
        1000 * taken.median(last),
        "ms",
        peer=1000 * taken.median(first),
        peer_name=f"at {first} pictures",
        ratio=taken.ratio(last, first).scaled(1 / work),
        ratio_of=f"seconds {each}, of {last} pictures / of {first}",
        aim=AS_THE_WORK,
    )


def _flat(name: str, held: int, other: int, ratio_of: str) -> Figure:
    return Figure(name, held / MIB, "MiB", peer=other / MIB, ratio=_known(held, other), ratio_of=ratio_of, aim=FLAT)


def _known(a: float, b: float) -> Ratio:
    """A ratio of what was counted once, not timed."""
    return Ratio(a / b, a / b, a / b)


def _plot(name: str, caption: str, axis: str, sizes: Sequence[int], series: Mapping[str, Sequence[float]]) -> Plot:
    from benchmarks import plots

    def draw(axes: "plots.Axes") -> None:
        for number, (label, values) in enumerate(series.items()):
            axes.plot(sizes, [value / values[0] for value in values], label=label, **plots.series(number))
        axes.set(xscale="log", yscale="log", xlabel=axis, ylabel="multiple of the smallest")
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.minorticks_off()
        axes.legend()

    return plots.plot(name, caption, draw)


CASE = Case("growth", "Growth", ABOUT, run)
