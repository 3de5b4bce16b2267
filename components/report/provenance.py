"""What was run: the machine, the code's commit, and the settings and inputs that the artifacts record."""

import importlib.metadata
import os
import platform

import torch

from components.lineage import surroundings
from components.report.collect import Run

UNKNOWN = "unknown"


def machine() -> dict[str, str]:
    """Processor, cores, memory, accelerator and versions of the machine that runs this."""
    memory = surroundings.memory()
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "Processor": surroundings.processor() or UNKNOWN,
        "Cores": f"{os.cpu_count() or UNKNOWN}",
        "Memory": f"{memory / 2**30:.1f} GiB" if memory else UNKNOWN,
        "GPU": ", ".join(gpus) or "none",
        "System": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "torch": importlib.metadata.version("torch"),
    }


def commit() -> dict[str, str]:
    """The git commit of the code and whether files differ from it; unknown where there is no git or repository."""
    head, dirty = surroundings.checkout()
    state = UNKNOWN if dirty is None else ("yes, files differ from this commit" if dirty else "no")
    return {"Commit": head or UNKNOWN, "Dirty": state}


def measured_with(run: Run) -> dict[str, str]:
    """How every figure of the table was measured."""
    metrics, counts = run.reference.metrics, run.dataset.config.get("counts", {})
    held = ", ".join(f"{count} {split}" for split, count in counts.items()) if isinstance(counts, dict) else str(counts)
    timings = [row.timing for row in run.rows]
    return {
        "Images": held or UNKNOWN,
        "Data set hash (DVC folder md5)": run.dataset.md5,
        "Reference hash (data set the figures are against)": metrics.reference,
        "Samples measured": str(metrics.samples),
        "Real images measured against": str(metrics.reference_samples),
        "FID": metrics.extractor,
        "Features of KID, precision, recall": run.features,
        "Seed of the samples": str(metrics.seed),
        "Seeds of training": _one({f"{name}: {seed}": seed for name, seed in _seeds(run).items()}),
        "EMA": _one({f"{row.name}: {row.metrics.ema}": row.metrics.ema for row in run.rows}),
        "Guidance": _one({f"{row.name}: {row.metrics.guidance:g}": f"{row.metrics.guidance:g}" for row in run.rows}),
        "Timed on": ", ".join(dict.fromkeys(timing.device for timing in timings)),
        "Batch of the timing": ", ".join(dict.fromkeys(str(timing.batch) for timing in timings)),
    }


def _one(by_name: dict[str, str]) -> str:
    """The value that all rows share, or each row with its own."""
    values = set(by_name.values())
    return values.pop() if len(values) == 1 else ", ".join(by_name)


def _seeds(run: Run) -> dict[str, str]:
    """Training seed of the teacher and of each student."""
    seeds = {}
    for name, config in run.configs.items():
        if isinstance(config.get("training"), dict):
            seeds[name.removeprefix("students/")] = str(config["training"].get("seed", UNKNOWN))
    return seeds
