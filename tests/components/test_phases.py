"""A student of several phases: each starts where the last one ended, on draws of its own, and none is run twice."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import components.students as students
from components.phases import Made
from components.train_student.stage import train_student
from components.train_teacher.stage import train_teacher
from mcm.artifacts import folder_md5
from mcm.denoiser import Denoiser
from mcm.errors import UserError
from mcm.methods.consistency import ConsistencyDistillation
from mcm.methods.interface import Batch, Draws, Method
from mcm.methods.recipe import Phase, Setting
from mcm.methods.recipes import RECIPES
from mcm.model import load_denoiser
from tests.conftest import tiny_params
from tests.storage.server import BUCKET, Server

ITERATIONS = 6


@dataclass
class Seen:
    """What the phases of a run were made from."""

    settings: list[Setting] = field(default_factory=list)
    starts: list[dict[str, Tensor]] = field(default_factory=list)  # weights at the first loss of each phase
    noise: list[Tensor] = field(default_factory=list)
    stop_in: int | None = None  # the phase whose second loss raises


SEEN = Seen()


@dataclass
class Watched:
    inner: Method
    number: int

    def loss(self, student: Any, batch: Batch, draws: Draws, iteration: int) -> Tensor:
        if iteration == 0:
            SEEN.starts.append({name: value.detach().clone() for name, value in student.named_parameters()})
        SEEN.noise.append(draws.eps)
        if iteration == 1 and self.number == SEEN.stop_in:
            raise KeyboardInterrupt
        return self.inner.loss(student, batch, draws, iteration)


class Halving(ConsistencyDistillation):
    """CD of 4 steps, whose student then is the teacher of one of `student_steps`."""

    title: ClassVar[str] = "halving"

    def phases(self, student_steps: int, iterations: int) -> tuple[Phase, ...]:
        return Phase(4, iterations // 2), Phase(student_steps, iterations - iterations // 2)

    def make(self, setting: Setting) -> Any:
        SEEN.settings.append(setting)
        return Watched(super().make(setting), len(SEEN.settings))


@pytest.fixture(autouse=True)
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    global SEEN
    SEEN = Seen()
    monkeypatch.setitem(RECIPES, "halving", Halving)
    students.config_type.cache_clear()
    return SEEN


def params() -> dict[str, Any]:
    values = tiny_params()
    values["teacher"] |= {"iterations": 4}
    values["students"]["common"] |= {"iterations": ITERATIONS, "checkpoint_every": 1}
    return values


@pytest.fixture(scope="module")
def teacher(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phases")
    train_teacher(params(), tiny_dataset, folder / "teacher", folder / "work")
    return folder / "teacher"


def test_a_phase_starts_from_the_last_and_asks_it(
    seen: Seen, teacher: Path, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def kept(self: Made) -> None:
        made.append(load_denoiser(self.folder))

    monkeypatch.setattr(Made, "clear", kept)
    train_student(params(), "halving", 1, tiny_dataset, teacher, tmp_path / "out", tmp_path / "work")
    first, second = seen.settings
    assert (first.phase, first.before) == (Phase(4, 3), None)
    assert (second.phase, second.before) == (Phase(1, 3), Phase(4, 3))
    assert made[0].config["student_steps"] == 1 and made[0].config["phase"] == 1
    between = dict(made[0].denoiser.named_parameters())
    assert isinstance(second.teacher, Denoiser) and isinstance(first.teacher, Denoiser)
    for name, value in second.teacher.named_parameters():
        torch.testing.assert_close(value, between[name], rtol=0, atol=0)
        torch.testing.assert_close(seen.starts[1][name], between[name], rtol=0, atol=0)
    for name, value in load_denoiser(teacher).denoiser.named_parameters():
        torch.testing.assert_close(seen.starts[0][name], value, rtol=0, atol=0)
    assert any(not torch.equal(seen.starts[0][name], seen.starts[1][name]) for name in between)


def test_no_draw_is_seen_twice(seen: Seen, teacher: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    train_student(params(), "halving", 1, tiny_dataset, teacher, tmp_path / "out", tmp_path / "work")
    eps = torch.stack(seen.noise)
    assert len(eps) == ITERATIONS
    assert len(torch.unique(eps.flatten(1), dim=0)) == ITERATIONS


@pytest.mark.parametrize("phase", [1, 2])
def test_a_run_stopped_in_any_phase_goes_on_there_and_ends_with_the_same_bytes(
    seen: Seen, teacher: Path, tiny_dataset: Path, tmp_path: Path, phase: int
) -> None:
    def run(name: str) -> None:
        train_student(params(), "halving", 1, tiny_dataset, teacher, tmp_path / name / "out", tmp_path / name / "work")

    run("whole")
    seen.settings.clear()
    seen.stop_in = phase
    with pytest.raises(KeyboardInterrupt):
        run("stopped")
    assert not (tmp_path / "stopped" / "out").exists()
    seen.stop_in = None
    seen.settings.clear()
    run("stopped")
    assert len(seen.settings) == 3 - phase, "a phase that had ended ran again"
    assert folder_md5(tmp_path / "stopped" / "out") == folder_md5(tmp_path / "whole" / "out")
    left = list((tmp_path / "stopped" / "work").rglob("*.safetensors"))
    assert left == [], "checkpoints and phases go once the student is whole"


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = Server(tmp_path / "gcs")
    server.start()
    server.create(BUCKET)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{server.port}")
    yield f"gs://{BUCKET}/state"
    server.stop()


def test_phases_outlive_the_machine(
    seen: Seen, teacher: Path, tiny_dataset: Path, tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the second phase, the run goes on from a bucket where nothing of it is on disk."""
    train_student(params(), "halving", 1, tiny_dataset, teacher, tmp_path / "whole", tmp_path / "work")
    seen.settings.clear()
    seen.stop_in = 2
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "one"))
    with pytest.raises(KeyboardInterrupt):
        train_student(params(), "halving", 1, tiny_dataset, teacher, tmp_path / "out", bucket, lambda: True)
    seen.stop_in = None
    seen.settings.clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    train_student(params(), "halving", 1, tiny_dataset, teacher, tmp_path / "out", bucket, lambda: True)
    assert len(seen.settings) == 1
    assert folder_md5(tmp_path / "out") == folder_md5(tmp_path / "whole")


def test_keys_of_another_method_are_unknown() -> None:
    with pytest.raises(UserError, match="method 'cdd' is unknown; did you mean 'cd'"):
        students.student_config(params(), "cdd", 1)
