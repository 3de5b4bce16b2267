"""What was run: the machine, the code's commit, and the settings and inputs that the artifacts record."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import torch

from components.report.collect import Run

UNKNOWN = "unknown"
CODE = Path(__file__).resolve().parent
# DVC rewrites its lock file while it runs the stages, so it says nothing about the code.
CODE_PATHS = (":/", ":(top,exclude)dvc.lock")


def machine() -> dict[str, str]:
    """Processor, cores, memory, accelerator and versions of the machine that runs this."""
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "Processor": _processor(),
        "Cores": f"{os.cpu_count() or UNKNOWN}",
        "Memory": _memory(),
        "GPU": ", ".join(gpus) or "none",
        "System": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "torch": importlib.metadata.version("torch"),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or UNKNOWN


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"
    except (AttributeError, ValueError, OSError):
        return UNKNOWN


def commit(folder: Path = CODE) -> dict[str, str]:
    """The git commit of the code and whether files differ from it; unknown where there is no git or repository."""
    head = _git(folder, "rev-parse", "HEAD")
    changes = None if head is None else _git(folder, "status", "--porcelain", "--", *CODE_PATHS)
    state = UNKNOWN if changes is None else ("yes, files differ from this commit" if changes else "no")
    return {"Commit": head or UNKNOWN, "Dirty": state}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


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
