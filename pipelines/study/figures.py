"""The figures of a study as data frames: every seed, and mean and spread over seeds. Functions of content alone."""

import json
import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import pandas as pd
from pydantic import BeforeValidator

from mcm.config import suggest
from mcm.errors import UserError
from pipelines.study.metrics import METRICS, Kind, metric, of_kind
from pipelines.study.outcome import Outcome

PLACE = ["base", "series", "method", "steps", "settings"]  # what a row is, but for its seed
FLOOR = "noise_floor_"
JOBS = "jobs"
DIMENSIONS = ("base", "metrics", "method", "series", "steps", "nfe")
NONE = "–"

Place = dict[str, Any]  # values by dimension


def _listed(value: Any) -> Any:
    """One name stands for a list of one."""
    return (value,) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_listed)]


@dataclass(frozen=True, eq=False)
class Figures:
    """`results`: a line for each row and seed, its metrics empty where it is missing. `summary`: a line for each row
    and metric, with `mean`, `std` (sample standard deviation over seeds; empty for one seed), `n` (seeds that are
    there) and `planned`. Both are in the study's order of bases and series, then by steps.
    """

    results: pd.DataFrame
    summary: pd.DataFrame
    bases: tuple[str, ...]
    series: tuple[str, ...]
    teachers: frozenset[str]  # series that are samplers of the teacher
    metrics: tuple[str, ...]
    about: dict[str, dict[str, list[Any]]]  # by base and key, what outcomes say of themselves
    kind: Kind = "images"

    @property
    def missing(self) -> int:
        """Rows and seeds that have no figures."""
        return int(self.results[list(self.metrics)].isna().all(axis=1).sum()) if self.metrics else len(self.results)

    def title(self, name: str, base: str | None = None) -> str:
        """A metric's name for people, with its extractor where it has one: FIDs of two extractors do not compare."""
        known = metric(name)
        bases = self.bases if base is None else (base,)
        names = list(dict.fromkeys(str(value) for b in bases for value in self.about[b].get("extractor", [])))
        if not known.of_features or not names:
            return known.title
        features = ", ".join(value.removeprefix("FID (").removesuffix(")") for value in names)
        return f"{known.title} ({features})"

    def floor(self, name: str, base: str) -> dict[str, float] | None:
        """What the metric is between data and data: `mean` and `std` over seeds, each of which may draw its own.

        `std` is not a number where they share one; None where rows of one seed differ in it, or none has it.
        """
        key = FLOOR + name
        if not metric(name).floor or key not in self.results:
            return None
        rows = at(self.results, {"base": base}).dropna(subset=[key])
        values = rows.groupby("seed")[key].agg(["min", "max"])
        if values.empty or (values["min"] < values["max"]).any():
            return None
        drawn = values["min"].astype(float)
        return {"mean": drawn.mean(), "std": drawn.std() if drawn.nunique() > 1 else math.nan}

    def check_series(self, names: Sequence[str], where: str) -> None:
        """UserError for a series that no row of the study has."""
        for name in names:
            if name not in self.series:
                raise UserError(f"{where}: series '{name}' is unknown; {suggest(name, list(self.series))}")

    def check_bases(self, names: Sequence[str], where: str) -> None:
        """UserError for a base that no row of the study has."""
        for name in names:
            if name not in self.bases:
                raise UserError(f"{where}: base '{name}' is unknown; {suggest(name, list(self.bases))}")

    def check_metric(self, name: str, where: str) -> None:
        """UserError for a metric that no row has; before any row is there, only one of this kind of study is known."""
        known = self.metrics or of_kind(self.kind)
        if name not in known and name in METRICS and METRICS[name].kind != self.kind:
            raise UserError(
                f"{where}: metric '{name}' is of studies of kind {METRICS[name].kind}, and this one is of kind "
                f"{self.kind}; it has {', '.join(known)}"
            )
        if name not in known:
            raise UserError(f"{where}: metric '{name}' is unknown; {suggest(name, list(known))}")


def figures(
    outcomes: Sequence[Outcome], bases: Sequence[str] = (), series: Sequence[str] = (), kind: Kind = "images"
) -> Figures:
    """Gather outcomes in any order. `bases` and `series` give the order; those not named follow by name.

    UserError for the same row and seed twice, and where there is none at all.
    """
    if not outcomes:
        raise UserError("study: no rows to show; give the study rows")
    bases, series = (
        _in_order({getattr(outcome, key) for outcome in outcomes}, order)
        for key, order in (("base", bases), ("series", series))
    )
    names = _in_order({name for outcome in outcomes for name in _finite(outcome.metrics)}, METRICS)
    lines = sorted(
        outcomes,
        key=lambda o: (
            bases.index(o.base),
            series.index(o.series),
            o.steps,
            o.nfe,
            o.method,
            as_json(o.settings),
            o.seed,
        ),
    )
    results = _frame([_line(outcome, names) for outcome in lines])
    # What a row is known to cost before it is done is a plan; where one of its seeds is done, it is known.
    done = results[list(names)].notna().any(axis=1)
    for key in ("nfe", "images"):
        known = results[key].where(done).groupby([results[name] for name in PLACE]).transform("first")
        results[key] = known.fillna(results[key]).astype(results[key].dtype)
    twice = results[results.duplicated([*PLACE, "seed"])]
    if len(twice):
        row = twice.iloc[0]
        raise UserError(
            f"study: row '{row.series}' at {in_steps(row.steps)}, seed {row.seed}, is there twice; "
            "give one another series"
        )
    return Figures(
        results=results,
        summary=_summary(results, names),
        bases=bases,
        series=series,
        teachers=frozenset(series) - {outcome.series for outcome in outcomes if outcome.is_student},
        metrics=names,
        about={base: _about([o for o in lines if o.base == base and o.metrics]) for base in bases},
        kind=kind,
    )


