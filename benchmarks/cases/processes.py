"""Two processes against one: how much of the second one is left, by DDP and by FSDP."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.harness import Case, Figure, Options, Ratio, Results, Timings, at_least
from mcm.errors import UserError

ABOUT = """The real loop on the default network and batch, in two processes that torchrun starts, each with one thread,
that talk by gloo on this machine's CPU. In turn: one process alone while the other waits, both side by side without a
word between them, both as one run (DDP, FSDP). Efficiency is the images/s of the run of two over twice those of one.
What is lost side by side is the machine's: cores share its memory and caches. The rest is communication."""

EFFICIENCY = at_least(0.9)
ROOT = Path(__file__).resolve().parents[2]


def run(options: Options) -> Results:
    with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
        taken = _launch(Path(scratch) / "times.json", options.rounds(5, 1), 6 if not options.quick else 2)
    return Results(figures(taken), data={"seconds": taken.seconds})


def figures(taken: Timings) -> list[Figure]:
    """Efficiencies from the seconds of a step of each phase of `benchmarks.cases._ranks`."""
    rows = [
        _row("side by side, no communication", taken, "side by side", "one", 1.0, "what the machine has to give"),
        *(_weak(name, taken) for name in ("ddp", "fsdp")),
        *(_strong(name, taken) for name in ("ddp", "fsdp")),
        *(_communication(name, taken) for name in ("ddp", "fsdp")),
        Figure(
            "two processes beside two threads",
            1000 * taken.median("ddp"),
            "ms a step",
            peer=1000 * taken.median("two threads, twice the batch"),
            peer_name="one process, two threads",
            ratio=taken.ratio("two threads, twice the batch", "ddp"),
            ratio_of="images/s, DDP / two threads",
            note="the same global batch",
        ),
    ]
    return rows


def _row(name: str, taken: Timings, two: str, one: str, work: float, note: str, aim: bool = False) -> Figure:
    """Images/s of `two` over twice those of `one`; a step of `one` has `work` times the images of one process."""
    ratio: Ratio = taken.ratio(one, two).scaled(1 / work)
    return Figure(
        name,
        1000 * taken.median(two),
        "ms a step",
        peer=1000 * taken.median(one),
        peer_name="one process",
        ratio=ratio,
        ratio_of="images/s, two processes / twice one",
        aim=EFFICIENCY if aim else None,
        note=note,
    )


def _weak(name: str, taken: Timings) -> Figure:
    note = "each process has the batch of the one"
    return _row(f"{name.upper()}, twice the work", taken, name, "one", 1.0, note, aim=True)


def _strong(name: str, taken: Timings) -> Figure:
    note = "each process has half the batch of the one"
    return _row(f"{name.upper()}, the same work", taken, name, "one, twice the batch", 2.0, note, aim=True)


def _communication(name: str, taken: Timings) -> Figure:
    return Figure(
        f"{name.upper()} beside no communication",
        1000 * taken.median(name),
        "ms a step",
        peer=1000 * taken.median("side by side"),
        peer_name="side by side",
        ratio=taken.ratio("side by side", name),
        ratio_of="images/s, as one run / side by side",
        aim=EFFICIENCY,
    )


def _launch(file: Path, rounds: int, steps: int) -> Timings:
    """Seconds of each phase; UserError with the last line of a process that failed."""
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "benchmarks.cases._ranks"]
    command = [sys.executable, *words, str(file), str(rounds), str(steps)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "Error" in line]
        raise UserError(f"benchmarks: two processes left with status {done.returncode}: {' '.join(errors[:1])}")
    return Timings(json.loads(file.read_text()))


CASE = Case("processes", "Two processes against one", ABOUT, run)
