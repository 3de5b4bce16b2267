"""`mcm lineage diff` and `log` on a large store: seconds, python's start included, and how they grow with the store.

`python benchmarks/lineage.py` makes a store in a temporary folder growing from 1 000 to 10 000 pipeline runs of 21
records. A tenth of the runs trained a teacher; the others took it from the cache. Two runs of DVC come last, that wrote
records only of what they ran: their diff asks the index who made the rest. "Cold" is without an index, with the files
in the system's cache. Each time is the best of several; where others use the machine too, look at the processor's.
"""

import argparse
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic_core import to_json

from components.lineage.record import parse_record

Results = dict[int, dict[str, tuple[float, float]]]  # by runs and command: seconds by the clock and of processors

TARGETS = {"diff": 2.0, "log": 5.0}  # seconds, of 10 000 runs on 2 cores
GROUP = 10  # runs with one teacher
STUDENTS = [f"{method}-{steps}" for method in ("cd", "ct") for steps in (1, 2, 4, 8)]
BEGUN = datetime(2026, 1, 1, tzinfo=UTC)
LIBRARIES = (
    "numpy pillow scipy torch torchvision pandas matplotlib safetensors pydantic pyyaml tqdm dvc kfp rich jinja2"
)


def md5(*parts: object) -> str:
    return hashlib.md5(repr(parts).encode(), usedforsecurity=False).hexdigest()


FILES = {f"mcm/{place}/module_{n}.py": md5(place, n) for place in ("data", "training", "networks") for n in range(8)}
PARAMETERS: dict[str, dict[str, Any]] = {
    "prepare_data": {"data.source": "emoji", "data.subset": "smileys", "data.resolution": 32, "data.holdout": 0.1},
    "train_teacher": {
        "network.preset": "uvit_cpu32",
        **{f"network.{name}": 64 for name in ("channels", "depth", "heads", "patch", "embedding", "classes")},
        **{f"teacher.{name}": 0.5 for name in ("iterations", "batch_size", "warmup", "decay", "dropout", "clip")},
        **{"schedule.noise_low": 32, "schedule.noise_high": 32, "teacher.seed": 0, "teacher.emas": [0.995]},
    },
    "estimate_variance": {
        "variance.seed": 0,
        "variance.steps": 64,
        "variance.images": 128,
        "variance.precision": "bf16",
    },
    "train_student": {
        **{f"students.{name}": 0.5 for name in ("iterations", "batch_size", "warmup", "decay", "dropout", "clip")},
        **{f"students.teacher_steps.{name}": 16 for name in ("first", "last", "iterations")},
        **{"students.seed": 1, "students.learning_rate": 0.0003, "students.emas": [0.995], "students.x_var_frac": 0.0},
    },
    "evaluate": {
        **{"evaluation.samples": 512, "evaluation.batch_size": 64, "evaluation.seed": 0, "evaluation.pictures": 36},
        "evaluation.teacher_samplers": [{"name": "ddim", "steps": steps} for steps in (64, 8, 4, 2, 1)],
    },
    "report": {},
}


def run_id(number: int, by: str) -> str:
    return f"dvc-20260101-120000-{number:x}" if by == "dvc" else f"{md5('run', number)[:8]}-{number:012x}"


