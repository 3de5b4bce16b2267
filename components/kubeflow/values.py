"""Parameters as a protobuf Struct can carry them, and back: it knows no integers, and kfp writes no null."""

from collections.abc import Mapping
from typing import Any

NULL = "null"


def pack(value: Any) -> Any:
    """`value` with null as the word that YAML writes for it."""
    if value is None:
        return NULL
    if isinstance(value, Mapping):
        return {key: pack(item) for key, item in value.items()}
    return [pack(item) for item in value] if isinstance(value, list | tuple) else value


def unpack(value: Any) -> Any:
    """The inverse of `pack`, with whole floats as the integers that they were: 8 steps arrive as 8.0."""
    if value == NULL:
        return None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {key: unpack(item) for key, item in value.items()}
    return [unpack(item) for item in value] if isinstance(value, list) else value