def as_json(settings: dict[str, Any]) -> str:
    """Settings as one text that is alike for alike settings; empty for none."""
    return json.dumps(settings, sort_keys=True, ensure_ascii=False) if settings else ""


def in_steps(steps: int) -> str:
    """A number of steps as words."""
    return f"{steps} step" if steps == 1 else f"{steps} steps"


def csv(frame: pd.DataFrame) -> str:
    """A frame as CSV with empty cells where there is nothing."""
    return frame.to_csv(index=False, lineterminator="\n", na_rep="")


def _line(outcome: Outcome, names: Sequence[str]) -> dict[str, Any]:
    found = _finite(outcome.metrics)
    about = {
        key: json.dumps(value, sort_keys=True) if isinstance(value, dict | list | tuple) else value
        for key, value in sorted(outcome.about.items())
        if key != JOBS
    }
    return {
        **{key: getattr(outcome, key) for key in ("base", "series", "method", "steps", "nfe", "seed")},
        "settings": as_json(outcome.settings),
        "images": outcome.images,
        **{name: found.get(name, math.nan) for name in names},
        **about,
        JOBS: " ".join(outcome.about.get(JOBS, ())),
    }


def _frame(lines: list[dict[str, Any]]) -> pd.DataFrame:
    """A frame whose whole numbers stay whole where some lines lack them."""
    frame = pd.DataFrame(lines)
    for key in frame:
        values = [line.get(str(key)) for line in lines]
        if None in values and all(isinstance(value, int) for value in values if value is not None):
            frame[key] = pd.array(values, dtype="Int64")
    return frame


def _finite(metrics: dict[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}


def _in_order(found: set[str], order: Sequence[str] | dict[str, Any]) -> tuple[str, ...]:
    known = [name for name in dict.fromkeys(order) if name in found]
    return (*known, *sorted(found - set(known)))


def _summary(results: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    # Before the first row is there, tables and plots are laid out all the same: with metrics that nobody has.
    long = results.assign(**dict.fromkeys(set(METRICS) - set(names), math.nan)).melt(
        [*PLACE, "nfe", "images", "seed"], list(names or METRICS), "metric", "value"
    )
    grouped = long.groupby([*PLACE, "metric"], sort=False)
    found = grouped["value"].agg(mean="mean", std="std", n="count", planned="size").reset_index()  # std is of n - 1
    for key in ("images", "nfe"):
        found.insert(len(PLACE), key, grouped[key].first().to_numpy())
    found["images"] = found["images"].astype("Int64")
    places = {place: index for index, place in enumerate(dict.fromkeys(_places(results)))}
    listed = list(names or METRICS)
    rank = [(places[place], listed.index(name)) for place, name in zip(_places(found), found["metric"], strict=True)]
    return found.iloc[sorted(range(len(found)), key=rank.__getitem__)].reset_index(drop=True)


def _places(frame: pd.DataFrame) -> list[tuple[Any, ...]]:
    return list(zip(*(frame[name] for name in PLACE), strict=True))


def _about(outcomes: Sequence[Outcome]) -> dict[str, list[Any]]:
    """What outcomes say of themselves: for each key its different values, in order."""
    found: dict[str, list[Any]] = {}
    for outcome in outcomes:
        for key, value in outcome.about.items():
            if key != JOBS and value is not None and value not in found.setdefault(key, []):
                found[key].append(value)
    return found


# Dimensions, along which tables and plots lay figures out.


def settings(text: str) -> dict[str, Any]:
    """What `as_json` was given."""
    return json.loads(text) if text else {}


def check_dimensions(found: Figures, names: Sequence[str], where: str) -> None:
    """UserError for a dimension that rows do not have."""
    known = [*DIMENSIONS, *sorted({key for text in found.summary["settings"] for key in settings(text)})]
    for name in names:
        if name not in known:
            raise UserError(f"{where}: dimension '{name}' is unknown; {suggest(name, known)}")


def dimensions(found: Figures, names: Sequence[str], metrics: Sequence[str]) -> pd.DataFrame:
    """The summary of `metrics`, with a column for each dimension of `names` beside the fixed ones."""
    rows = found.summary.rename(columns={"metric": "metrics"})
    rows = rows[rows["metrics"].isin(metrics)].copy()
    for name in names:
        if name not in DIMENSIONS:
            rows[name] = [settings(text).get(name, NONE) for text in rows["settings"]]
    return rows


def at(rows: pd.DataFrame, place: Place) -> pd.DataFrame:
    """The rows that lie at a place."""
    for name, value in place.items():
        rows = rows[rows[name] == value]
    return rows


def ordered(
    rows: pd.DataFrame, names: Sequence[str], orders: Mapping[str, Sequence[Any]], found: Figures
) -> list[Place]:
    """The places along `names` that rows have: in the given order, else the study's, else ascending."""
    orders = {"base": found.bases, "series": found.series, **{name: order for name, order in orders.items() if order}}
    there = list(dict.fromkeys(zip(*(rows[name] for name in names), strict=True))) if names else [()]

    def rank(values: tuple[Any, ...]) -> list[tuple[int, float, str]]:
        return [_rank(value, orders.get(name, ())) for name, value in zip(names, values, strict=True)]

    return [dict(zip(names, values, strict=True)) for values in sorted(there, key=rank)]


def _rank(value: Any, order: Sequence[Any]) -> tuple[int, float, str]:
    if value in order:
        return 0, order.index(value), ""
    return (1, float(value), "") if isinstance(value, numbers.Real) else (2, 0.0, str(value))