def records(number: int, by: str = "kubeflow") -> Iterator[dict[str, Any]]:
    """The records of a run. Of those by DVC, only what no earlier run of their group made."""
    first = number - number % GROUP
    mine = -number if by == "dvc" else number  # so that no other run makes the same
    made: dict[str, str] = {}
    place = 0

    def stage(name: str, task: str, out: str, reads: list[str], own: int, **new: Any) -> Iterator[dict[str, Any]]:
        nonlocal place
        place += 1
        made[out] = f"{md5(out, own)}.dir"
        measured = {"timing": md5("timing", task, own)} if name == "evaluate" else {}
        if own != mine and by == "dvc":
            return
        taken = None if own == mine else {"run": run_id(own, "kubeflow"), "record": md5("record", own, name, task)}
        began = BEGUN + timedelta(seconds=60 * number + 2 * place)
        values = {**PARAMETERS[name], **new}
        yield {
            "kind": "mcm.lineage.record",
            "version": 1,
            "id": md5("record", mine, name, task),
            "run": {"id": run_id(number, by), "by": by, "experiment": None},
            "stage": name,
            "task": task,
            "status": "succeeded",
            "component": "1.2.0",
            "code": {"commit": md5("commit")[:30] + f"{first:010x}", "dirty": False, "files": FILES},
            "image": "registry.example/mcm@sha256:" + 2 * md5("image"),
            "parameters": values,
            "seeds": {key: value for key, value in values.items() if key.endswith(".seed")},
            "inputs": [artifact(read.rpartition("/")[2], made[read], read) for read in reads],
            "outputs": [artifact("out", made[out], out), *(artifact(n, m, n, True) for n, m in measured.items())],
            "hardware": {
                **{"processor": "a processor of 2 cores", "cores": 2, "threads": 2, "memory": 2**33},
                **{"accelerators": ["an accelerator"], "devices": 1},
            },
            "libraries": {"python": "3.11.9", **dict.fromkeys(LIBRARIES.split(), "2.13.0")},
            "started": began.isoformat(),
            "ended": (began + timedelta(seconds=1)).isoformat(),
            "cost": {"seconds": 60.0 * (taken is None), "device_seconds": 60.0 * (taken is None)},
            "cached_from": taken,
            "metrics": figures(name, number),
        }

    yield from stage("prepare_data", "", "dataset", [], 0)
    yield from stage("train_teacher", "", "teacher", ["dataset"], first, **{"teacher.learning_rate": 1 / (first + 1)})
    yield from stage("estimate_variance", "", "variance", ["dataset", "teacher"], first)
    for student in STUDENTS:
        # DVC's runs train one student anew, and take the others from the run that trained the teacher.
        own = first if by == "dvc" and student != "cd-4" else mine
        reads = ["dataset", "teacher", "variance"]
        yield from stage("train_student", student, f"students/{student}", reads, own, **{"students.seed": own})
        yield from stage("evaluate", student, f"evaluations/{student}", ["dataset", f"students/{student}"], own)
    yield from stage("evaluate", "teacher", "evaluations/teacher", ["dataset", "teacher", "variance"], first)
    yield from stage("report", "", "report", list(made), mine)


def artifact(name: str, content: str, path: str, measured: bool = False) -> dict[str, Any]:
    return {"name": name, "md5": content, "path": path, "size": 10_326_585, "files": 4, "measured": measured}


def figures(stage: str, number: int) -> dict[str, float]:
    share = number % 997 / 997
    if stage == "evaluate":
        return {"ddim-4.fid": 200 + share, "ddim-4.kid": share, "ddim-4.precision": share, "ddim-4.recall": share}
    return {"loss": share} if stage.startswith("train") else {}


def write(store: Path, number: int, by: str = "kubeflow") -> int:
    """Add a run to a store. Bytes of its records."""
    folder, size = store / run_id(number, by), 0
    folder.mkdir(parents=True)
    for record in records(number, by):
        name = "-".join(filter(None, [record["stage"], record["task"], record["id"][:12]]))
        size += (folder / f"{name}.json").write_bytes(to_json(record, indent=1))
    return size


