"""The catalog of components: what each folder of `components/` says of itself, and what is generated from it.

`metadata.yaml` is written by hand. README.md and component.yaml are made from it and from the component's interface;
`components/versions.lock.json` remembers the interface of every version, so that none changes under the same number.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from kfp.dsl.base_component import BaseComponent
from kfp.dsl.structures import InputSpec, OutputSpec

import components
from mcm.artifacts import atomic_file
from mcm.errors import UserError
from pipelines.compiler import as_yaml, same
from pipelines.pipeline import COMPONENTS

ROOT = Path(next(iter(components.__path__)))
LOCK = ROOT / "versions.lock.json"
PLAIN = {"Dict": "mapping", "String": "text", "List": "list", "TaskFinalStatus": "how the run ended"}


@dataclass(frozen=True)
class Entry:
    """One component: its metadata and its Kubeflow definition, in `image`."""

    name: str
    about: Mapping[str, Any]
    component: BaseComponent
    image: str

    @property
    def interface(self) -> str:
        """Hash of the names and types of all inputs and outputs."""
        spec = self.component.component_spec
        ports = {
            "inputs": {name: [_type(port), bool(port.optional)] for name, port in (spec.inputs or {}).items()},
            "outputs": {name: [_type(port)] for name, port in (spec.outputs or {}).items()},
        }
        return hashlib.sha256(json.dumps(ports, sort_keys=True).encode()).hexdigest()

    @property
    def version(self) -> str:
        """`<version of the interface>+<image>`: it changes when either does."""
        return f"{self.about['version']}+{self.image.rpartition('@sha256:')[2][:12]}"


def entries(image: str) -> list[Entry]:
    """All components, each told to run in `image`."""
    found = []
    for name, component in COMPONENTS.items():
        about = yaml.safe_load((ROOT / name / "metadata.yaml").read_text())
        found.append(Entry(name, about, component, image))
    return found


def files(entry: Entry) -> Iterator[tuple[Path, str]]:
    """What is generated for a component."""
    yield ROOT / entry.name / "README.md", readme(entry)
    component = entry.component
    kept = component.component_spec.implementation.container.image
    component.component_spec.implementation.container.image = entry.image
    try:
        yield ROOT / entry.name / "component.yaml", f"# {entry.name} {entry.version}\n" + as_yaml(component)
    finally:
        component.component_spec.implementation.container.image = kept


def lock(listed: list[Entry]) -> str:
    """The lock as text. UserError where an interface changed and its version did not."""
    before = json.loads(LOCK.read_text()) if LOCK.is_file() else {}
    for entry in listed:
        known = before.get(entry.name)
        if known and known["version"] == entry.about["version"] and known["interface"] != entry.interface:
            raise UserError(
                f"components/{entry.name}/metadata.yaml: the interface changed and version is still "
                f"{entry.about['version']}; raise it"
            )
    rows = {
        entry.name: {"version": entry.about["version"], "interface": entry.interface, "component": entry.version}
        for entry in listed
    }
    return json.dumps(rows, indent=2) + "\n"


def refresh(image: str, check: bool = False) -> list[tuple[Path, str]]:
    """Write what is out of date, or with `check` only say what is: (file, written | stale)."""
    listed = entries(image)
    wanted = {LOCK: lock(listed), **{file: text for entry in listed for file, text in files(entry)}}
    changed = []
    for file, text in wanted.items():
        if file.is_file() and same(file.read_text(), text):
            continue
        changed.append((file.relative_to(ROOT.parent), "stale" if check else "written"))
        if not check:
            with atomic_file(file) as temporary:
                temporary.write_text(text)
    return changed


def readme(entry: Entry) -> str:
    """The README of a component: what it says of itself, its ports, its hardware."""
    about, spec = entry.about, entry.component.component_spec
    described = {port["name"]: port["description"] for port in (*about["inputs"], *about["outputs"])}
    described |= about.get("kubeflow", {})
    lines = [f"# {entry.name}", "", about["guide"].strip(), ""]
    lines += [
        "## On Kubeflow",
        "",
        "`component.yaml` beside this file is the component for reuse in other pipelines.",
        "",
    ]
    lines += ["| | name | type | |", "| --- | --- | --- | --- |"]
    for side, ports in (("in", spec.inputs or {}), ("out", spec.outputs or {})):
        for name, port in ports.items():
            lines.append(f"| {side} | `{name}` | {_shown(port)} | {described[name]} |")
    lines += ["", f"Interface version {about['version']}. Hardware: " + "; ".join(_hardware(about)) + ".", ""]
    lines += ["*Made from `metadata.yaml` and the component by `mcm pipeline components`; edit those.*"]
    return "\n".join(lines) + "\n"


def _hardware(about: Mapping[str, Any]) -> Iterator[str]:
    for name, text in about["hardware"].items():
        yield f"{name}: {text}"


def _type(port: InputSpec | OutputSpec) -> str:
    return f"List[{port.type}]" if getattr(port, "is_artifact_list", False) else str(port.type)


def _shown(port: InputSpec | OutputSpec) -> str:
    name = _type(port).replace("system.", "").replace("@0.0.1", "")
    return PLAIN.get(name, name)
