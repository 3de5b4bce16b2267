"""The section `students` of the parameters: one student's keys, those of the optimizer and those of its method."""

import functools
from collections.abc import Mapping
from typing import Any, cast

from pydantic import create_model

from mcm.config import suggest
from mcm.errors import UserError
from mcm.methods.recipe import Recipe
from mcm.methods.recipes import RECIPES
from mcm.training.config import TrainingConfig


class StudentConfig(Recipe, TrainingConfig):
    """Section `students`, merged for one student: the optimizer's keys, and those of its method."""


@functools.cache
def config_type(method: str) -> type[StudentConfig]:
    """The keys that a student by `method` has; UserError where there is no such method."""
    if method not in RECIPES:
        raise UserError(f"method '{method}' is unknown; {suggest(method, list(RECIPES))}")
    made = create_model(f"{RECIPES[method].__name__}Student", __base__=(RECIPES[method], TrainingConfig))
    return cast(type[StudentConfig], made)


def student_config(params: Mapping[str, Any], method: str, student_steps: int) -> StudentConfig:
    """The parameters of one student: `students.common`, then `students.<method>`, then `students.<method>-<steps>`."""
    kind = config_type(method)
    if student_steps < 1:
        raise UserError(f"student_steps is {student_steps}: choose 1 or more; 1 is a consistency model")
    students = params.get("students") or {}
    name = f"{method}-{student_steps}"
    merged: dict[str, Any] = {}
    for part in ("common", method, name):
        values = students.get(part) or {}
        if not isinstance(values, Mapping):
            raise UserError(f"parameters, section 'students', '{part}': holds {values!r}, and a mapping is needed")
        for key, value in values.items():
            both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
            merged[key] = {**merged[key], **value} if both else value
    config = kind.parse(merged, f"parameters, section 'students' ({name})")
    try:
        config.check(student_steps)
        config.phases(student_steps, config.iterations)
    except UserError as error:
        raise UserError(f"parameters, section 'students' ({name}): {error}") from None
    return config
