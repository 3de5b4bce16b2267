"""Rows of a study, resolved: lists and seeds multiplied, each with all of its parameters. Conflicts are errors."""

import copy
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mcm.config import suggest
from mcm.errors import UserError
from pipelines.study.figures import in_steps
from pipelines.study.schema import RowConfig, Study

STUDENTS = "students"
COMMON = "common"


@dataclass(frozen=True)
class Row:
    """One student, or one sampler of the teacher, with one seed."""

    study: str
    where: str  # how errors name the entry of `rows` that it is from
    base: str
    series: str
    steps: int  # of the sampler, or the student's own
    seed: int
    method: str  # of a student its method, of a sampler of the teacher its name
    student_steps: int | None  # None is the teacher
    sampler: Mapping[str, Any] | None  # its keys; None is DDIM at the student's own steps
    settings: Mapping[str, Any]  # what the row sets, and the keys of a sampler
    params: Mapping[str, Any]  # whole, with seeds and what the row sets

    @property
    def label(self) -> str:
        """How a line of progress and an error name it."""
        return f"{self.series} {in_steps(self.steps)} on {self.base}, seed {self.seed}"


def resolve(study: Study, bases: Mapping[str, Mapping[str, Any]], seeds: tuple[str, ...]) -> list[Row]:
    """All rows of a study, those of the first seed first, so that what is done early can be compared.

    `bases` are the whole parameters by name; `seeds` the dotted keys that the seed of a row is set to. UserError for
    two rows of the same series, steps and seed, and for keys that no part of the row reads.
    """
    found: dict[tuple[Any, ...], Row] = {}
    entries = [
        row
        for number, entry in enumerate(study.rows, 1)
        for base in entry.bases or study.base_names
        for row in _multiplied(study, number, entry, base, bases[base], seeds)
    ]
    order = {seed: place for place, seed in enumerate(dict.fromkeys(row.seed for row in entries))}
    for row in sorted(entries, key=lambda row: order[row.seed]):
        key = (row.base, row.series, row.steps, row.seed)
        other = found.setdefault(key, row)
        if other is not row:
            raise UserError(_conflict(study, other, row))
    return list(found.values())


def _conflict(study: Study, first: Row, second: Row) -> str:
    same = first.params == second.params and (first.method, first.sampler) == (second.method, second.sampler)
    which = f"{first.where} and {second.where} of {study.where}"
    what = f"series '{first.series}' at {in_steps(first.steps)}, seed {first.seed}"
    if same:
        return f"{which} are the same: {what}; drop one"
    return f"{which} are both {what}, with other parameters; give one of them a series of its own"


def _multiplied(
    study: Study, number: int, entry: RowConfig, base: str, params: Mapping[str, Any], seeds: tuple[str, ...]
) -> Iterator[Row]:
    where = f"row {number}" + (f" ('{entry.series}')" if entry.series else "")
    refused = f"{study.where}, {where}"
    for method, student_steps, sampler in _made(entry, refused):
        for seed in entry.seeds or study.seeds:
            whole = _with(params, entry, seeds, method, student_steps, refused)
            for key in seeds:
                assign(whole, key, seed, refused)
            yield Row(
                study=study.name,
                where=where,
                base=base,
                series=entry.series or _default_series(method, sampler),
                steps=int(sampler["steps"] if sampler else student_steps or 0),
                seed=seed,
                method=method or str(sampler and sampler["name"]),
                student_steps=student_steps,
                sampler=sampler,
                settings={**entry.set, **_said_of_sampler(method, sampler)},
                params=whole,
            )


def _said_of_sampler(method: str | None, sampler: Mapping[str, Any] | None) -> dict[str, Any]:
    """Keys of a sampler beside those that every row has a column for; a student has one for its method instead."""
    others = {key: value for key, value in (sampler or {}).items() if key not in ("name", "steps")}
    return {"sampler": sampler["name"], **others} if method and sampler else others


def _made(entry: RowConfig, where: str) -> Iterator[tuple[str | None, int | None, dict[str, Any] | None]]:
    """(method, student_steps, keys of a sampler), None and None of the teacher, no keys for a student's own sampler."""
    students = itertools.product(_several(entry.method), _several(entry.steps))
    samplers = [None] if entry.sampler is None else _samplers(entry.sampler, where)
    for (method, steps), sampler in itertools.product(students, samplers):
        yield method, steps, sampler


