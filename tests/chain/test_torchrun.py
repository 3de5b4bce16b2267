"""Two processes under torchrun give the loss curve of one with the same global batch."""

import csv
import sys
from pathlib import Path

import pytest

from tests.chain.programs import run, write_params
from tests.conftest import tiny_params

pytestmark = pytest.mark.slow

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


def losses(folder: Path) -> list[float]:
    with (folder / "loss.csv").open(newline="") as opened:
        return [float(row["loss"]) for row in csv.DictReader(opened)]


def test_two_processes_train_as_one(tiny_dataset: Path, tmp_path: Path) -> None:
    params = tiny_params()
    params["network"]["dropout"] = 0.1
    params["students"]["common"]["accumulate"] = 2
    path = write_params(tmp_path / "params.yaml", params)
    for count in (1, 2):
        launch = [*TORCHRUN, str(count), "-m"]
        shared = ["--params", path, "--dataset", tiny_dataset, "--work", tmp_path / f"work{count}"]
        teacher = tmp_path / f"teacher{count}"
        run(*launch, "components.train_teacher", *shared, "--out", teacher)
        words = ["--method", "cd", "--student-steps", "2", "--teacher", tmp_path / "teacher1"]
        run(*launch, "components.train_student", *shared, *words, "--out", tmp_path / f"student{count}")
    for name in ("teacher", "student"):
        assert losses(tmp_path / f"{name}1") == pytest.approx(losses(tmp_path / f"{name}2"), rel=2e-4)
