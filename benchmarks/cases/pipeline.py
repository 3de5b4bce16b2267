"""What the pipeline itself costs: starting a stage, a `dvc repro` that has nothing to do, `--help`, memory."""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks import tiny
from benchmarks.harness import Aim, Case, Figure, Options, Ratio, Results, at_most, in_turn

ABOUT = """The project's own programs on a tiny project, which the case makes: a copy of this checkout with 24 pictures,
a network of a few thousand weights and one `dvc repro`. A stage's start is the time from the start of its process until
the stage's function is called, beside `import torch`, without which none but the first could do anything. `dvc repro`
with nothing to do is beside one of as many stages that copy a number; `--help` is beside a Python that does nothing.
Memory is the highest resident memory of each stage's process and those it starts."""

START = at_most(1.5)
NOTHING_TO_DO = at_most(1.5)
HELP = at_most(1.5)
STAGE_HELP = at_most(10.0)
MEMORY = at_most(2.5)

FLOOR = "import os, torch; os._exit(0)"  # to the point where a program could begin; leaving is not measured
# A stage's program up to the call of the stage's function, or with a function that does nothing to the program's end.
PROGRAM = """
import importlib, os, sys
what, name, *words = sys.argv[1:]
program = importlib.import_module(f"components.{name}.__main__")
stage = importlib.import_module(f"components.{name}.stage")
setattr(stage, name, lambda *_, **__: os._exit(0) if what == "start" else None)
program.main(words)
"""


def run(options: Options) -> Results:
    with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
        project, trivial = Path(scratch) / "project", Path(scratch) / "trivial"
        targets = ["prepare_data"] if options.quick else []
        stages = tiny.make_project(project, *targets)
        tiny.make_trivial(trivial, len(stages))
        floor = tiny.measure([sys.executable, "-c", FLOOR], project)
        figures = [
            *_starts(project, stages, options),
            _nothing_to_do(project, trivial, targets, len(stages), options),
            *_helps(project, options),
            *(_memory(stage, floor.bytes) for stage in stages),
        ]
    return Results(
        figures,
        notes=[
            f"Highest resident memory of `python -c 'import torch'`: {floor.bytes / 2**20:.0f} MiB. All of a stage's "
            "libraries count, so on such a small project a stage is its imports."
        ],
        data={"stages": {stage.name: {"seconds": stage.took.seconds, "bytes": stage.took.bytes} for stage in stages}},
    )


def _starts(project: Path, stages: list[tiny.Stage], options: Options) -> list[Figure]:
    """Each stage's start, and of one the whole way around a stage that does nothing."""
    kinds = {stage.component: stage for stage in reversed(stages)}  # of students and evaluations the first
    programs = {name: _program("start", name, kinds[name].words, project) for name in reversed(kinds)}
    one = stages[-1].component if options.quick else "train_teacher"
    around = f"{one}, start and end"
    programs[around] = _program("whole", one, kinds[one].words, project)
    programs["floor"] = _command([sys.executable, "-c", FLOOR], project)
    taken = in_turn(programs, options.rounds(3, 1), warmup=0)
    return [
        Figure(
            f"start of {name}" if name != around else around,
            taken.median(name),
            "s",
            peer=taken.median("floor"),
            peer_name="import torch",
            ratio=taken.ratio(name, "floor"),
            ratio_of="seconds, ours / import torch",
            aim=START if name != around else None,
            note="the stage's function does nothing: its lineage record, hashes of inputs and outputs, leaving"
            if name == around
            else "",
        )
        for name in programs
        if name != "floor"
    ]


def _nothing_to_do(project: Path, trivial: Path, targets: list[str], stages: int, options: Options) -> Figure:
    taken = in_turn(
        {
            "ours": lambda: tiny.dvc("repro", *targets, cwd=project),
            "trivial": lambda: tiny.dvc("repro", cwd=trivial),
        },
        options.rounds(5, 1),
        warmup=0,
    )
    return Figure(
        "`dvc repro` with nothing to do",
        taken.median("ours"),
        "s",
        peer=taken.median("trivial"),
        peer_name="trivial stages",
        ratio=taken.ratio("ours", "trivial"),
        ratio_of=f"seconds, ours / as many trivial stages ({stages})",
        aim=NOTHING_TO_DO,
    )


def _helps(project: Path, options: Options) -> list[Figure]:
    def mcm(*words: str) -> Callable[[], object]:
        return _command([sys.executable, "-m", "pipelines.cli", *words], project)

    rows: dict[str, tuple[Callable[[], object], Aim]] = {
        "mcm --help": (mcm("--help"), HELP),
        "mcm train teacher --help": (mcm("train", "teacher", "--help"), STAGE_HELP),
    }
    programs = {name: function for name, (function, _) in rows.items()}
    taken = in_turn({**programs, "floor": _command([sys.executable, "-c", "pass"], project)}, options.rounds(9, 2))
    return [
        Figure(
            f"`{name}`",
            1000 * taken.median(name),
            "ms",
            peer=1000 * taken.median("floor"),
            peer_name="python -c pass",
            ratio=taken.ratio(name, "floor"),
            ratio_of="seconds, ours / python -c pass",
            aim=aim,
        )
        for name, (_, aim) in rows.items()
    ]


def _memory(stage: tiny.Stage, floor: int) -> Figure:
    share = stage.took.bytes / floor
    return Figure(
        f"memory of {stage.name}",
        stage.took.bytes / 2**20,
        "MiB",
        peer=floor / 2**20,
        peer_name="import torch",
        ratio=Ratio(share, share, share),
        ratio_of="highest resident memory, ours / import torch",
        aim=MEMORY,
        note=f"{stage.took.seconds:.1f} s on the tiny project",
    )


def _program(what: str, name: str, words: list[str], project: Path) -> Callable[[], object]:
    return _command([sys.executable, "-c", PROGRAM, what, name, *words], project)


def _command(command: list[str], project: Path) -> Callable[[], object]:
    """Run a command in the project, whose code is imported; CalledProcessError where it fails."""
    return lambda: subprocess.run(command, cwd=project, check=True, capture_output=True)


CASE = Case("pipeline", "The pipeline itself", ABOUT, run)