def series(entry: RowConfig, where: str) -> Iterator[str]:
    """The labels of an entry's rows."""
    for method, _, sampler in _made(entry, where):
        yield entry.series or _default_series(method, sampler)


def _samplers(sampler: Mapping[str, Any], where: str) -> Iterator[dict[str, Any]]:
    """A sampler's keys, lists multiplied."""
    if missing := {"name", "steps"} - sampler.keys():
        raise UserError(f"{where}: 'sampler' has no {' and no '.join(sorted(missing))}; give it, such as ddim and 64")
    for values in itertools.product(*map(_several, sampler.values())):
        keys = dict(zip(sampler, values, strict=True))
        if not isinstance(keys["steps"], int) or keys["steps"] < 1:
            raise UserError(f"{where}: steps of 'sampler' are {keys['steps']!r}; give 1 or more, or a list of such")
        yield keys


def _several(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _default_series(method: str | None, sampler: Mapping[str, Any] | None) -> str:
    """A student's method, then its sampler's name and what else is said of that but its steps: `cd`, `cm-consistency`;
    of a sampler of the teacher the latter alone: `addim-analytic`, `heun-karras`."""
    if sampler is None:
        return str(method)
    others = (f"{key}{value}" if isinstance(value, bool | int | float) else str(value)
              for key, value in sampler.items() if key not in ("name", "steps", "clip"))  # fmt: skip
    return "-".join([*filter(None, [method]), str(sampler["name"]), *others])


def _with(
    params: Mapping[str, Any],
    entry: RowConfig,
    seeds: tuple[str, ...],
    method: str | None,
    steps: int | None,
    where: str,
) -> dict[str, Any]:
    """A copy of `params` with the dotted keys of a row set. A row wins over the more special sections of the base."""
    whole = _own(params)
    for key, value in entry.set.items():
        section, *rest = key.split(".")
        if section not in params:
            raise UserError(
                f"{where}: sets '{key}', and the base has no section '{section}'; {suggest(section, list(params))}"
            )
        if key in seeds or (section == STUDENTS and rest[-1:] == ["seed"]):
            raise UserError(f"{where}: sets '{key}'; seeds are the study's: give 'seeds'")
        if len(rest) < 1 + (section == STUDENTS):
            raise UserError(f"{where}: sets the whole of '{key}'; set keys in it")
        if section != STUDENTS:
            assign(whole, key, value, where)
        elif method is None or steps is None:
            raise UserError(f"{where}: sets '{key}', and a sampler of the teacher reads no students; drop it")
        elif _reads(entry, key, rest[0], method, steps, where):
            order = _sections(method, steps)
            for special in order[order.index(rest[0]) + 1 :]:
                if (dotted := ".".join([STUDENTS, special, *rest[1:]])) not in entry.set:
                    _remove(whole, dotted.split("."))
            assign(whole, key, value, where)
    return whole


def _own(value: Any) -> Any:
    """A copy in which nothing is shared: YAML's aliases are one object, and a seed set in one would be set in both."""
    if isinstance(value, Mapping):
        return {key: _own(part) for key, part in value.items()}
    return [_own(part) for part in value] if isinstance(value, list) else value


def _sections(method: str, steps: int) -> list[str]:
    """Parts of the section `students` that a student reads, each overriding the one before."""
    return [COMMON, method, f"{method}-{steps}"]


def _reads(entry: RowConfig, key: str, part: str, method: str, steps: int, where: str) -> bool:
    """Whether this student reads `students.<part>`; UserError where no student of the entry does."""
    every = itertools.product(_several(entry.method), _several(entry.steps))
    known = {name for each in every for name in _sections(*each)}
    if part not in known:
        raise UserError(
            f"{where}: sets '{key}', and no student of this row reads '{part}'; {suggest(part, list(known))}"
        )
    return part in _sections(method, steps)


def _remove(whole: dict[str, Any], path: list[str]) -> None:
    for part in path[:-1]:
        below = whole.get(part)
        if not isinstance(below, dict):
            return
        whole = below
    whole.pop(path[-1], None)


def assign(whole: dict[str, Any], key: str, value: Any, where: str) -> None:
    """Set a dotted key in place, making mappings on the way; UserError where a value stands in it."""
    *path, last = key.split(".")
    for part in path:
        below = whole.get(part)
        if below is None:
            below = whole[part] = {}
        if not isinstance(below, dict):
            raise UserError(f"{where}: sets '{key}', and '{part}' is {below!r}, not a section; set '{part}' itself")
        whole = below
    whole[last] = copy.deepcopy(value)
