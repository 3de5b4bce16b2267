"""One of two processes that torchrun started: phases of training in turn, alone, side by side, and as one run.

`torchrun --nproc-per-node 2 -m benchmarks.cases._ranks FILE ROUNDS STEPS`: the leading process writes the seconds of
each phase of each round to FILE, as JSON.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from benchmarks import synthetic, training
from components.runner import read_params
from mcm.data.stream import TrainingStream, loader
from mcm.methods.interface import Batch, Draws
from mcm.training.checkpoint import CheckpointFolder
from mcm.training.distributed import Processes, processes
from mcm.training.loop import train

PARAMS = Path(__file__).parents[2] / "params.yaml"
PICTURES = 256
UNCOUNTED = 3  # steps at the beginning of a phase; what is new in a process is made in them

Phase = Callable[[], float]


class Training:
    """The teacher's training of params.yaml, on a set of pictures, for some steps at a time."""

    def __init__(self, scratch: Path, steps: int):
        self.scratch, self.steps = scratch, steps
        self.params = read_params(PARAMS)
        self.images = synthetic.image_set(scratch / "set", self.params["data"]["resolution"], PICTURES)

    def seconds(self, group: Processes, batch: int, parallel: str = "ddp") -> float:
        """Seconds of a step by the real loop, at `batch` images a process; what comes before and after is not counted.

        RuntimeError where FSDP is asked for and the weights were not shared out.
        """
        iterations = UNCOUNTED + self.steps + 1  # the last one writes a checkpoint
        size = {"batch_size": batch * group.world_size, "iterations": iterations}
        run = training.teacher(self.params, self.images, parallel=parallel, **size)
        stream = TrainingStream(run.images, run.config.batch_size, 0, run.config.mirror, group.rank, group.world_size)
        asked: list[float] = []

        def batches(start: int, stop: int) -> Iterator[tuple[Batch, Draws]]:
            for item in loader(stream, start, stop):
                asked.append(time.perf_counter())
                yield item

        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            checkpoints = CheckpointFolder(Path(folder), "benchmark", 1)
            train(f"{parallel} {batch}", run.denoiser, run.method, batches, run.config, checkpoints, group)
        shared = any(isinstance(value, DTensor) for value in run.denoiser.parameters())
        if parallel == "fsdp" and group.world_size > 1 and not shared:
            raise RuntimeError("FSDP was asked for, and every process has all weights")
        return (asked[-1] - asked[UNCOUNTED]) / self.steps


def phases(work: Training, group: Processes, batch: int) -> dict[str, Phase]:
    """What is compared, by name: seconds of a step in the slowest process that takes part."""
    alone = replace(group, rank=0, world_size=1)

    def leading(function: Phase) -> Phase:
        return lambda: function() if group.leads else 0.0

    def threads() -> float:
        torch.set_num_threads(2)
        try:
            return work.seconds(alone, 2 * batch)
        finally:
            torch.set_num_threads(1)

    return {
        "one": leading(lambda: work.seconds(alone, batch)),
        "one, twice the batch": leading(lambda: work.seconds(alone, 2 * batch)),
        "two threads, twice the batch": leading(threads),
        "side by side": lambda: work.seconds(alone, batch),
        "ddp": lambda: work.seconds(group, batch),
        "fsdp": lambda: work.seconds(group, batch, "fsdp"),
    }


def slowest(seconds: float) -> float:
    """The largest over all processes."""
    value: Tensor = torch.tensor(seconds, dtype=torch.float64)
    dist.all_reduce(value, dist.ReduceOp.MAX)
    return float(value)


def main() -> None:
    file, rounds, steps = sys.argv[1:]
    torch.set_num_threads(1)
    taken: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch, processes() as joined:
        group = replace(joined, device=torch.device("cpu"))
        work = Training(Path(scratch), int(steps))
        compared = phases(work, group, work.params["teacher"]["batch_size"])
        for number in range(int(rounds)):
            for name in compared if number % 2 == 0 else reversed(compared):
                group.barrier()
                taken.setdefault(name, []).append(slowest(compared[name]()))
    if group.leads:
        Path(file).write_text(json.dumps(taken))


if __name__ == "__main__":
    main()
