"""The arrows of docs/architecture.md, and what every stage, parameters file and command owes to the others."""

import ast
import functools
import graphlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.estimate_variance.stage import VarianceConfig
from components.evaluate.stage import EvaluationConfig
from components.runner import SECTIONS, read_params, section
from components.students import student_config
from components.train_teacher.stage import TeacherConfig
from components.training import NetworkConfig, ScheduleConfig
from mcm.data.config import DataConfig
from mcm.errors import UserError
from mcm.methods.recipes import RECIPES
from mcm.networks.presets import network_config
from mcm.networks.uvit import UViTConfig
from pipelines.cli import COMMANDS
from tests.chain.programs import ROOT, run

LAYERS = ("mcm", "components", "pipelines")  # from the ground up
BESIDE = ("benchmarks", "deploy", "docs", "studies", "tests")
LOGGER = ("tensorboard", "torch.utils.tensorboard")  # met in mcm/training alone
NOT_SCIENCE = ("kfp", "kubernetes", "dvc", "google", "boto3", "mlflow", "wandb", *LOGGER)
HEAVY = ("torch", "torchvision", "matplotlib", "pandas", "scipy", "kfp", "kubernetes", "google.cloud", "dvc")
# Where a client of the world outside is met in components: nowhere else, so that a stage runs without it.
OUTSIDE = {
    "kfp": ("components/kubeflow/", "/component.py"),
    "kubernetes": ("components/kubeflow/",),
    "google": ("components/storage/",),
}

# What a room of mcm knows of the others, and why. Nothing else, and no edge without a use.
ROOMS: dict[str, dict[str, str]] = {
    "schedules": {},
    "steps": {"schedules": "a step leads from one noise level to another"},
    "denoiser": {"schedules": "f(z_t, t) takes a level", "steps": "x from v"},
    "methods": {
        "denoiser": "what a student and a teacher are; guidance",
        "schedules": "times become levels",
        "steps": "targets are made of steps",
        "config": "the keys of a method",
        "errors": "keys that make no student",
    },
    "networks": {"config": "suggests the near preset", "errors": "bad input"},
    "training": {
        "methods.interface": "the loop never knows which method runs",
        "artifacts": "checkpoints are whole under their name",
        "compiled": "as configured",
        "config": "its section of parameters",
        "errors": "a loss that is not finite",
        "tensors": "checkpoints hold tensors",
    },
    "data": {
        "methods.interface": "the stream yields a Batch and its Draws",
        "artifacts": "writes and reads the data set",
        "config": "its section of parameters",
        "errors": "bad input",
        "vision": "the source torchvision",
    },
    "planning": {
        "networks": "of which network",
        "methods": "of which method: a step is traced as it is",
        "denoiser": "what a method calls",
        "schedules": "times become levels",
    },
    "variance": {
        "methods.interface": "measures over a Batch",
        "denoiser": "of a predictor",
        "schedules": "at levels",
        "steps": "noise",
        "artifacts": "writes the table",
        "errors": "bad input",
    },
    "samplers": {
        "data.arrays": "x to pixels",
        "data.stream": "the keyed generator",
        "denoiser": "of a predictor; guidance",
        "schedules": "grids",
        "steps": "a sampler is a loop over them",
        "training.devices": "where a step has to be said to be over",
        "config": "the parameters of a sampler",
        "errors": "bad input",
    },
    "model": {
        "networks": "builds what it reads",
        "training.loop": "writes what training left",
        "denoiser": "what it reads and writes",
        "schedules": "a denoiser's own",
        "artifacts": "the artifact",
        "config": "suggests the near weights",
        "errors": "bad input",
        "tensors": "weights and EMAs",
    },
    "evaluation": {
        "artifacts": "the cache of features",
        "config": "suggests the near extractor",
        "errors": "bad input",
        "vision": "clean-fid",
    },
    "compiled": {},
    "mixtures": {"schedules": "levels", "config": "suggests the near mixture", "errors": "bad input"},
    "exact": {
        "mixtures": "the truth",
        "schedules": "levels",
        "steps": "the start is trained on noised points",
        "denoiser": "what is sampled",
        "methods": "the start's method, batches and draws",
        "samplers": "of the teacher and of students",
        "evaluation": "the Fréchet distance",
        "variance": "the teacher's own",
        "data.stream": "the keyed generator",
        "errors": "bad input",
    },
    "artifacts": {"errors": "bad input"},
    "config": {"errors": "bad input"},
    "tensors": {"errors": "a truncated file"},
    "vision": {},
    "errors": {},
}


@functools.cache
def imports(file: Path) -> frozenset[str]:
    """Every module that a file names in an import, wherever it stands, with the names taken from it appended."""
    package = file.relative_to(ROOT).parent.parts
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(), str(file))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*above, *filter(None, [node.module])))
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def files(layer: str) -> list[Path]:
    found = sorted((ROOT / layer).rglob("*.py"))
    assert found, f"{layer}/ has no Python"
    return found


