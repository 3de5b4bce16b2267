"""Data: preparing pictures against cores, and loading beside what training takes."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness import Case, Figure, Options, Plot, Results, Timings, at_least, in_turn

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from mcm.data.arrays import ImageSet

PHOTOS, QUICK_PHOTOS = 240, 24
WIDTH, HEIGHT = 640, 480
PICTURES = 512
NEED = 10.0  # times what training takes
SCALING = 0.8  # of as many times the images/s as there are cores
PARAMS = Path(__file__).parents[2] / "params.yaml"

ABOUT = (
    "Preparing: mcm.data.prepare of a folder of JPEG and PNG pictures, decoded, cropped, resized and written, with one "
    "worker thread and with more, up to one for each core; the data set is the same to the byte. Loading: batches and "
    "draws by the loader that training reads, in this process and with two workers, beside whole training steps of the "
    "network and the batch of params.yaml, at its resolution and at 64 pixels, in the same rounds."
)


def run(options: Options) -> Results:
    from benchmarks.machine import this_machine

    found = Results([])
    with tempfile.TemporaryDirectory() as scratch:
        _prepare(Path(scratch) / "prepare", this_machine().cores, options, found)
        for resolution in (32, 64):
            _load(Path(scratch) / f"{resolution}", resolution, options, found)
    return found


def _prepare(scratch: Path, cores: int, options: Options, found: Results) -> None:
    from mcm.artifacts import folder_md5
    from mcm.data.config import DataConfig
    from mcm.data.prepare import prepare

    count = QUICK_PHOTOS if options.quick else PHOTOS
    config = DataConfig(source="folder", path=str(_photos(scratch / "photos", count)), resolution=64)
    workers = sorted({1, cores, *(k for k in (2, 4, 8, 16, 32) if k < cores)})

    def preparing(threads: int) -> Callable[[], None]:
        return lambda: prepare(config, scratch / f"{threads}", threads)

    taken = in_turn({f"{k}": preparing(k) for k in workers}, options.rounds(4, quick=1))
    same = len({folder_md5(scratch / f"{k}") for k in workers}) == 1
    for k in workers[1:]:
        found.figures.append(
            Figure(
                f"prepare {count} pictures of {WIDTH} x {HEIGHT}, {k} workers",
                taken.rate(f"{k}", count),
                "images/s",
                taken.rate("1", count),
                "1 worker",
                taken.ratio("1", f"{k}"),
                f"images/s, {k} workers / 1",
                at_least(SCALING * k),
                "the same bytes" if same else "THE BYTES DIFFER",
            )
        )
    found.plots.append(_against_cores(taken, workers, count))
    found.data["prepare"] = {"seconds": taken.seconds, "count": count}


def _load(scratch: Path, resolution: int, options: Options, found: Results) -> None:
    """The loader alone, turns of many batches, beside turns of a few training steps."""
    from benchmarks import synthetic, training
    from components.runner import read_params
    from mcm.training.distributed import processes

    params = read_params(PARAMS)
    images = synthetic.image_set(scratch, resolution, PICTURES)
    one = training.teacher(params, images)
    batch, steps = one.config.batch_size, 2 if options.quick else 4
    batches = 60 if options.quick else 150
    with processes() as group, contextlib.ExitStack() as stack:
        paced = stack.enter_context(contextlib.closing(training.Paced(one, group, scratch / "run", steps)))
        loaders = {f"{k} workers": _loading(images, batch, batches, k) for k in (0, 2)}
        taken = in_turn({**loaders, "training": paced}, options.rounds(7, quick=2))
    for name in loaders:
        found.figures.append(
            Figure(
                f"loading at {resolution} pixels, batches of {batch}, {name}",
                taken.rate(name, batches * batch),
                "images/s",
                taken.rate("training", paced.images),
                "the training step",
                taken.ratio("training", name).scaled(batches * batch / paced.images),
                "images/s, the loader alone / training",
                at_least(NEED),
                f"{one.config.precision}, network of params.yaml",
            )
        )
    found.data[f"loading {resolution}"] = {"seconds": taken.seconds, "batches": batches, "steps": steps}


def _loading(images: "ImageSet", batch: int, batches: int, workers: int) -> Callable[[], None]:
    """So many batches of a loader that goes on where it was: its workers start before what is timed."""
    from mcm.data.stream import TrainingStream, loader

    made: Iterator[Any] = iter(loader(TrainingStream(images, batch, 0, True), 0, 10**9, workers))

    def turn() -> None:
        for _ in range(batches):
            next(made)

    return turn


def _photos(folder: Path, count: int) -> Path:
    """Pictures as cameras make them, of smooth noise: half JPEG, half PNG."""
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for index in range(count):
        coarse = draw.integers(0, 256, (HEIGHT // 20, WIDTH // 20, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        picture.save(folder / f"{index:04d}.{'jpg' if index % 2 else 'png'}")
    return folder


def _against_cores(taken: Timings, workers: list[int], count: int) -> Plot:
    from benchmarks.plots import plot, series

    def draw(axes: "Axes") -> None:
        speeds = [taken.rate(f"{k}", count) for k in workers]
        axes.plot(workers, speeds, label="measured", **series(0))
        axes.plot(workers, [speeds[0] * k for k in workers], label="in proportion", **series(1))
        axes.set(xlabel="workers", ylabel="images/s", xticks=workers, ylim=(0, None))
        axes.legend()

    return plot("prepare", "Preparing pictures: images a second against workers, up to one for each core.", draw)


CASE = Case("data", "Data", ABOUT, run)
