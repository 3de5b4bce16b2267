"""Training stages killed as processes, by kill -9 and by SIGTERM: the same command ends with the same bytes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mcm.artifacts import folder_md5
from mcm.training.checkpoint import STATE
from tests.chain.programs import ROOT, environment, run, stage, write_params
from tests.conftest import tiny_params

pytestmark = pytest.mark.slow

EVERY, PAUSE, ITERATIONS = 5, 12, 30  # iterations between checkpoints, before the kill, and of the whole run
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ALONE = [sys.executable]


def paused(words: list[str], folder: Path, wait: str, ranks: int = 1) -> tuple["subprocess.Popen[bytes]", Path]:
    """A stage that stands still in iteration PAUSE, and the file of what it said so far."""
    said = folder / "said.log"
    launch = TORCHRUN if ranks > 1 else ALONE
    command = [*launch, "-m", "tests.chain.pausing", words[0], str(PAUSE), wait, str(folder / "mark"), *words[1:]]
    with said.open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=log, stderr=log)
    while not all((folder / f"mark-{rank}").exists() for rank in range(ranks)):
        assert process.poll() is None, f"the stage ended before it could be killed\n{said.read_text()}"
        time.sleep(0.02)
    return process, said


def checkpoints(work: Path) -> list[str]:
    return sorted(path.parent.name for path in work.glob(f"*/checkpoints/*/{STATE}"))


@pytest.fixture(scope="module")
def params(tmp_path_factory: pytest.TempPathFactory) -> Path:
    values = tiny_params()
    values["teacher"] |= {"iterations": ITERATIONS, "checkpoint_every": EVERY, "log_every": 4}
    values["students"]["common"] |= {"iterations": ITERATIONS, "checkpoint_every": EVERY, "log_every": 4}
    return write_params(tmp_path_factory.mktemp("params") / "params.yaml", values)


@pytest.fixture(scope="module")
def teacher(tiny_dataset: Path, params: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher trained without interruption."""
    folder = tmp_path_factory.mktemp("teacher")
    options = ["--params", params, "--dataset", tiny_dataset, "--out", folder / "teacher", "--work", folder / "work"]
    stage("train_teacher", *options)
    return folder / "teacher"


def words_of(params: Path, dataset: Path, folder: Path) -> list[str]:
    words = ["components.train_teacher", "--params", params, "--dataset", dataset, "--out", folder / "out"]
    return [str(word) for word in [*words, "--work", folder / "work"]]


def test_a_killed_teacher_run_ends_with_the_same_bytes(
    teacher: Path, params: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    words = words_of(params, tiny_dataset, tmp_path)
    process, _ = paused(words, tmp_path, "kill")
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    assert checkpoints(tmp_path / "work") == ["checkpoint-00000005", "checkpoint-00000010"]
    run(*ALONE, "-m", *words)
    assert folder_md5(tmp_path / "out") == folder_md5(teacher)
    assert not list(tmp_path.glob("work/*/checkpoints/*"))


@pytest.mark.parametrize("method", ["cd", "ct"])
def test_a_killed_student_run_ends_with_the_same_bytes(
    teacher: Path, params: Path, tiny_dataset: Path, tmp_path: Path, method: str
) -> None:
    def options(name: str) -> list[str]:
        words = ["--params", params, "--method", method, "--student-steps", 2, "--dataset", tiny_dataset]
        words += ["--teacher", teacher, "--out", tmp_path / name, "--work", tmp_path / f"{name}-work"]
        return [str(word) for word in words]

    stage("train_student", *options("whole"))
    process, _ = paused(["components.train_student", *options("killed")], tmp_path, "kill")
    process.kill()
    assert process.wait() == -signal.SIGKILL
    stage("train_student", *options("killed"))
    assert folder_md5(tmp_path / "killed") == folder_md5(tmp_path / "whole")


def test_sigterm_writes_a_checkpoint_and_leaves_with_one_line(
    teacher: Path, params: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    words = words_of(params, tiny_dataset, tmp_path)
    process, said = paused(words, tmp_path, "term")
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 143
    line = f"stopped by SIGTERM at iteration {PAUSE} of {ITERATIONS}; the same command goes on from there"
    assert said.read_text().splitlines()[-1] == line
    assert "Traceback" not in said.read_text() and not (tmp_path / "out").exists()
    assert checkpoints(tmp_path / "work")[-1] == f"checkpoint-{PAUSE:08d}"
    run(*ALONE, "-m", *words)
    assert folder_md5(tmp_path / "out") == folder_md5(teacher)


@pytest.mark.parametrize("who", ["torchrun", "one worker"])
def test_two_processes_stop_at_the_same_iteration(params: Path, tiny_dataset: Path, tmp_path: Path, who: str) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "stopped").mkdir()
    run(*TORCHRUN, "-m", *words_of(params, tiny_dataset, tmp_path / "whole"))
    words = words_of(params, tiny_dataset, tmp_path / "stopped")
    process, said = paused(words, tmp_path / "stopped", "term" if who == "torchrun" else "first", ranks=2)
    if who == "torchrun":
        process.send_signal(signal.SIGTERM)  # which it passes on to both
    else:
        os.kill(int((tmp_path / "stopped" / "mark-1").read_text()), signal.SIGTERM)
    assert process.wait() == 1  # torchrun's own status for a group that did not end well
    lines = [line for line in said.read_text().splitlines() if line.startswith("stopped by SIGTERM")]
    # The answer to a vote comes one iteration later.
    assert lines == [
        f"stopped by SIGTERM at iteration {PAUSE + 1} of {ITERATIONS}; the same command goes on from there"
    ]
    assert checkpoints(tmp_path / "stopped" / "work")[-1] == f"checkpoint-{PAUSE + 1:08d}"
    run(*TORCHRUN, "-m", *words)
    assert folder_md5(tmp_path / "stopped" / "out") == folder_md5(tmp_path / "whole" / "out")
