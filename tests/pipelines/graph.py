"""A compiled pipeline as a flat graph: loops and exit handlers opened, every input followed to where it comes from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml


@dataclass
class Task:
    """One task: who makes its artifacts, by input name, and which parameters reach it, by the name of the run's."""

    component: str
    artifacts: dict[str, tuple[str, str]] = field(default_factory=dict)  # input -> (task, output)
    parameters: dict[str, str] = field(default_factory=dict)  # input -> parameter of the run, or "<task>.<output>"
    loop: str = ""


def tasks_of(text: str) -> dict[str, Task]:
    """The tasks of compiled YAML, by name."""
    spec = next(yaml.load_all(text, yaml.CSafeLoader))
    found: dict[str, Task] = {}
    _walk(spec, spec["root"], {}, "", found)
    return found


def _walk(
    spec: Mapping[str, Any], component: Mapping[str, Any], given: Mapping[str, Any], loop: str, found: dict[str, Task]
) -> None:
    tasks = component["dag"]["tasks"]

    def made(task: str, output: str) -> tuple[str, str]:
        """The task at the bottom that makes an output, which may be a loop's."""
        inner = spec["components"][tasks[task]["componentRef"]["name"]]
        while "dag" in inner:
            selector = inner["dag"]["outputs"]["artifacts"][output]["artifactSelectors"][0]
            task, output = selector["producerSubtask"], selector["outputArtifactKey"]
            inner = spec["components"][inner["dag"]["tasks"][task]["componentRef"]["name"]]
        return task, output

    for name, task in tasks.items():
        inputs = task.get("inputs", {})
        artifacts: dict[str, Any] = {}
        for key, source in inputs.get("artifacts", {}).items():
            if "taskOutputArtifact" in source:
                output = source["taskOutputArtifact"]
                artifacts[key] = made(output["producerTask"], output["outputArtifactKey"])
            else:
                artifacts[key] = given[source["componentInputArtifact"]]
        parameters: dict[str, Any] = {}
        for key, source in inputs.get("parameters", {}).items():
            if "taskOutputParameter" in source:
                output = source["taskOutputParameter"]
                parameters[key] = f"{output['producerTask']}.{output['outputParameterKey']}"
            elif "componentInputParameter" in source:
                parent = source["componentInputParameter"]
                parameters[key] = given.get(parent, parent)
        inner = spec["components"][task["componentRef"]["name"]]
        if "dag" not in inner:
            found[name] = Task(task["componentRef"]["name"], artifacts, parameters, loop)
            continue
        iterator = task.get("parameterIterator")
        known = {**artifacts, **parameters}
        if iterator:
            known[iterator["itemInput"]] = f"each of {known[iterator['items']['inputParameter']]}"
        _walk(spec, inner, known, task["taskInfo"]["name"] if iterator else loop, found)
