"""A whole project on tiny data, finished: what the pipeline itself costs shows where the stages have little to do."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from mcm.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
PICTURES, SIDE = 24, 20  # of a class each second one; pixels

TRAINING = {"batch_size": 8, "learning_rate": 1e-3, "emas": [0.9], "log_every": 5, "checkpoint_every": 8}
PARAMS: dict[str, Any] = {
    "data": {"source": "folder", "path": "data/pictures", "resolution": 16, "holdout": 0.2},
    "network": {"preset": "uvit_tiny"},
    "schedule": {"noise_low": 16, "noise_high": 16},
    "teacher": {"iterations": 24, **TRAINING},
    "variance": {"steps": 4, "images": 8, "batch_size": 8},
    "students": {
        "methods": ["cd", "ct"],
        "steps": [1],
        "common": {"iterations": 16, **TRAINING, "teacher_steps": {"first": 8, "last": 32, "iterations": 12}},
        **{name: {} for name in ("cd", "ct", "cd-1", "ct-1")},
    },
    "evaluation": {
        **{"samples": 16, "batch_size": 8, "pictures": 8},
        "teacher_samplers": [{"name": "addim", "steps": 4, "x_var": "table"}],
    },
}


@dataclass(frozen=True)
class Took:
    """What a command took."""

    command: list[str]
    seconds: float
    bytes: int  # highest resident memory


@dataclass(frozen=True)
class Stage:
    """One stage as `dvc repro` ran it."""

    component: str  # "train_student"
    words: list[str]  # its options
    took: Took

    @property
    def name(self) -> str:
        """The component, and what it made where it ran several times: "train_student cd-1"."""
        out = Path(self.words[self.words.index("--out") + 1]).name
        return f"{self.component} {out}" if self.component in ("train_student", "evaluate") else self.component


def run(*command: str | Path, cwd: Path, environment: Mapping[str, str] = os.environ) -> str:
    """Run to the end; stdout and stderr together. UserError where it fails."""
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env=dict(environment), capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stdout + done.stderr).strip().splitlines()[-1:]
        raise UserError(f"benchmarks: `{shlex.join(words)}` left with status {done.returncode}: {' '.join(last)}")
    return done.stdout + done.stderr


def environment(first: Path | None = None) -> dict[str, str]:
    """This process's, with the programs in `first` and then those of this interpreter first on the path."""
    places = [*filter(None, [first]), Path(sys.executable).parent]
    return {**os.environ, "PATH": os.pathsep.join([*map(str, places), os.environ["PATH"]])}


def dvc(*words: str, cwd: Path, environment: Mapping[str, str] | None = None) -> str:
    """Run DVC of this interpreter."""
    return run(sys.executable, "-m", "dvc", *words, cwd=cwd, environment=environment or globals()["environment"]())


def make_project(folder: Path, *targets: str) -> list[Stage]:
    """Copy this checkout to `folder` with tiny parameters and pictures, and run `dvc repro` there once.

    `targets` are stages at which to end; none is all of them.
    Its stages, each with what it took. UserError where this is no checkout, or a stage fails.
    """
    names = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", cwd=ROOT).split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file() and name != "dvc.lock":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    _write_pictures(folder / PARAMS["data"]["path"])
    (folder / "params.yaml").write_text(yaml.safe_dump(PARAMS, sort_keys=False))
    _commit(folder)
    # DVC finds this `python` first, so that each stage is measured by a small process of its own.
    programs, log = folder / ".git" / "measured", folder / ".git" / "measured.jsonl"
    programs.mkdir()
    words = shlex.join([*_measured(log), sys.executable])
    (programs / "python").write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    (programs / "python").chmod(0o755)
    dvc("repro", "--quiet", *targets, cwd=folder, environment=environment(programs))
    return [_stage(took) for took in _read(log)]


def measure(command: list[str], folder: Path) -> Took:
    """Run a command in `folder` once, by itself."""
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "log"
        run(*_measured(log), *command, cwd=folder)
        return _read(log)[0]


def _measured(log: Path) -> list[str]:
    """The words before a command that note in `log` what it took."""
    start = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from benchmarks.measured import main; main()"
    return [sys.executable, "-c", start, str(log)]


def _read(log: Path) -> list[Took]:
    return [Took(**json.loads(line)) for line in log.read_text().splitlines()]


def make_trivial(folder: Path, stages: int) -> None:
    """A DVC project of as many stages that do nothing, each behind the one before; `dvc repro` has run."""
    folder.mkdir(parents=True)
    described: dict[str, Any] = {}
    for number in range(stages):
        command = f"""python -c "open('{number}.txt', 'w').write('{number}')" """.strip()
        described[f"stage{number}"] = {
            "cmd": command,
            **({"deps": [f"{number - 1}.txt"]} if number else {}),
            "outs": [f"{number}.txt"],
        }
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": described}, sort_keys=False))
    run("git", "init", "--quiet", cwd=folder)
    dvc("init", "--quiet", cwd=folder)
    dvc("config", "core.analytics", "false", cwd=folder)
    dvc("repro", "--quiet", cwd=folder)
    _commit(folder)


def _commit(folder: Path) -> None:
    run("git", "init", "--quiet", cwd=folder)
    run("git", "add", "--all", cwd=folder)
    who = ["-c", "user.name=benchmark", "-c", "user.email=benchmark@example.org", "-c", "commit.gpgsign=false"]
    run("git", *who, "commit", "--quiet", "--message", "tiny", cwd=folder)


def _stage(took: Took) -> Stage:
    _, _, module, *words = took.command  # the interpreter, -m
    return Stage(module.removeprefix("components."), words, took)


def _write_pictures(folder: Path) -> None:
    """Squares of seeded places and colours on a plain ground, in two classes by their size."""
    draw = np.random.default_rng(0)
    for number in range(PICTURES):
        size = SIDE // (2 + number % 2)
        top, left = draw.integers(0, SIDE - size, 2)
        picture = np.empty((SIDE, SIDE, 3), dtype=np.uint8)
        picture[:] = draw.integers(0, 256, 3)
        picture[top : top + size, left : left + size] = draw.integers(0, 256, 3)
        place = folder / ("large", "small")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(place / f"{number:03d}.png")
