"""Every method of RECIPES through the stage, on real files: a student that can be sampled, and taught from again."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.train_student.stage import train_student
from components.train_teacher.stage import train_teacher
from mcm.artifacts import folder_md5
from mcm.errors import UserError
from mcm.methods.recipes import RECIPES
from mcm.model import load_denoiser
from mcm.samplers import SamplerConfig, generate
from tests.conftest import tiny_params

ITERATIONS = 4
# What a method cannot do without in so short a run, and how many steps its student has.
KEYS: dict[str, tuple[int, dict[str, Any]]] = {
    "cd": (2, {"teacher_steps": {"first": 8, "last": 8, "iterations": 0}}),
    "ct": (2, {"teacher_steps": {"first": 8, "last": 8, "iterations": 0}}),
    "pd": (2, {"first_steps": 8}),
    "tract": (2, {"first_steps": 16, "between": [4], "emas": [0.9, 0.5]}),
    "cm": (1, {"target_ema": 0.9}),
    "cmd": (1, {}),
    "ict": (1, {}),
    "ect": (1, {"gap": {"d": 2}}),
    "ctm": (2, {"teacher_steps": {"first": 8, "last": 8, "iterations": 0}, "solver_steps": 3}),
    "gd": (2, {"guidance": 1.0}),
    "diffusion": (2, {}),
}


def params(method: str) -> dict[str, Any]:
    values = tiny_params()
    values["teacher"] |= {"iterations": 4, "label_dropout": 0.2}
    common = {key: value for key, value in values["students"]["common"].items() if key != "teacher_steps"}
    values["students"] = {"common": common | {"iterations": ITERATIONS}, method: KEYS[method][1]}
    return values


@pytest.fixture(scope="module")
def teacher(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    train_teacher(params("cd"), tiny_dataset, folder / "teacher", folder / "work")
    return folder / "teacher"


@pytest.mark.parametrize("method", RECIPES)
def test_a_student_of_any_method_is_trained_and_sampled(
    method: str, teacher: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    steps, _ = KEYS[method]
    for name in ("one", "two"):
        train_student(params(method), method, steps, tiny_dataset, teacher, tmp_path / name, tmp_path / f"{name}-work")
    assert folder_md5(tmp_path / "one") == folder_md5(tmp_path / "two")
    loaded = load_denoiser(tmp_path / "one")
    assert (loaded.config["method"], loaded.config["student_steps"]) == (method, steps)
    sampler = SamplerConfig(name="ddim", steps=steps, clip=False)
    images = np.concatenate(
        [batch.numpy() for batch in generate(loaded.denoiser, sampler, loaded.schedule, 0, 4, loaded.shape, 2, 4)]
    )
    assert images.shape == (4, 16, 16, 3) and images.std() > 0


def test_the_student_of_a_guided_teacher_is_a_teacher_itself(teacher: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    train_student(params("gd"), "gd", 2, tiny_dataset, teacher, tmp_path / "gd", tmp_path / "work")
    train_student(params("cd"), "cd", 2, tiny_dataset, tmp_path / "gd", tmp_path / "cd", tmp_path / "work")
    inputs = load_denoiser(tmp_path / "cd").config["inputs"]
    assert inputs["teacher"] == folder_md5(tmp_path / "gd")


def test_a_student_that_reads_ends_is_no_teacher_of_one_that_does_not(
    teacher: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    train_student(params("ctm"), "ctm", 2, tiny_dataset, teacher, tmp_path / "ctm", tmp_path / "work")
    with pytest.raises(UserError, match="told where its steps end"):
        train_student(params("cd"), "cd", 2, tiny_dataset, tmp_path / "ctm", tmp_path / "cd", tmp_path / "work")
    assert not (tmp_path / "cd").exists()


@pytest.mark.parametrize("method", ["cm", "cmd", "ict", "ect"])
def test_a_consistency_model_has_one_step(method: str, teacher: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"'students' \\({method}-2\\): student_steps is 2"):
        train_student(params(method), method, 2, tiny_dataset, teacher, tmp_path / "out", tmp_path / "work")


def test_the_cases_are_those_of_the_registry() -> None:
    assert set(KEYS) == set(RECIPES)
