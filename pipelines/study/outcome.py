"""One figure row of a study: what one student, or one sampler of the teacher, came to with one seed."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """A row of `results.csv`: a function of the study's content, but for `seconds` and where `pictures` lie.

    `metrics` are those of the evaluation (`fid`, `kid`, `precision`, `recall`) or of the exact mixture. `about` says
    what they mean: `extractor`, `samples`, `reference_samples`, `noise_floor_fid`, and `jobs` (the names of the
    folders in the store that the row came from).
    """

    study: str
    base: str
    series: str
    method: str
    """Of a student, its method; of a sampler, its name (`ddim`, `dpmpp`, ...)."""
    steps: int
    """Student steps, or the sampler's steps."""
    nfe: int
    """Network evaluations per sample."""
    seed: int
    settings: dict[str, Any] = field(default_factory=dict)
    """What the row sets: dotted keys of parameters, and for a sampler its own keys."""
    metrics: dict[str, float] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    images: int | None = None
    """Training images seen by the student, in all phases: iterations x batch. None for a sampler."""
    seconds: float | None = None
    """Measured training time of the student. None for a sampler, or where it was not measured."""
    pictures: Path | None = None
    """`samples.npy` of the evaluation: the first samples, uint8 `[N, H, W, C]`, of one noise a seed."""
    measured: dict[str, Any] = field(default_factory=dict)
    """What differs from run to run, for timings.csv and never for results.csv: `clock`, `attempts`, `device`,
    `seconds_per_image`, `commit`."""

    @property
    def is_student(self) -> bool:
        """Whether the row is a student; otherwise it is a sampler of the teacher."""
        return self.images is not None