def within(name: str, modules: tuple[str, ...] | dict[str, str]) -> str | None:
    """Which of `modules` the dotted `name` is or lies in."""
    return next((module for module in modules if f"{name}.".startswith(f"{module}.")), None)


def named(layer: str, modules: tuple[str, ...]) -> list[str]:
    """`file: module` for each import of one of `modules` in a layer."""
    return [
        f"{file.relative_to(ROOT)}: {name}" for file in files(layer) for name in imports(file) if within(name, modules)
    ]


def rooms_known() -> Iterator[tuple[str, str, Path]]:
    """(room, what it imports of another room, file) over all of mcm."""
    for file in files("mcm"):
        parts = file.relative_to(ROOT / "mcm").with_suffix("").parts
        for name in imports(file):
            words = name.split(".")
            if words[0] == "mcm" and parts[0] != "__init__" and words[1] != parts[0]:
                yield parts[0], ".".join(words[1:]), file


@pytest.mark.parametrize("layer", LAYERS)
def test_arrows_between_layers_point_down(layer: str) -> None:
    above = LAYERS[LAYERS.index(layer) + 1 :]
    assert named(layer, (*above, *BESIDE)) == []


def test_the_science_knows_no_orchestrator_cloud_or_tracker() -> None:
    logger = f"{Path('mcm', 'training')}/"
    found = [entry for entry in named("mcm", NOT_SCIENCE) if not (entry.startswith(logger) and "tensorboard" in entry)]
    assert found == []
    assert named("components", LOGGER) == []


@pytest.mark.parametrize("client", OUTSIDE)
def test_a_client_of_the_world_outside_is_met_in_its_place(client: str) -> None:
    found = [entry.split(":")[0] for entry in named("components", (client,))]
    assert found and [file for file in found if not any(place in file for place in OUTSIDE[client])] == []


def test_no_stage_imports_another() -> None:
    stages = {file.parent.name for file in (ROOT / "components").glob("*/stage.py")}
    for stage in stages:
        others = tuple(f"components.{other}" for other in stages - {stage})
        assert named(f"components/{stage}", others) == []


def test_rooms_of_mcm_know_what_the_table_allows() -> None:
    wrong = [
        f"{file.relative_to(ROOT)}: mcm.{name}" for room, name, file in rooms_known() if not within(name, ROOMS[room])
    ]
    assert wrong == []


def test_rooms_of_mcm_use_all_that_the_table_allows() -> None:
    used = {(room, within(name, ROOMS[room])) for room, name, _ in rooms_known()}
    assert {(room, known) for room, allowed in ROOMS.items() for known in allowed} <= used


def test_rooms_of_mcm_have_an_order() -> None:
    graph = {room: {known.split(".")[0] for known in allowed} for room, allowed in ROOMS.items()}
    assert list(graphlib.TopologicalSorter(graph).static_order())


def test_the_page_lists_these_rooms_and_what_they_know() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    table = page.split("## Rooms of `mcm/`")[1].split("\n## ")[0]
    listed = {
        re.findall(r"`([^`]+)`", cells[1])[0]: set(re.findall(r"`([^`]+)`", cells[3]))
        for cells in (line.split("|") for line in table.splitlines() if line.startswith("| `"))
    }
    assert listed == {room: set(allowed) for room, allowed in ROOMS.items()}
    assert {file.relative_to(ROOT / "mcm").with_suffix("").parts[0] for file in files("mcm")} == {"__init__", *ROOMS}
    picture = set(re.findall(r"\w+", re.sub(r"<[^>]*>", " ", (ROOT / "docs/architecture.svg").read_text())))
    assert set(ROOMS) <= picture


def test_files_that_the_page_links_and_names_are_there() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    linked = [ROOT / "docs" / target for target in re.findall(r"\]\(([^)]+)\)", page)]
    quoted = [ROOT / name for name in re.findall(r"`((?:mcm|components|tests)/[\w/]+\.py)`", page)]
    assert len(linked) >= 3 and len(quoted) >= 8
    assert [path for path in (*linked, *quoted) if not path.exists()] == []


# Stages


def dag() -> dict[str, dict[str, Any]]:
    """The stages of dvc.yaml, as written."""
    return yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def component_of(cmd: str) -> str:
    match = re.match(r"python -m components\.(\w+) ", cmd)
    assert match, f"not a program of a stage: {cmd}"
    return match[1]


def metadata(stage: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / "components" / stage / "metadata.yaml").read_text())


