"""A long run of the real loop that notes, every few steps, when it was there and how much memory it held."""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks import synthetic, training
from benchmarks.memory import Sampler, status
from components.runner import read_params
from components.training import preview
from mcm.data.stream import TrainingStream, loader
from mcm.methods.interface import Batch, Draws
from mcm.training.checkpoint import CheckpointFolder
from mcm.training.distributed import processes
from mcm.training.loop import train

PARAMS = Path(__file__).parents[2] / "params.yaml"
PICTURES = 512
# More often than by default, so that what a checkpoint or a log row might leave behind adds up.
OFTEN = {"checkpoint_every": 100, "log_every": 20, "sample_every": 500}


@dataclass(frozen=True)
class Moment:
    """What was seen before a step was taken."""

    iteration: int
    seconds: float  # since the first step
    resident: int  # bytes
    highest: int  # bytes, since the moment before


def long_run(iterations: int, every: int) -> list[Moment]:
    """Train the default teacher for `iterations`, from a prepared set, with checkpoints, EMAs, logs and sample grids.

    Memory is that of this process, so this is to be called in one of its own.
    """
    params = read_params(PARAMS)
    moments: list[Moment] = []
    with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch, processes() as group, Sampler() as sampler:
        folder = Path(scratch)
        images = synthetic.image_set(folder / "set", params["data"]["resolution"], PICTURES)
        run = training.teacher(params, images, **{**OFTEN, "iterations": iterations})
        network, schedule = training.network_of(params, images), training.schedule_of(params, images)
        stream = TrainingStream(images, run.config.batch_size, run.config.seed, run.config.mirror)

        def batches(start: int, stop: int) -> Iterator[tuple[Batch, Draws]]:
            began = time.perf_counter()
            for iteration, item in enumerate(loader(stream, start, stop, run.config.workers), start):
                if iteration % every == 0:
                    moments.append(Moment(iteration, time.perf_counter() - began, status("VmRSS"), sampler.take()))
                yield item

        train(
            "soak",
            run.denoiser,
            run.method,
            batches,
            run.config,
            CheckpointFolder(folder / "checkpoints", "soak", run.config.keep_checkpoints),
            group,
            logs=folder / "logs",
            preview=preview(network, schedule, 8, run.config.seed),
        )
    return moments
