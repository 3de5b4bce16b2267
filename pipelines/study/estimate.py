"""How long what is left of a study will take, from what was measured of jobs of the same kind."""

from collections import defaultdict
from collections.abc import Iterable

from pipelines.study.jobs import Job
from pipelines.study.store import Store


def left(todo: Iterable[Job], known: Iterable[Job], store: Store) -> float | None:
    """Seconds of one worker for the jobs `todo`; None where none of `known` of such a kind was measured.

    Work is measured in images that the network runs on: students are told apart by their method where one was
    measured, and else not.
    """
    seconds: dict[tuple[str, str], float] = defaultdict(float)
    units: dict[tuple[str, str], float] = defaultdict(float)
    for job in known:
        measured = store.measured(job)
        if store.done(job) and "seconds" in measured:
            for key in _keys(job):
                seconds[key] += measured["seconds"]
                units[key] += job.units
    total = 0.0
    for job in todo:
        rates = [seconds[key] / units[key] for key in _keys(job) if units[key]]
        if not rates:
            return None
        total += rates[0] * job.units
    return total


def _keys(job: Job) -> tuple[tuple[str, str], tuple[str, str]]:
    return (job.kind, str(job.arguments.get("method", ""))), (job.kind, "")


def spoken(seconds: float) -> str:
    """`40 s`, `12 min` or `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
