"""The case `pipeline`: its tiny project is finished, and what it calls a start is one."""

from pathlib import Path

import pytest

from benchmarks import tiny
from benchmarks.cases.pipeline import _program

STAGES = ("prepare_data", "train_teacher", "estimate_variance", "train_student", "evaluate", "report")


def ran(output: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith("Running stage")]


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_is_one_function_of_its_name(name: str) -> None:
    """The case takes its place to see when it is called."""
    assert f"\ndef {name}(" in (tiny.ROOT / "components" / name / "stage.py").read_text()
    assert f"import {name}" in (tiny.ROOT / "components" / name / "__main__.py").read_text()


@pytest.mark.slow
def test_the_second_repro_of_the_tiny_project_runs_nothing(tmp_path: Path) -> None:
    (stage,) = tiny.make_project(tmp_path / "project", "prepare_data")
    assert stage.name == "prepare_data"
    assert stage.took.seconds > 0
    assert stage.took.bytes > 2**20
    assert not ran(tiny.dvc("repro", "prepare_data", cwd=tmp_path / "project"))
    out = tmp_path / "out"
    words = [out if word == "artifacts/dataset" else word for word in stage.words]
    _program("start", "prepare_data", [str(word) for word in words], tmp_path / "project")()
    assert not out.exists()


@pytest.mark.slow
def test_the_second_repro_of_trivial_stages_runs_nothing(tmp_path: Path) -> None:
    tiny.make_trivial(tmp_path / "trivial", 2)
    assert not ran(tiny.dvc("repro", cwd=tmp_path / "trivial"))
    assert (tmp_path / "trivial" / "1.txt").read_text() == "1"