STAGES = sorted({component_of(entry["cmd"]) for entry in dag().values()})


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_is_a_folder_that_explains_itself(stage: str) -> None:
    folder = ROOT / "components" / stage
    names = ("__init__.py", "__main__.py", "stage.py", "component.py", "metadata.yaml", "README.md", "component.yaml")
    assert [name for name in names if not (folder / name).is_file()] == []
    about = metadata(stage)
    assert about["name"] == stage
    assert about["description"]
    assert isinstance(about["inputs"], list)
    assert isinstance(about["outputs"], list) and about["outputs"]
    assert all(port["name"] and port["description"] for port in (*about["inputs"], *about["outputs"]))


@pytest.mark.parametrize("stage", STAGES)
def test_metadata_dvc_and_params_name_the_same_sections(stage: str) -> None:
    sections = metadata(stage)["parameters"]
    assert isinstance(sections, list), "parameters: a list of sections of params.yaml, [] for none"
    assert set(sections) <= set(read_params(ROOT / "params.yaml"))
    for entry in dag().values():
        if component_of(entry["cmd"]) == stage:
            assert {key.split(".")[0] for key in entry.get("params", [])} == set(sections)


def test_files_of_the_project_that_dvc_watches_are_there() -> None:
    watched = {dep for entry in dag().values() for dep in entry["deps"] if not dep.startswith("artifacts/")}
    assert sorted(dep for dep in watched if not (ROOT / dep).exists()) == []


def test_every_stage_has_a_command() -> None:
    programs = {module for module, _ in COMMANDS.values()}
    assert {f"components.{stage}.__main__" for stage in STAGES} <= programs
    assert [name for name in programs if not (ROOT / f"{name.replace('.', '/')}.py").is_file()] == []


# Parameters

PARAMS = [ROOT / "params.yaml", *sorted((ROOT / "presets").glob("*.yaml"))]


@pytest.mark.parametrize("path", PARAMS, ids=lambda path: path.stem)
def test_parameters_parse(path: Path) -> None:
    params = read_params(path)
    assert set(params) == set(SECTIONS)
    data = section(params, "data", DataConfig)
    chosen = section(params, "network", NetworkConfig)
    network = network_config(chosen.preset, data.resolution, data.channels or 3, dropout=chosen.dropout)
    assert isinstance(network, UViTConfig)
    section(params, "schedule", ScheduleConfig).schedule(data.resolution)
    section(params, "teacher", TeacherConfig)
    section(params, "variance", VarianceConfig)
    evaluation = section(params, "evaluation", EvaluationConfig)
    assert any(sampler.needs_table for sampler in evaluation.teacher_samplers), "variance/ would be made for nothing"


@pytest.mark.parametrize("path", PARAMS, ids=lambda path: path.stem)
def test_every_student_parses_and_has_its_sections(path: Path) -> None:
    students = read_params(path)["students"]
    names = {f"{method}-{steps}" for method in students["methods"] for steps in students["steps"]}
    # DVC tracks each of them, so each is there, and none is left over.
    assert set(students) == {"methods", "steps", "common", *students["methods"], *names}
    for method in students["methods"]:
        for steps in students["steps"]:
            assert student_config({"students": students}, method, steps).batch_size > 0


def test_a_student_reads_common_then_its_method_then_its_own() -> None:
    students = {
        "common": {"iterations": 10, "batch_size": 4, "learning_rate": 1e-3, "teacher_steps": {"first": 8, "last": 16}},
        "cd": {"iterations": 20, "batch_size": 8},
        "cd-2": {"iterations": 30, "teacher_steps": {"last": 32}},
    }
    config = student_config({"students": students}, "cd", 2)
    assert (config.iterations, config.batch_size, config.learning_rate) == (30, 8, 1e-3)
    assert (config.teacher_steps.first, config.teacher_steps.last) == (8, 32)
    assert student_config({"students": students}, "cd", 4).iterations == 20
    assert student_config({"students": students}, "ct", 2).iterations == 10
    with pytest.raises(UserError, match="unknown key 'iteration'; did you mean 'iterations'"):
        student_config({"students": students | {"cd-2": {"iteration": 3}}}, "cd", 2)


def test_methods_of_the_parameters_are_known() -> None:
    assert {method for path in PARAMS for method in read_params(path)["students"]["methods"]} <= set(RECIPES)


# Commands

ASK_FOR_HELP = f"""
import sys
from pipelines.cli import main
try:
    main(sys.argv[1:])
except SystemExit as left:
    assert not left.code, left.code
print("imported:", *sorted(set({HEAVY!r}) & set(sys.modules)))
"""


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_answers_without_torch(command: str) -> None:
    output = run(sys.executable, "-c", ASK_FOR_HELP, *command.split(), "--help")
    assert output.startswith("usage: ")
    assert output.splitlines()[-1] == "imported:"
