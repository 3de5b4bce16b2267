"""Bad input to the training stages: one line with what, where and what to do, exit status 2, and nothing harmed."""

import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.train_student.__main__ import main as train_student
from components.train_teacher.__main__ import main as train_teacher
from mcm.artifacts import folder_md5
from tests.conftest import tiny_params

Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def teacher(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    run(train_teacher, folder, tiny_params(), "--dataset", tiny_dataset)
    return folder / "out"


def run(main: Any, folder: Path, params: dict[str, Any], *options: str | Path) -> None:
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    words = ["--params", folder / "params.yaml", "--out", folder / "out", "--work", folder / "work", *options]
    main([str(word) for word in words])


def refused(
    capsys: pytest.CaptureFixture[str], main: Any, folder: Path, params: dict[str, Any], *options: str | Path
) -> str:
    """The one line that a program says before it leaves with status 2, with what stood at `out` untouched."""
    (folder / "out").mkdir(exist_ok=True)
    (folder / "out" / "kept").write_text("as it was")
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        run(main, folder, params, *options)
    said = [line for line in capsys.readouterr().err.splitlines() if line and "it/s" not in line and "?it" not in line]
    assert left.value.code == 2 and len(said) == 1 and said[0].startswith("error: "), said
    assert [path.name for path in (folder / "out").iterdir()] == ["kept"]
    return said[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p["network"].update(preset="uvit_tny"), "did you mean 'uvit_tiny'?"),
        (lambda p: p["teacher"].update(learning_rat=1), "did you mean 'learning_rate'?"),
        (lambda p: p.update(techer={}), "unknown section 'techer'; did you mean 'teacher'?"),
        (lambda p: p["teacher"].update(batch_size=1000), "fewer than a batch of 1000"),
        (lambda p: p["teacher"].update(iterations=0), "'iterations' is 0"),
        (lambda p: p["teacher"].pop("iterations"), "'iterations' is missing"),
        (lambda p: p["teacher"].update(emas=[1.5]), "an EMA decay lies in [0, 1)"),
        (lambda p: p["teacher"].update(accumulate=3), "does not split into 3 micro-batches"),
        (lambda p: p["teacher"].update(learning_rate=1e30, clip_norm=1e30), "not finite"),
        (lambda p: p["network"].update(preset="mlp"), "is for points"),
        (lambda p: p["network"].update(preset="imagenet64_small", dropout=2), "dropout"),
    ],
)
def test_a_teacher_is_refused(
    capsys: pytest.CaptureFixture[str], tiny_dataset: Path, tmp_path: Path, change: Change, message: str
) -> None:
    params = tiny_params()
    change(params)
    assert message in refused(capsys, train_teacher, tmp_path, params, "--dataset", tiny_dataset)


@pytest.mark.parametrize(
    ("method", "steps", "message"),
    [
        ("cd", "0", "student_steps is 0: choose 1 or more"),
        ("cd", "9", "student_steps is 9: choose 1 to 8"),
        ("cdd", "1", "method 'cdd' is unknown; did you mean 'cd'?"),
    ],
)
def test_a_student_is_refused(
    capsys: pytest.CaptureFixture[str],
    teacher: Path,
    tiny_dataset: Path,
    tmp_path: Path,
    method: str,
    steps: str,
    message: str,
) -> None:
    options = ["--dataset", tiny_dataset, "--teacher", teacher, "--method", method, "--student-steps", steps]
    assert message in refused(capsys, train_student, tmp_path, tiny_params(), *options)


def truncate(folder: Path) -> None:
    for file in folder.glob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:-50])


def widen(folder: Path) -> None:
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"embedding": 32', '"embedding": 64'))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "truncated or not safetensors"),
        (widen, "has shape"),
        (lambda folder: (folder / "config.json").unlink(), "no config.json here, so this is not a denoiser"),
        (lambda folder: (folder / "config.json").write_text("{"), "not readable as JSON"),
    ],
)
def test_a_damaged_teacher_is_refused(
    capsys: pytest.CaptureFixture[str],
    teacher: Path,
    tiny_dataset: Path,
    tmp_path: Path,
    damage: Callable[[Path], object],
    message: str,
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(teacher, damaged)
    damage(damaged)
    options = ["--dataset", tiny_dataset, "--teacher", damaged, "--method", "cd", "--student-steps", "2"]
    assert message in refused(capsys, train_student, tmp_path, tiny_params(), *options)


def test_a_data_set_is_no_teacher(capsys: pytest.CaptureFixture[str], tiny_dataset: Path, tmp_path: Path) -> None:
    options = ["--dataset", tiny_dataset, "--teacher", tiny_dataset, "--method", "cd", "--student-steps", "2"]
    said = refused(capsys, train_student, tmp_path, tiny_params(), *options)
    assert "this is a dataset, and a denoiser is needed" in said


def test_a_disk_without_room_leaves_what_was_there(teacher: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk: the stage stops, and its output is what it was."""
    out = tmp_path / "out"
    shutil.copytree(teacher, out)
    before = folder_md5(out)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tiny_params()))
    words = ["--params", tmp_path / "params.yaml", "--out", out, "--work", tmp_path / "work", "--dataset", tiny_dataset]
    done = subprocess.run(
        [sys.executable, "-m", "components.train_teacher", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr and "error: " in done.stderr.splitlines()[-1]
    assert folder_md5(out) == before
    assert not list(tmp_path.glob(".out*"))
