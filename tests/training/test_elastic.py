"""A worker is killed: torchrun starts all of them again, and the run ends with the bytes of one that was left alone."""

import sys
from pathlib import Path

import pytest

from mcm.artifacts import folder_md5
from tests.chain.programs import run, write_params
from tests.conftest import tiny_params

pytestmark = pytest.mark.slow

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def test_a_killed_worker_does_not_end_the_run(tiny_dataset: Path, tmp_path: Path) -> None:
    params = tiny_params()
    params["teacher"] |= {"iterations": 20, "checkpoint_every": 4, "log_every": 4, "parallel": "fsdp"}
    options = ["--params", str(write_params(tmp_path / "params.yaml", params)), "--dataset", str(tiny_dataset)]

    def words(name: str) -> list[str]:
        return [*options, "--out", str(tmp_path / name), "--work", str(tmp_path / f"{name}-work")]

    run(*TORCHRUN, "-m", "components.train_teacher", *words("whole"))
    restarting = [*TORCHRUN, "--max-restarts", "1", "-m", "tests.training.dying", "components.train_teacher"]
    run(*restarting, "14", str(tmp_path / "note"), *words("killed"))
    notes = {path.name[-3:]: path.read_text().split() for path in tmp_path.glob("note-*")}
    assert sorted(notes) == ["0-0", "0-1", "1-0", "1-1"] and len({pid for pid, _ in notes.values()}) == 4
    begins = {start: int(first) for start, (_, first) in notes.items()}
    assert begins["0-0"] == begins["1-0"] == 0
    assert begins["0-1"] == begins["1-1"] in (4, 8, 12)  # what was whole when the worker died
    assert folder_md5(tmp_path / "killed") == folder_md5(tmp_path / "whole")
    assert not list(tmp_path.glob("killed-work/*/checkpoints/*"))
