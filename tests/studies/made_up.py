"""Made-up outcomes of a small image study, whose figures the tests know: a function of series, steps and seed."""

from pathlib import Path
from typing import Any

from pipelines.study.figures import Figures, figures
from pipelines.study.outcome import Outcome
from pipelines.study.schema import Study

STEPS = (1, 2, 4, 8)
SEEDS = (0, 1, 2)
FID = {"CT": 40.0, "CD": 20.0, "PD": 30.0}  # at one step, and half of it at two, above 10
LUCK = {"CT": (1, -1, 0), "CD": (-1, 0, 1), "PD": (0, 1, -1)}  # of each seed, at all steps
TEACHER = "teacher, aDDIM"
ABOUT = {
    "extractor": "FID (EffNet-Lite0@128)",
    "samples": 2000,
    "reference_samples": 3862,
    "noise_floor_fid": 9.5,
    "jobs": ["dataset-1", "evaluation-2"],
}


def outcome(series: str, steps: int, seed: int, fid: float | None, base: str = "emoji", **more: Any) -> Outcome:
    """A student's row, or the teacher's; None is one that is missing."""
    student = series != TEACHER
    return Outcome(
        study="small",
        base=base,
        series=series,
        method=series.lower() if student else "addim",
        steps=steps,
        nfe=steps,
        seed=seed,
        metrics={} if fid is None else {"fid": fid, "recall": 10 / fid},
        about={} if fid is None else ABOUT,
        **{"images": 25600 if student else None, "seconds": 60.0 + seed if student else None, **more},
    )


def outcomes(bases: tuple[str, ...] = ("emoji",), missing: tuple[tuple[str, int, int], ...] = ()) -> list[Outcome]:
    """Every series, steps and seed, and one row of the teacher; `missing` are (series, steps, seed)."""
    return [
        *(
            outcome(s, n, seed, None if (s, n, seed) in missing else FID[s] / n + LUCK[s][seed] + 10, base)
            for base in bases
            for s in FID
            for n in STEPS
            for seed in SEEDS
        ),
        *(outcome(TEACHER, 64, 0, 10.0, base) for base in bases),
    ]


def gathered(**more: Any) -> Figures:
    return figures(outcomes(**more), series=[*FID, TEACHER])


def study(**keys: Any) -> Study:
    """The study that these are the rows of."""
    rows: list[dict[str, Any]] = [{"series": name, "method": name.lower(), "steps": list(STEPS)} for name in FID]
    rows.append({"series": TEACHER, "sampler": {"name": "addim", "steps": 64}})
    values = {"title": "A small study", "base": "emoji", "seeds": list(SEEDS), "rows": rows, **keys}
    return Study.parse({"name": "small", "folder": Path("studies"), **values}, "studies/small.yaml")
