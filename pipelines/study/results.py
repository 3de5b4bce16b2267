"""From the store to outcomes: figures, and beside them what a clock measured."""

import json
from dataclasses import replace
from typing import Any

from mcm.artifacts import read_config
from pipelines.study.jobs import Job, Planned
from pipelines.study.outcome import Outcome
from pipelines.study.store import Store

METRICS = ("fid", "kid", "precision", "recall")


def outcomes(planned: list[Planned], store: Store) -> list[Outcome]:
    """All rows in the study's order; those that are not done have no metrics."""
    return [_outcome(each, store) for each in planned]


def _outcome(planned: Planned, store: Store) -> Outcome:
    row = planned.row
    jobs = list(dict.fromkeys(planned.last.chain()))
    student = next((job for job in jobs if job.kind == "student"), None)
    timing = _timing(student or planned.last, store)  # of a sampler's row, its evaluation: which code, on what
    seconds = timing.pop("training_seconds", None)
    outcome = Outcome(
        study=row.study,
        base=row.base,
        series=row.series,
        method=row.method,
        steps=row.steps,
        nfe=planned.nfe,
        seed=row.seed,
        settings=dict(row.settings),
        about={"jobs": [job.name for job in jobs]},
        images=None if student is None else student.images,
        seconds=None if student is None else seconds,
        measured=timing,
    )
    return _with_figures(outcome, planned.last, store) if store.done(planned.last) else outcome


def _with_figures(outcome: Outcome, job: Job, store: Store) -> Outcome:
    folder = store.folder(job)
    made = json.loads((folder / "metrics.json").read_text())
    if job.kind == "exact":
        return replace(outcome, nfe=made["nfe"], metrics=made["metrics"], about={**made["about"], **outcome.about})
    row, figures = next(iter(made.items()))
    floor = read_config(folder, "evaluation", 1)["floor"]
    about = {key: value for key, value in figures.items() if key not in (*METRICS, "nfe", "seed")}
    about |= {f"noise_floor_{key}": floor[key] for key in ("fid", "kid", "between", "counts")}
    sampling = store.measured(job, "sampling").get(row, {})
    return replace(
        outcome,
        nfe=figures["nfe"],
        metrics={key: figures[key] for key in METRICS},
        about={**about, **outcome.about},
        pictures=folder / "samples.npy",
        measured={**outcome.measured, "seconds_per_image": sampling.get("seconds_per_image")},
    )


def _timing(student: Job, store: Store) -> dict[str, Any]:
    """Training time: of a CPU what the one thread used, since others may share the core; of a GPU by the wall."""
    timing = store.measured(student)
    if not timing:
        return {}
    cpu = str(timing["device"]).startswith("cpu")
    kept: dict[str, Any] = {key: timing[key] for key in ("attempts", "device", "commit", "dirty") if key in timing}
    return {
        "training_seconds": timing["processor_seconds" if cpu else "seconds"],
        "clock": "processor seconds of one thread" if cpu else "seconds",
        **kept,
    }
