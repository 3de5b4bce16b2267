"""What follows from the figures: ratios to the teacher, speed-ups, the paper's ratios, the tables that DVC reads."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from components.report.checks import Check
from components.report.collect import METHODS, Row, Run, short

PAPER_TABLE = Path(__file__).parent / "paper" / "table1_imagenet.csv"
PAPER = "paper, Table 1, ImageNet64, 50\u202f000 samples, FID with Inception features"
PAPER_SIZES = ("small", "large")
HEADLINE_STEPS = 4


@dataclass(frozen=True)
class Compared:
    """A row beside the teacher's reference sampler and beside the paper."""

    row: Row
    ratio: float  # FID over the reference's FID
    speed_up: float  # the reference's seconds per image over this row's
    paper: tuple[float | None, ...]  # the paper's FID over its diffusion baseline's, one a size of PAPER_SIZES


def paper_ratios() -> dict[tuple[str, int, str], float]:
    """FID over the diffusion baseline's by (method, steps, size), for ImageNet64 (the paper's Table 1)."""
    table = pd.read_csv(PAPER_TABLE)
    table = table[table["dataset"] == "imagenet64"]
    ratios = {}
    for size, part in table.groupby("size"):
        baseline = part[part["model"] == "diffusion_addim"].iloc[0]
        students = part[part["model"] != "diffusion_addim"]
        for method in ("ct", "cd"):
            for steps, fid in zip(students["steps"], students[f"{method}_fid"], strict=True):
                ratios[method, int(steps), str(size)] = float(fid / baseline[f"{method}_fid"])
    return ratios


def compare(run: Run) -> list[Compared]:
    """Every row, the reference first, with its ratios."""
    paper, reference = paper_ratios(), run.reference
    return [
        Compared(
            row=row,
            ratio=row.metrics.fid / reference.metrics.fid,
            speed_up=reference.timing.seconds_per_image / row.timing.seconds_per_image,
            paper=tuple(paper.get((row.method, row.nfe, size)) for size in PAPER_SIZES),
        )
        for row in run.rows
    ]


def headline(run: Run, compared: list[Compared]) -> str:
    """The result in one sentence: CD at 4 evaluations where there is one, and else the student nearest to it."""
    order = list(METHODS)
    students = [item for item in compared if item.row.method != "teacher"]
    chosen = min(
        students,
        key=lambda item: (
            order.index(item.row.method) if item.row.method in order else len(order),
            max(item.row.nfe, HEADLINE_STEPS) / min(item.row.nfe, HEADLINE_STEPS),
        ),
    )
    row, reference = chosen.row, run.reference
    return (
        f"{short(row.method)} at {evaluations(row.nfe)}: {run.fid_name} {figure(row.metrics.fid)}, {chosen.ratio:.2f} "
        f"times the teacher's {figure(reference.metrics.fid)} at {reference.nfe} ({reference.sampler}), "
        f"and {pace(chosen.speed_up)}."
    )


def pace(speed_up: float) -> str:
    """A speed-up as words."""
    return f"{figure(speed_up)} times as fast" if speed_up >= 1 else f"{figure(1 / speed_up)} times slower"


def evaluations(nfe: int) -> str:
    return f"{nfe} evaluation" if nfe == 1 else f"{nfe} evaluations"


def figure(value: float | None, digits: int = 3) -> str:
    """A number with `digits` significant digits and no exponent; a dash where there is none."""
    if value is None:
        return "–"
    if value == 0:
        return "0"
    digit, exponent = f"{value:.{digits - 1}e}".split("e")
    places = max(0, digits - 1 - int(exponent))
    return f"{float(f'{digit}e{exponent}'):,.{places}f}".replace(",", "\u202f")


def dial(run: Run) -> pd.DataFrame:
    """Quality against cost, one line a row, for DVC's plots."""
    return pd.DataFrame(
        {
            "name": row.name,
            "method": row.method,
            "sampler": row.metrics.sampler.split("-")[0],
            "nfe": row.nfe,
            "fid": row.metrics.fid,
            "kid": row.metrics.kid,
            "seconds_per_image": row.timing.seconds_per_image,
        }
        for row in run.rows
    )


def summary(compared: list[Compared], checks: list[Check]) -> dict[str, float | int]:
    """Flat figures for DVC's metrics: `cd-4.fid`, `teacher.addim-64.kid`, and how many checks are met."""
    values: dict[str, float | int] = {}
    for item in compared:
        name, metrics = item.row.name, item.row.metrics
        values[f"{name}.fid"] = metrics.fid
        values[f"{name}.fid_ratio"] = item.ratio
        values[f"{name}.kid"] = metrics.kid
        values[f"{name}.precision"] = metrics.precision
        values[f"{name}.recall"] = metrics.recall
        values[f"{name}.seconds_per_image"] = item.row.timing.seconds_per_image
    values["checks.met"] = sum(check.met is True for check in checks)
    values["checks.missed"] = sum(check.met is False for check in checks)
    values["checks.not_measured"] = sum(check.met is None for check in checks)
    return values