class Measured:
    """Commands in a folder of their own, against one store, with a cache of their own."""

    def __init__(self, scratch: Path, repeat: int):
        self.scratch, self.repeat = scratch, repeat
        self.store, self.cache = scratch / "lineage", scratch / "cache"

    def best(self, *words: str, cold: bool = False) -> tuple[float, float]:
        """Seconds of `mcm lineage <words>` by the clock and of processors; `cold`: the index is removed before."""
        command = [sys.executable, "-m", "pipelines.cli", "lineage", *words, "--store", str(self.store)]
        root = str(Path(__file__).resolve().parents[1])
        variables = {**os.environ, "XDG_CACHE_HOME": str(self.cache), "PYTHONPATH": root}
        times, busy = [], []
        for _ in range(self.repeat):
            if cold:
                shutil.rmtree(self.cache, ignore_errors=True)
            start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
            done = subprocess.run(command, cwd=self.scratch, env=variables, capture_output=True, text=True, check=False)
            times.append(time.perf_counter() - start)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            busy.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
            if done.returncode or not done.stdout or done.stderr:
                sys.exit(f"{' '.join(words)}: exit status {done.returncode}: {done.stderr}")
        return min(times), min(busy)

    def all(self, runs: int) -> dict[str, tuple[float, float]]:
        """Every command at this size of the store."""
        full = (run_id(7, "kubeflow"), run_id(runs - 3, "kubeflow"))
        parts = (run_id(runs - 5, "dvc"), run_id(runs - 15, "dvc"))
        return {
            "diff, cold": self.best("diff", *full, cold=True),
            "log, cold": self.best("log", cold=True),
            "diff, warm": self.best("diff", *full),
            "diff of DVC runs, cold": self.best("diff", *parts, cold=True),
            "diff of DVC runs, warm": self.best("diff", *parts),
            "log, warm": self.best("log"),
            "log --limit 0, warm": self.best("log", "--limit", "0"),
            "log --param, warm": self.best("log", "--stage", "train_teacher", "--param", "teacher.learning_rate<0.5"),
            "log --artifact, warm": self.best("log", "--artifact", f"{md5('teacher', 10)}.dir"),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, nargs="+", default=[1000, 3000, 10_000], help="sizes, rising")
    parser.add_argument("--repeat", type=int, default=5, help="times each command runs; the best counts")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured")
    args = parser.parse_args()
    for record in records(GROUP + 1):
        parse_record(record, "benchmark")
    with tempfile.TemporaryDirectory() as scratch:
        measured = Measured(Path(scratch), args.repeat)
        results: Results = {}
        size = count = 0
        for runs in sorted(args.runs):
            for number in range(count, runs):
                size += write(measured.store, number)
            for number in (runs - 5, runs - 15):
                write(measured.store, number, "dvc")
            count = runs
            time.sleep(2.5)  # what changed in the last 2 seconds is read again, which is not measured here
            results[runs] = measured.all(runs)
            for number in (runs - 5, runs - 15):
                shutil.rmtree(measured.store / run_id(number, "dvc"))
    show(results, size / (21 * count))
    if args.json:
        values = {
            "seconds by the clock and of processors": results,
            "bytes_per_record": size / (21 * count),
            "cores": len(os.sched_getaffinity(0)),
        }
        args.json.write_text(json.dumps({**values, "targets": TARGETS}, indent=2) + "\n")


def show(results: Results, size: float) -> None:
    """Seconds at each size. Growth of the processor's time: 1.0 is as the store grew, 0 is none at all."""
    sizes = list(results)
    small, large = results[sizes[0]], results[sizes[-1]]
    print(f"seconds on {len(os.sched_getaffinity(0))} cores; 21 records a run, {size:.0f} bytes a record")
    print(f"{'runs':<24}" + "".join(f"{runs:>9}" for runs in sizes) + "   processor   growth  target")
    for name in large:
        row = "".join(f"{results[runs][name][0]:>9.2f}" for runs in sizes)
        (seconds, busy), (_, less) = large[name], small[name]
        growth = (busy / less - 1) / (sizes[-1] / sizes[0] - 1) if len(sizes) > 1 else 0.0
        # Whatever asks first makes the index, once: a diff of runs that took from others needs it.
        target = TARGETS["log" if name.startswith("log") else "diff"]
        says = "met" if seconds < target else "MISSED"
        print(f"{name:<24}{row}{busy:>12.2f}{growth:>9.2f}  < {target:.0f} s: {says}")
    cold = sizes[-1] * 21 / large["log, cold"][0]
    print(f"log, cold: {cold:,.0f} records a second")


if __name__ == "__main__":
    main()
