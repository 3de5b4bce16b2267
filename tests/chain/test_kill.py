"""kill -9 in the middle of a training stage, as a process: the same command ends with the same bytes."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from mcm.artifacts import folder_md5
from tests.chain.programs import ROOT, environment, stage, write_params
from tests.conftest import tiny_params

pytestmark = pytest.mark.slow


def kill_once_checkpointed(options: list[str], work: Path) -> None:
    """Start a training stage, wait for its first checkpoint, and kill it where it stands."""
    said = work.with_suffix(".log")
    with said.open("w") as log:
        process = subprocess.Popen([sys.executable, "-m", *options], cwd=ROOT, env=environment(), stderr=log)
    while not list(work.glob("*/checkpoints/checkpoint-*")):
        assert process.poll() is None, f"the stage ended before it could be killed\n{said.read_text()}"
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -9


@pytest.fixture(scope="module")
def teacher(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A teacher trained without interruption, and the parameters of long enough runs."""
    folder = tmp_path_factory.mktemp("teacher")
    params = tiny_params()
    params["teacher"] |= {"iterations": 600, "checkpoint_every": 10}
    params["students"]["common"] |= {"iterations": 400, "checkpoint_every": 10}
    path = write_params(folder / "params.yaml", params)
    options = ["--params", path, "--dataset", tiny_dataset, "--out", folder / "teacher", "--work", folder / "work"]
    stage("train_teacher", *options)
    return folder / "teacher", path


def test_a_killed_teacher_run_ends_with_the_same_bytes(
    teacher: tuple[Path, Path], tiny_dataset: Path, tmp_path: Path
) -> None:
    whole, params = teacher
    options = ["--params", params, "--dataset", tiny_dataset, "--out", tmp_path / "out", "--work", tmp_path / "work"]
    words = [str(word) for word in options]
    kill_once_checkpointed(["components.train_teacher", *words], tmp_path / "work")
    assert not (tmp_path / "out").exists()
    stage("train_teacher", *words)
    assert folder_md5(tmp_path / "out") == folder_md5(whole)
    assert not list(tmp_path.glob("work/*/checkpoints/*"))


@pytest.mark.parametrize("method", ["cd", "ct"])
def test_a_killed_student_run_ends_with_the_same_bytes(
    teacher: tuple[Path, Path], tiny_dataset: Path, tmp_path: Path, method: str
) -> None:
    folder, params = teacher

    def options(name: str) -> list[str]:
        words = ["--params", params, "--method", method, "--student-steps", 2, "--dataset", tiny_dataset]
        words += ["--teacher", folder, "--out", tmp_path / name, "--work", tmp_path / f"{name}-work"]
        return [str(word) for word in words]

    stage("train_student", *options("whole"))
    kill_once_checkpointed(["components.train_student", *options("killed")], tmp_path / "killed-work")
    stage("train_student", *options("killed"))
    assert folder_md5(tmp_path / "killed") == folder_md5(tmp_path / "whole")
