"""What is measured where a GPU is: the 394M network at 64 px in bf16, its largest batch and its share of the peak."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks import synthetic, training
from benchmarks.harness import Figure, Options, Results, at_least, in_turn
from benchmarks.machine import Peak, Product, peak
from components.runner import read_params
from mcm.data.arrays import ImageSet

if TYPE_CHECKING:
    from mcm.training.distributed import Processes

PRESET = Path(__file__).parents[1] / "presets" / "imagenet64_small.yaml"
LARGEST = 2048  # of the paper, over all its devices
STEPS = 4  # of a turn
PRODUCTS = 50  # of a turn
COMPILED = (False, True)


def large_network(options: Options, scratch: Path, group: "Processes", found: Results) -> None:
    """Rows for teacher and CD of presets/imagenet64_small.yaml on one GPU, to `found`."""
    params = read_params(PRESET)
    images = synthetic.image_set(scratch / "large", params["data"]["resolution"], LARGEST)
    best = peak("bf16", group.device)
    for name in ("teacher", "cd"):
        batch = _largest_batch(name, params, images, group, scratch / name)
        for compiled in COMPILED:
            run = _run(name, params, images, batch, compiled)
            found.figures.append(_mfu(run, best, options, group, scratch / f"{name}-{compiled}"))


def _mfu(run: training.Run, best: Peak, options: Options, group: "Processes", scratch: Path) -> Figure:
    """The share of the peak that a training reaches; nothing of it stays on the device."""
    product = Product(best.shape, "bf16", group.device)
    with contextlib.closing(training.Paced(run, group, scratch, STEPS)) as paced:
        taken = in_turn({"ours": paced, "product": lambda: product.times(PRODUCTS)}, options.rounds(7), warmup=1)
    top = max(best.flops, taken.best("product", product.flops * PRODUCTS))
    return Figure(
        f"{run.name}, {PRESET.stem} at {run.images.resolution} px, bf16, batch {run.config.batch_size}, "
        f"{'compiled' if run.config.compile else 'eager'}: MFU",
        paced.flops / taken.median("ours") / 1e12,
        "TFLOP/s",
        top / 1e12,
        f"the fastest product, {'x'.join(map(str, best.shape))}",
        taken.share("ours", paced.flops, top),
        "FLOPs counted from the network, ours / peak",
        at_least(0.5) if run.config.compile else None,
        f"{taken.rate('ours', paced.images):.0f} images/s; the batch is the largest power of two that fits",
    )


def _run(name: str, params: dict[str, Any], images: ImageSet, batch: int, compiled: bool = False) -> training.Run:
    changed = {"batch_size": batch, "compile": compiled}
    if name == "teacher":
        return training.teacher(params, images, **changed)
    return training.student(params, name, images, **changed)


def _largest_batch(name: str, params: dict[str, Any], images: ImageSet, group: "Processes", scratch: Path) -> int:
    """The largest power of two that takes a step within the device's memory, LARGEST at most."""
    fits = 1
    while fits < LARGEST:
        try:
            training.Paced(_run(name, params, images, 2 * fits), group, scratch / str(fits), 1).close()
        except torch.cuda.OutOfMemoryError:
            break
        finally:
            torch.cuda.empty_cache()
        fits *= 2
    return fits
