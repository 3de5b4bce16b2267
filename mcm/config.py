"""Typed, frozen configuration: what `params.yaml` holds, checked once, at the edge.

A section of parameters is a `Config` subclass. Unknown keys are errors that suggest the near one; values are checked
by their type and constraints. The resolved configuration is what `model_dump(mode="json")` gives.
"""

import difflib
from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from mcm.errors import UserError


class Config(BaseModel):
    """Base of every section of parameters."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: str) -> Self:
        """Validate `values`; `where` names their place (a file and section) in the error."""
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise UserError(f"{where}: {_explain(cls, error)}") from None

    def resolved(self) -> dict[str, Any]:
        """Every value, defaults included, as JSON can hold it."""
        return self.model_dump(mode="json")


def suggest(name: str, known: list[str]) -> str:
    """A clause that names the near one, or all of them: for unknown keys, presets, methods, samplers."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean '{near[0]}'?" if near else f"known: {', '.join(sorted(known))}"


def _fields_at(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Names of the fields of the section that a validation error points into."""
    fields = model.model_fields
    for part in path:
        annotation = fields[str(part)].annotation if str(part) in fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        fields = annotation.model_fields
    return list(fields)


def _explain(model: type[BaseModel], error: ValidationError) -> str:
    """The first problem of a validation error, in one line."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"unknown key '{key}'; {suggest(str(first['loc'][-1]), _fields_at(model, first['loc'][:-1]))}"
    if first["type"] == "missing":
        return f"'{key}' is missing; add it"
    message = first["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    return f"'{key}' is {first['input']!r}: {message}" if key else message  # without a key, of several together
