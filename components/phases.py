"""The phases of a student, one after another. What they hand on is kept beside their checkpoints until it is whole."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.storage import delete, exists, fetch, is_remote, upload
from components.students import StudentConfig
from components.training import Publish, local_work
from mcm.artifacts import CONFIG, cache_folder
from mcm.methods.recipe import Phase


@dataclass(frozen=True)
class Made:
    """The denoiser of one phase, in `folder` and, where training state lies in a bucket, at `uri`."""

    folder: Path
    uri: str | None

    @classmethod
    def of(cls, work: Path | str, name: str, identity: Mapping[str, Any]) -> "Made":
        """That of the phase `name` with `identity`, whose checkpoints lie under `work`."""
        here = local_work(work, name, identity)
        there = f"{str(work).rstrip('/')}/{here.name}/made" if is_remote(work) else None
        return cls(here / "made", there)

    def ended(self) -> bool:
        """Whether the phase has ended, and all of this is there."""
        return (self.folder / CONFIG).is_file() if self.uri is None else exists(f"{self.uri}/{CONFIG}")

    def there(self) -> Path:
        """A local folder of it."""
        return self.folder if self.uri is None else fetch(self.uri, cache_folder() / "objects")

    def publish(self) -> bool:
        """Copy it to the bucket; whether there is one."""
        if self.uri is not None:
            upload(self.folder, self.uri)
        return self.uri is not None

    def clear(self) -> None:
        """Remove it, there and here."""
        if self.uri is not None:
            delete(self.uri)
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass(frozen=True)
class Source:
    """Where a phase starts and whom it asks: the teacher, or what the phase before has made."""

    folder: Path
    ema: str | None
    before: Phase | None = None
    begin: int = 0  # iterations of the phases before


@dataclass(frozen=True)
class Run:
    """One run of the loop: a phase of the student `name`, from `source` to a denoiser in `out`."""

    name: str
    phase: Phase
    source: Source
    identity: Mapping[str, Any]
    out: Path
    publish: Publish | None


def train_phases(
    name: str,
    config: StudentConfig,
    student_steps: int,
    teacher: Path,
    identity: Mapping[str, Any],
    out: Path,
    work: Path | str,
    train: Callable[[Run], bool],
    publish: Publish | None = None,
) -> None:
    """Train a student from `teacher` to `out`, phase after phase; one that has ended before is not run again.

    `train` does one, and says whether state beside what it made is needed no more.
    """
    *between, last = config.phases(student_steps, config.iterations)
    handed: list[Made] = []
    source = Source(teacher, config.teacher_ema)
    for number, phase in enumerate(between, 1):
        own_name, own = f"{name}-phase{number}", {**identity, "phase": number}
        made = Made.of(work, own_name, own)
        if not made.ended():
            train(Run(own_name, phase, source, own, made.folder, made.publish))
        handed.append(made)
        source = Source(made.there(), None, phase, source.begin + phase.iterations)
    if train(Run(name, last, source, identity, out, publish)):
        for made in handed:
            made.clear()
