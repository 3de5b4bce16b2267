"""Claims that a study makes, judged by means and their spread over seeds: met, not met, or within the spread."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
from pydantic import Field, model_validator
from scipy.special import stdtr

from components.report.compare import evaluations
from mcm.config import Config
from mcm.errors import UserError
from pipelines.study.figures import NONE, PLACE, Figures, at, in_steps
from pipelines.study.tables import number, spread

LEVEL = 0.05  # of p: a difference whose p is no less lies within the spread

Verdict = Literal["met", "not met", "within the spread", "not measured"]


class Falls(Config):
    """`metric` of `series` falls with every step along `over`."""

    series: str
    metric: str
    over: Literal["steps", "nfe"] = "steps"
    at: tuple[int, ...] = Field((), description="values of `over`; none named: all that there are")
    base: str | None = None


class Within(Config):
    """`left` is at most `factor` times `right`, at the same steps or at `right_at` (the teacher's)."""

    left: str
    right: str
    metric: str
    factor: float = Field(gt=0)
    at: tuple[int, ...] = Field((), description="steps of left; none named: all that it has")
    right_at: int | None = None
    base: str | None = None


class Near(Config):
    """`metric` of `series` is `value` to within `tolerance`."""

    series: str
    metric: str
    value: float
    tolerance: float = Field(ge=0)
    at: tuple[int, ...] = Field((), description="steps; none named: all that it has")
    base: str | None = None


class CheckConfig(Config):
    """A claim in words, and one of: `left`, `right`, `metric`, `by`; `falls`; `within`; `near`.

    `left` is `by` (less or greater) than `right` at each of the steps `at`, in `base` or in each. `right_at` are the
    steps of the right one where they are its own (the teacher's).
    """

    claim: str = Field(min_length=1)
    left: str | None = None
    right: str | None = None
    metric: str | None = None
    at: tuple[int, ...] = Field((), description="steps of left; none named: all that both have")
    right_at: int | None = None
    base: str | None = None
    by: Literal["less", "greater"] = "less"
    falls: Falls | None = None
    within: Within | None = None
    near: Near | None = None

    @model_validator(mode="after")
    def _one(self) -> "CheckConfig":
        compares = any(value is not None for value in (self.left, self.right, self.metric))
        if compares + sum(kind is not None for kind in (self.falls, self.within, self.near)) != 1:
            raise ValueError("a check is one of: left, right and metric; falls; within; near")
        if compares and None in (self.left, self.right, self.metric):
            raise ValueError("a comparison needs left, right and metric")
        if not compares and (self.at or self.base or self.right_at is not None or self.by != "less"):
            raise ValueError("at, base, right_at and by of a check that is no comparison stand in its own section")
        return self


@dataclass(frozen=True, eq=False)
class Side:
    """One side of a claim: its figures by seed, and how they are printed."""

    values: pd.Series
    text: str

    @property
    def mean(self) -> float | None:
        """Over seeds; None where there is none."""
        return float(self.values.mean()) if len(self.values) else None


@dataclass(frozen=True)
class Result:
    """A claim at one place. `margin` is how far it is from being untrue, negative where it is; None: not measured.

    `p` is how likely a margin as far from 0 is where the true one is 0 (two-sided); None where one seed leaves the
    spread unknown.
    """

    place: str
    left: str
    relation: str
    right: str
    margin: float | None
    p: float | None

    @property
    def p_text(self) -> str:
        """p as it is printed."""
        return NONE if self.p is None else "< 0.001" if self.p < 0.001 else number(self.p, 2)

    @property
    def verdict(self) -> Verdict:
        """By the sign of the margin, where p is below LEVEL or not known."""
        if self.margin is None:
            return "not measured"
        if self.p is not None and self.p >= LEVEL:
            return "within the spread"
        return "met" if self.margin > 0 else "not met"


@dataclass(frozen=True)
class Check:
    """A claim and its results, one for each place that it speaks of."""

    claim: str
    metric: str  # its title
    results: tuple[Result, ...]

    @property
    def verdict(self) -> Verdict:
        """The worst of its results."""
        found = {result.verdict for result in self.results}
        ranked: tuple[Verdict, ...] = ("not met", "not measured", "within the spread")
        return next((verdict for verdict in ranked if verdict in found), "met" if found else "not measured")


def check(config: CheckConfig, found: Figures, where: str) -> Check:
    """Evaluate a claim. UserError for a series, base or metric that the study has not."""
    name, named, base = _names(config)
    found.check_series(named, where)
    found.check_bases([base] if base else [], where)
    found.check_metric(name, where)
    bases = (base,) if base else tuple(b for b in found.bases if all(_steps(found, b, series) for series in named))
    for steps in (config.falls or config.within or config.near or config).at:
        along = config.falls.over if config.falls else "steps"
        if not any(steps in _steps(found, b, named[0], along) for b in bases):
            words = in_steps(steps) if along == "steps" else evaluations(steps)
            raise UserError(f"{where}: '{named[0]}' has no row at {words}; give the study one, or drop it")
    results = [result for b in bases for result in _results(config, found, b)]
    return Check(config.claim, found.title(name, base), tuple(results))


def _names(config: CheckConfig) -> tuple[str, list[str], str | None]:
    """Metric, series and base that a claim speaks of."""
    part = config.falls or config.within or config.near
    if isinstance(part, Falls | Near):
        return part.metric, [part.series], part.base
    pair: Any = part or config
    return pair.metric, [pair.left, pair.right], pair.base


def _results(config: CheckConfig, found: Figures, base: str) -> Iterator[Result]:
    place = f"{base}, " if len(found.bases) > 1 else ""
    if config.falls:
        falls = config.falls
        values = sorted(falls.at or _steps(found, base, falls.series, falls.over))
        named = in_steps if falls.over == "steps" else evaluations
        for fewer, more in itertools.pairwise(values):
            left = _side(found, base, falls.series, falls.metric, more, falls.over)
            right = _side(found, base, falls.series, falls.metric, fewer, falls.over)
            yield _result(f"{place}{more} against {named(fewer)}", left, "less than", right)
    elif config.near:
        near = config.near
        for steps in near.at or _steps(found, base, near.series):
            side = _side(found, base, near.series, near.metric, steps)
            margin = None if side.mean is None else near.tolerance - abs(side.mean - near.value)
            relation = f"within {near.tolerance:g} of"
            p = _p(margin, side.values)
            yield Result(f"{place}{in_steps(steps)}", side.text, relation, f"{near.value:g}", margin, p)
    else:
        pair: Any = config.within or config
        shared = _steps(found, base, pair.left)
        if pair.right_at is None:
            shared = tuple(steps for steps in shared if steps in _steps(found, base, pair.right))
        for steps in pair.at or shared:
            against = steps if pair.right_at is None else pair.right_at
            left = _side(found, base, pair.left, pair.metric, steps)
            right = _side(found, base, pair.right, pair.metric, against)
            where = f"{place}{in_steps(steps) if against == steps else f'{steps} against {in_steps(against)}'}"
            if config.within:
                yield _result(where, left, f"at most {config.within.factor:g} ×", right, config.within.factor)
            elif config.by == "less":
                yield _result(where, left, "less than", right)
            else:
                yield _result(where, left, "greater than", right, sign=-1)


def _result(place: str, left: Side, relation: str, right: Side, factor: float = 1.0, sign: int = 1) -> Result:
    """`left` below `factor` times `right` (above it where `sign` is -1)."""
    margin = None
    if left.mean is not None and right.mean is not None:
        margin = sign * (factor * right.mean - left.mean)
    ours, theirs = left.values, factor * right.values
    paired = set(ours.index) == set(theirs.index)
    p = _p(margin, theirs - ours) if paired else _p(margin, ours, theirs)
    return Result(place, left.text, relation, right.text, margin, p)


def _p(margin: float | None, *samples: pd.Series) -> float | None:
    """Two-sided p of a margin that is a sum or difference of the means of independent samples: Student's t-test of one,
    Welch's of two.

    Sides with the same seeds are one sample, of their differences by seed: a seed gives every row the same images and
    noise, so that most of its luck is that of both sides. Degrees of freedom are those of Welch (1947) and
    Satterthwaite (1946), which of one sample are its size less one.
    """
    if margin is None or any(len(values) < 2 for values in samples):
        return None
    shares = [(values.var(ddof=1) / len(values), len(values) - 1) for values in samples]
    variance = sum(share for share, _ in shares)
    if not variance:  # all seeds came to the same
        return 0.0 if margin else 1.0
    freedom = variance**2 / sum(share**2 / free for share, free in shares)
    return float(2 * stdtr(freedom, -abs(margin) / math.sqrt(variance)))


def _side(found: Figures, base: str, series: str, name: str, value: int, along: str = "steps") -> Side:
    rows = at(found.summary, {"base": base, "series": series, "metric": name, along: value})
    rows = rows[rows["n"] > 0]
    if rows.empty:
        return Side(pd.Series(dtype=float), f"{series} {NONE}")
    row = rows.iloc[0]  # a study has one row of a series and steps
    seeds = at(found.results, {key: row[key] for key in PLACE}).set_index("seed")[name]
    return Side(seeds.dropna().astype(float), f"{series} {spread(row)}")


def _steps(found: Figures, base: str, series: str, along: str = "steps") -> tuple[int, ...]:
    rows = at(found.summary, {"base": base, "series": series})
    return tuple(sorted(map(int, set(rows[along]))))
