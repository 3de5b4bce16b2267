"""The training step: images a second beside two peers, and as a share of the machine's own matrix peak."""

import contextlib
import itertools
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness import Case, Figure, Options, Plot, Results, Timings, at_least, in_turn

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from benchmarks.training import Paced, Run
    from mcm.networks.uvit import UViTConfig
    from mcm.training.distributed import Processes

PICTURES = 512
STEPS, QUICK_STEPS = 6, 2  # of a turn
PRODUCT_SECONDS = 0.2  # of a turn
OURS = ("teacher", "ct", "cd", "guided cd")
AIMED = ("teacher", "ct", "cd")
PARAMS = Path(__file__).parents[2] / "params.yaml"

ABOUT = (
    "The whole step as `mcm train` runs it (mcm.training.loop on a prepared set: draws, loss, gradient, clipping, "
    "Adam, EMA, log, checkpoints in the background) with the network, batch and methods of params.yaml, in its "
    "precision and in float32. Peers: diffusers' UNet2DModel in the loop of its example train_unconditional, with "
    "parameters and FLOPs within 10% of ours; and a plain single-file loop around our network. FLOPs are counted from "
    "the networks, for the passes that are made; the peak is the fastest matrix product of several shapes, timed in "
    "the same rounds."
)


def run(options: Options) -> Results:
    import torch

    from benchmarks import gpu
    from components.runner import read_params
    from mcm.training.distributed import processes

    params = read_params(PARAMS)
    default = params["teacher"].get("precision", "float32")
    found = Results([])
    with tempfile.TemporaryDirectory() as scratch, processes() as group:
        shares = {}
        for precision in dict.fromkeys([default, "float32"]):
            measured = _measure(params, precision, options, Path(scratch) / precision, group, found)
            found.figures.extend(_beside_peers(measured))
            found.figures.extend(_of_the_peak(measured, name) for name in OURS)
            found.figures.extend(_over_the_teacher(measured, name) for name in OURS[1:])
            found.plots.append(_bars(measured))
            shares[precision] = measured.taken.share("teacher", measured.flops["teacher"], measured.peak).median
        found.figures.append(_checkpoint(params, default, options, Path(scratch) / "checkpoint", group))
        if group.device.type == "cpu":
            _profile(params, shares, options, Path(scratch) / "profile", group, found)
        if torch.cuda.is_available():
            gpu.large_network(options, Path(scratch), group, found)
    return found


@dataclass(frozen=True)
class _Measured:
    """All that ran in turn in one precision. `flops` and `images` are those of a turn, by name."""

    network: "UViTConfig"
    precision: str
    batch: int
    taken: Timings
    flops: dict[str, float]
    images: int
    peak: float  # FLOP/s of the fastest product, before or between
    shape: str  # of that product


def _measure(
    params: dict[str, Any], precision: str, options: Options, scratch: Path, group: "Processes", found: Results
) -> _Measured:
    """Our trainings, the peers' and the matrix product, in turn."""
    from benchmarks import synthetic, training
    from benchmarks.machine import Product, highest
    from benchmarks.peers import diffusers_unet, plain
    from mcm.data.arrays import to_float
    from mcm.networks.presets import build

    resolution = params["data"].get("resolution", 32)
    images = synthetic.image_set(scratch, resolution, PICTURES)
    labelled = synthetic.image_set(scratch, resolution, PICTURES, classes=True)
    # One batch for all: that of the teacher.
    batch = training.teacher(params, images).config.batch_size
    changed = {"precision": precision, "batch_size": batch}
    runs = {
        "teacher": training.teacher(params, images, **changed),
        "ct": training.student(params, "ct", images, **changed),
        "cd": training.student(params, "cd", images, **changed),
        "guided cd": training.student(params, "cd", labelled, **changed, guidance=1.0),
    }
    network, schedule = training.network_of(params, images), training.schedule_of(params, images)
    tensors, noise = to_float(images.images), (schedule.noise_low, schedule.noise_high)
    peers = {
        "diffusers": diffusers_unet.training(tensors, batch, precision, group.device),
        "plain loop": plain.training(build(network), tensors, batch, noise, precision, group.device),
    }
    steps = QUICK_STEPS if options.quick else STEPS
    best = highest(precision, group.device)
    product = Product(best.shape, precision, group.device)
    repeats = max(1, round(PRODUCT_SECONDS * best.flops / product.flops))
    with _paced(runs, group, scratch, steps) as paced:
        turns = {name: _turn(peer, steps) for name, peer in peers.items()}
        turns["product"] = lambda: product.times(repeats)
        taken = in_turn({**paced, **turns}, options.rounds(9, quick=2), warmup=1)
    count = batch * steps
    flops = {name: count * one.flops for name, one in runs.items()}
    flops["diffusers"] = count * diffusers_unet.counts(images.resolution, images.channels)[2]
    flops |= {"plain loop": flops["teacher"], "product": product.flops * repeats}
    found.data[precision] = {"seconds": taken.seconds, "flops": flops, "steps": steps, "batch": batch}
    top = max(best.flops, taken.best("product", flops["product"]))
    return _Measured(network, precision, batch, taken, flops, count, top, "x".join(map(str, best.shape)))


