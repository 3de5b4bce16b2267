"""The marks this project sets itself, each with its value, its bound, and whether it is met. Nothing is rounded."""

import itertools
from dataclasses import asdict, dataclass
from typing import Any

from components.report.collect import Row, Run, short

# FID of CD over the teacher's, at most, by student steps.
CD_RATIO = {8: 1.10, 4: 1.25, 2: 1.6, 1: 3.0}
TEACHER_OVER_DDIM, TEACHER_DDIM_STEPS = 0.5, 2
IMPROVING = (1, 2, 4)


@dataclass(frozen=True)
class Check:
    """`value` must be at most `bound`, or below it where `strict`; `met` is None where it was not measured."""

    name: str
    what: str
    value: float | None
    bound: float
    strict: bool
    met: bool | None

    @property
    def relation(self) -> str:
        return "below" if self.strict else "at most"


def check(name: str, what: str, over: Row | None, under: Row | None, bound: float, strict: bool = False) -> Check:
    """Check the FID of `over` divided by that of `under` against a bound."""
    if over is None or under is None:
        return Check(name, what, None, bound, strict, None)
    value = over.metrics.fid / under.metrics.fid
    return Check(name, what, value, bound, strict, value < bound if strict else value <= bound)


def checks(run: Run) -> list[Check]:
    """Every mark: a teacher worth distilling, CD near it, students better than plain DDIM, more steps better."""
    plain = {row.nfe: row for row in run.teacher if row.plain_ddim}
    found = [
        check(
            "teacher-over-ddim",
            f"teacher, {run.reference.sampler} at {run.reference.nfe}, over its own DDIM at {TEACHER_DDIM_STEPS}",
            run.reference,
            plain.get(TEACHER_DDIM_STEPS),
            TEACHER_OVER_DDIM,
        )
    ]
    for steps, bound in CD_RATIO.items():
        student = run.student("cd", steps)
        found.append(
            check(f"cd-{steps}-over-teacher", f"CD at {steps} over the teacher", student, run.reference, bound)
        )
    for row in run.students:
        found.append(
            check(
                f"{row.name}-over-ddim",
                f"{short(row.method)} at {row.nfe} over the teacher's DDIM at {row.nfe}",
                row,
                plain.get(row.nfe),
                1.0,
                strict=True,
            )
        )
    for method in run.methods:
        for fewer, more in itertools.pairwise(IMPROVING):
            found.append(
                check(
                    f"{method}-{more}-over-{method}-{fewer}",
                    f"{short(method)} at {more} over {short(method)} at {fewer}",
                    run.student(method, more),
                    run.student(method, fewer),
                    1.0,
                    strict=True,
                )
            )
    return found


def as_json(found: list[Check], fid_name: str) -> dict[str, Any]:
    """What `checks.json` holds."""
    return {"value": f"ratio of {fid_name}", "checks": [asdict(item) for item in found]}
