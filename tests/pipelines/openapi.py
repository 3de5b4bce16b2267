"""The OpenAPI document of Kubeflow Pipelines v2beta1, read back from the client that is generated from it.

`kfp-server-api` carries no copy of the document it was made from, but all of its content that a request or a response
can violate: for each operation the method, the path, the names and types of its parameters and the models of its
bodies; for each model the names, types and allowed values of its fields.
"""

import ast
import functools
import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import kfp_server_api
from kfp_server_api import api, models

PLAIN = {"str": str, "int": int, "bool": bool, "float": (int, float), "object": dict, "datetime": str}


@dataclass(frozen=True)
class Operation:
    """One operation of the API. Types are the generated client's words, such as `list[V2beta1Run]`."""

    name: str
    method: str
    path: str
    query: dict[str, str]
    body: str | None
    response: str

    @property
    def pattern(self) -> re.Pattern[str]:
        parts = re.split(r"\{([\w.]+)\}", self.path)
        named = (f"(?P<{part.split('.')[-1]}>[^/:]+)" if k % 2 else re.escape(part) for k, part in enumerate(parts))
        return re.compile("".join(named))


def _parameter(node: ast.AST) -> str | None:
    """The name in `local_var_params['name']`."""
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "local_var_params":
        assert isinstance(node.slice, ast.Constant)
        return str(node.slice.value)
    return None


def _operation(service: type, name: str) -> Operation | None:
    source = inspect.getsource(getattr(service, f"{name}_with_http_info"))
    tree = ast.parse(textwrap.dedent(source))
    types = dict(re.findall(r":type (\w+): (\S+)", getattr(service, name).__doc__))
    query, body, called = {}, None, None
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "query_params.append":
            wire, value = node.args[0].elts  # type: ignore[attr-defined]
            query[wire.value] = types[_parameter(value) or ""]
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "body_params":
            body = types[_parameter(node.value) or ""] if _parameter(node.value) else None
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "self.api_client.call_api":
            called = node
    if called is None:
        return None
    path, method = (argument.value for argument in called.args[:2])  # type: ignore[attr-defined]
    settings = {keyword.arg: keyword.value for keyword in called.keywords}
    response = ast.literal_eval(settings["response_type"])
    return Operation(name, method, path, query, body, response)


@functools.cache
def operations() -> tuple[Operation, ...]:
    """Every operation of every service."""
    found = []
    for service in vars(api).values():
        if inspect.isclass(service) and service.__name__.endswith("ServiceApi"):
            for name in dir(service):
                if name.endswith("_with_http_info") and (
                    made := _operation(service, name.removesuffix("_with_http_info"))
                ):
                    found.append(made)
    return tuple(found)


def find(method: str, path: str) -> tuple[Operation, dict[str, str]] | None:
    """The operation of a request, with its path parameters."""
    for operation in operations():
        if operation.method == method and (match := operation.pattern.fullmatch(path)):
            return operation, match.groupdict()
    return None


@functools.cache
def allowed(model: type) -> frozenset[str]:
    """The values of an enumeration."""
    return frozenset(getattr(model, "allowable_values", ()))


def problems(value: Any, kind: str, where: str) -> Iterator[str]:
    """What in a JSON value is not as the document has it."""
    if value is None:
        return
    if match := re.fullmatch(r"list\[(.*)\]", kind):
        if not isinstance(value, list):
            yield f"{where}: {value!r} is no list"
            return
        for k, item in enumerate(value):
            yield from problems(item, match[1], f"{where}[{k}]")
    elif match := re.fullmatch(r"dict\(str, (.*)\)", kind):
        if not isinstance(value, dict):
            yield f"{where}: {value!r} is no mapping"
            return
        for key, item in value.items():
            yield from problems(item, match[1], f"{where}.{key}")
    elif kind == "object":
        return  # google.protobuf.Struct and Value: any JSON
    elif kind in PLAIN:
        if not isinstance(value, PLAIN[kind]) or (isinstance(value, bool) and kind != "bool"):
            yield f"{where}: {value!r} is no {kind}"
        elif kind == "datetime":
            try:
                datetime.fromisoformat(value)
            except ValueError:
                yield f"{where}: {value!r} is no RFC 3339 time"
    else:
        yield from _of_model(value, getattr(models, kind), where)


def _of_model(value: Any, model: type, where: str) -> Iterator[str]:
    if allowed(model):
        if value not in allowed(model):
            yield f"{where}: {value!r} is none of {sorted(allowed(model))}"
        return
    if not isinstance(value, dict):
        yield f"{where}: {value!r} is no {model.__name__}"
        return
    wire = {model.attribute_map[name]: kind for name, kind in model.openapi_types.items()}  # type: ignore[attr-defined]
    if model is kfp_server_api.ProtobufAny:
        wire |= {"@type": "str"}
    for key, item in value.items():
        if key not in wire:
            yield f"{where}: {model.__name__} has no field '{key}'"
        else:
            yield from problems(item, wire[key], f"{where}.{key}")
