"""Rows of a study, resolved: lists and seeds multiplied, each with all of its parameters. Conflicts are errors."""

import copy
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mcm.config import suggest
from mcm.errors import UserError
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
    steps: int
    seed: int
    method: str  # of a student its method, of a sampler its name
    sampler: Mapping[str, Any] | None  # its keys; None is a student
    settings: Mapping[str, Any]  # what the row sets, and the keys of a sampler
    params: Mapping[str, Any]  # whole, with seeds and what the row sets

    @property
    def label(self) -> str:
        """How a line of progress and an error name it."""
        return f"{self.series} {self.steps} steps, seed {self.seed}"


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
    what = f"series '{first.series}' at {first.steps} steps, seed {first.seed}"
    if same:
        return f"{which} are the same: {what}; drop one"
    return f"{which} are both {what}, with other parameters; give one of them a series of its own"


def _multiplied(
    study: Study, number: int, entry: RowConfig, base: str, params: Mapping[str, Any], seeds: tuple[str, ...]
) -> Iterator[Row]:
    where = f"row {number}" + (f" ('{entry.series}')" if entry.series else "")
    refused = f"{study.where}, {where}"
    for method, steps, sampler in _made(entry, refused):
        for seed in entry.seeds or study.seeds:
            whole = _with(params, entry, seeds, method, steps, refused)
            for key in seeds:
                assign(whole, key, seed, refused)
            settings = {**entry.set, **{key: value for key, value in (sampler or {}).items() if key in _varied(entry)}}
            yield Row(
                study.name,
                where,
                base,
                entry.series or (method if sampler is None else sampler_series(sampler)),
                steps,
                seed,
                method,
                sampler,
                settings,
                whole,
            )


def _varied(entry: RowConfig) -> set[str]:
    """Keys of a sampler beside those that every sampler has a column for."""
    return set(entry.sampler or {}) - {"name", "steps"}


def _made(entry: RowConfig, where: str) -> Iterator[tuple[str, int, dict[str, Any] | None]]:
    """(method, steps, None) of students, (name, steps, keys) of samplers."""
    if entry.sampler is None:
        for method, steps in itertools.product(_several(entry.method), _several(entry.steps)):
            yield method, steps, None
        return
    if missing := {"name", "steps"} - entry.sampler.keys():
        raise UserError(f"{where}: 'sampler' has no {' and no '.join(sorted(missing))}; give it, such as ddim and 64")
    for values in itertools.product(*map(_several, entry.sampler.values())):
        keys = dict(zip(entry.sampler, values, strict=True))
        if not isinstance(keys["steps"], int) or keys["steps"] < 1:
            raise UserError(f"{where}: steps of 'sampler' are {keys['steps']!r}; give 1 or more, or a list of such")
        yield str(keys["name"]), keys["steps"], keys


def _several(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def sampler_series(sampler: Mapping[str, Any]) -> str:
    """A sampler's name and what else is said of it but its steps: `addim-analytic`, `heun-karras`."""
    others = (f"{key}{value}" if isinstance(value, bool | int | float) else str(value)
              for key, value in sampler.items() if key not in ("name", "steps", "clip"))  # fmt: skip
    return "-".join([str(sampler["name"]), *others])


def _with(
    params: Mapping[str, Any], entry: RowConfig, seeds: tuple[str, ...], method: str, steps: int, where: str
) -> dict[str, Any]:
    """A copy of `params` with the dotted keys of a row set. A row wins over the more special sections of the base."""
    whole = copy.deepcopy(dict(params))
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
        elif _reads(entry, key, rest[0], method, steps, where):
            order = _sections(method, steps)
            for special in order[order.index(rest[0]) + 1 :]:
                if (dotted := ".".join([STUDENTS, special, *rest[1:]])) not in entry.set:
                    _remove(whole, dotted.split("."))
            assign(whole, key, value, where)
    return whole


def _sections(method: str, steps: int) -> list[str]:
    """Parts of the section `students` that a student reads, each overriding the one before."""
    return [COMMON, method, f"{method}-{steps}"]


def _reads(entry: RowConfig, key: str, part: str, method: str, steps: int, where: str) -> bool:
    """Whether this student reads `students.<part>`; UserError where no student of the entry does."""
    if entry.sampler is not None:
        raise UserError(f"{where}: sets '{key}', and a sampler of the teacher reads no students; drop it")
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
