"""Comparisons that the tests of the page show."""

import io
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from pipelines.lineage.compare.diff import compare
from tests.lineage.builders import chain, graph

STUDENTS = ("cd-1", "cd-2", "cd-4", "cd-8", "ct-1", "ct-2", "ct-4", "ct-8")
EVIL = '</script><img src=x onerror="document.title=1">'


@cache
def small() -> dict[str, Any]:
    """23 stages: a parameter of two students, a package at one evaluation, one without effect, a student in one run."""
    inert = ("numpy@prepare_data",)
    a = chain("r1", students=STUDENTS, inert=inert)
    changes: dict[str, Any] = {
        "parameters": {f"students.learning_rate@train_student {name}": 0.001 for name in ("cd-4", "cd-8")},
        "libraries": {"scipy@evaluate ct-1": "1.18.0", "numpy@prepare_data": "2.2.0"},
        "inert": inert,
    }
    b = chain("r2", students=(*STUDENTS[:-1], "ct-16"), begin=9e4, **changes)
    return compare(graph(a, name="HEAD~1"), graph(b, name="two-rates")).json()


@cache
def wide(students: int = 240) -> dict[str, Any]:
    """Two stages for each student, and five: 20 students with another rate, two evaluations with other code."""
    names = [f"{method}-{steps}" for method in ("cd", "ct") for steps in range(1, students // 2 + 1)]
    a = chain("r1", students=names)
    b = chain(
        "r2",
        students=names,
        begin=9e5,
        parameters={f"students.learning_rate@train_student cd-{steps}": 0.001 for steps in range(41, 61)},
        files={f"mcm/samplers.py@evaluate ct-{steps}": "other" for steps in (7, 8)},
    )
    return compare(graph(a), graph(b)).json()


@cache
def same() -> dict[str, Any]:
    """A run with itself."""
    return compare(graph(chain("r1")), graph(chain("r1"))).json()


@cache
def rerun() -> dict[str, Any]:
    """All ran again from the same facts: the same bytes, but for durations."""
    return compare(graph(chain("r1")), graph(chain("r2", begin=9e4))).json()


@cache
def hostile() -> dict[str, Any]:
    """Names and values that try to be markup."""
    students = ("cd-1", f"{EVIL}-2")
    a = chain("r1", students=students, parameters={f"{EVIL}@train_teacher": "<b>one</b>"})
    b = chain("r2", students=students, begin=9e4, parameters={f"{EVIL}@train_teacher": f"'\"&{EVIL}\u2028"})
    return compare(graph(a, name=f"--><{EVIL}"), graph(b, name="{{ 7 * 7 }}")).json()


def png(shade: int) -> bytes:
    """A grey picture."""
    out = io.BytesIO()
    Image.fromarray(np.full((8, 8), shade, dtype=np.uint8)).save(out, format="PNG")
    return out.getvalue()


def pictures() -> dict[str, tuple[bytes | None, bytes | None]]:
    """For three evaluations of `small`: other ones, equal ones, and one in B alone."""
    return {
        "evaluate cd-4": (png(10), png(20)),
        "evaluate cd-1": (png(30), png(30)),
        "evaluate ct-16": (None, png(40)),
    }