def _beside_peers(m: _Measured) -> list[Figure]:
    """The teacher's step beside the peers'."""
    from benchmarks.peers import diffusers_unet
    from mcm.networks.presets import parameter_count

    parameters, _, _ = diffusers_unet.counts(m.network.resolution, m.network.image_channels)
    rate = m.taken.rate("teacher", m.images)
    return [
        Figure(
            f"teacher, {m.precision}, batch {m.batch}",
            rate,
            "images/s",
            m.taken.rate("diffusers", m.images),
            diffusers_unet.NAME,
            m.taken.ratio("diffusers", "teacher").scaled(m.flops["teacher"] / m.flops["diffusers"]),
            "images/s at equal FLOPs, ours / diffusers",
            at_least(1.3),
            f"{_size('ours', m.flops['teacher'] / m.images, parameter_count(m.network))}; "
            f"{_size('diffusers', m.flops['diffusers'] / m.images, parameters)}",
        ),
        Figure(
            f"teacher, {m.precision}, batch {m.batch}, the same network",
            rate,
            "images/s",
            m.taken.rate("plain loop", m.images),
            "the plain loop",
            m.taken.ratio("plain loop", "teacher"),
            "images/s, ours / plain loop",
        ),
    ]


def _size(who: str, flops: float, parameters: int) -> str:
    return f"{who}: {flops / 1e9:.3f} GFLOP a step and image, {parameters / 1e6:.2f} M parameters"


def _of_the_peak(m: _Measured, name: str) -> Figure:
    """What share of the matrix peak a training reaches."""
    return Figure(
        f"{name}, {m.precision}, batch {m.batch}: share of the matrix peak",
        m.flops[name] / m.taken.median(name) / 1e9,
        "GFLOP/s",
        m.peak / 1e9,
        f"the fastest product, {m.shape}",
        m.taken.share(name, m.flops[name], m.peak),
        "FLOPs counted from the network, ours / peak",
        at_least(0.6) if name in AIMED else None,
        f"{m.taken.rate(name, m.images):.0f} images/s",
    )


def _over_the_teacher(m: _Measured, name: str) -> Figure:
    """What a step costs over the teacher's, against what it should by its FLOPs."""
    ideal = m.flops[name] / m.flops["teacher"]
    return Figure(
        f"{name}, {m.precision}, batch {m.batch}: a step over the teacher's",
        m.taken.ratio(name, "teacher").median,
        "times",
        ideal,
        "by FLOPs",
        m.taken.ratio(name, "teacher").scaled(1 / ideal),
        "time over the ideal: 1 is as the work grows",
    )


def _checkpoint(params: dict[str, Any], precision: str, options: Options, scratch: Path, group: "Processes") -> Figure:
    """What a checkpoint costs at most: a turn that ends when its checkpoint is written, over one without."""
    from benchmarks import synthetic, training

    images = synthetic.image_set(scratch, params["data"].get("resolution", 32), PICTURES)
    between = training.teacher(params, images).config.checkpoint_every
    runs = {
        "without": training.teacher(params, images, precision=precision),
        "with": training.teacher(params, images, precision=precision, checkpoint_every=STEPS),
    }
    with _paced(runs, group, scratch, STEPS) as paced:

        def written() -> None:
            paced["with"]()
            for thread in threading.enumerate():
                if thread.name == "checkpoint":
                    thread.join()

        taken = in_turn({"without": paced["without"], "with": written}, options.rounds(7), warmup=1)
    step = taken.median("without") / STEPS
    cost = max(0.0, taken.median("with") - taken.median("without"))
    return Figure(
        f"teacher, {precision}: a checkpoint, of the time of the {between} steps between two",
        100 * cost / (between * step),
        "%",
        note="waited for until it is on the disk, which training does not do; none falls into the steps timed above",
    )


def _bars(m: _Measured) -> Plot:
    """GFLOP/s of everything that ran, from the median times."""
    from benchmarks.plots import bars, plot

    def draw(axes: "Axes") -> None:
        speeds = {name: m.flops[name] / m.taken.median(name) / 1e9 for name in m.flops if name != "product"}
        top = m.peak / 1e9
        for number, (name, speed) in enumerate(speeds.items()):
            axes.bar(name, speed, **bars(number))
            axes.annotate(f"{speed:.0f}", (number, speed), ha="center", va="bottom")
        axes.axhline(top, color="black", label=f"matrix peak, {top:.0f}")
        axes.axhline(0.6 * top, color="black", linestyle="--", label="60% of it")
        axes.set(ylabel="GFLOP/s", ylim=(0, 1.2 * max(top, *speeds.values())))
        axes.grid(visible=False, axis="x")
        axes.tick_params(axis="x", labelsize=9)
        axes.legend(ncols=2, loc="upper left")

    caption = f"Training in {m.precision}: FLOPs of the networks over median seconds, and the fastest matrix product."
    return plot(m.precision, caption, draw)


def _profile(
    params: dict[str, Any],
    of_peak: dict[str, float],
    options: Options,
    scratch: Path,
    group: "Processes",
    found: Results,
) -> None:
    """Where the time of the teacher's step goes, in words and as a picture; `of_peak` is its share, by precision."""
    from benchmarks import breakdown, synthetic, training

    images = synthetic.image_set(scratch, params["data"].get("resolution", 32), PICTURES)
    shares = {}
    for precision, share in of_peak.items():
        run = training.teacher(params, images, precision=precision)
        shares[precision] = breakdown.shares(run, group, scratch / precision, 3 if options.quick else 12)
        found.notes.append(breakdown.note(precision, shares[precision], share))
    found.plots.append(breakdown.picture(shares))


@contextlib.contextmanager
def _paced(runs: "dict[str, Run]", group: "Processes", scratch: Path, steps: int) -> "Iterator[dict[str, Paced]]":
    """Each run, paced; all closed in the end."""
    from benchmarks.training import Paced

    with contextlib.ExitStack() as stack:
        yield {
            name: stack.enter_context(contextlib.closing(Paced(one, group, scratch / name, steps)))
            for name, one in runs.items()
        }


def _turn(loop: Iterator[float], steps: int) -> Any:
    """So many steps of a peer's loop, as a function."""
    return lambda: list(itertools.islice(loop, steps))


CASE = Case("train_step", "Training step", ABOUT, run)
