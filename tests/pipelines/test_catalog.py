"""Components: generated files are current, a version stands for one interface, component.yaml is a component."""

import json
from pathlib import Path

import pytest
import yaml
from kfp import components as kfp_components

from mcm.errors import UserError
from pipelines import catalog
from pipelines.images import image
from tests.chain.programs import ROOT

IMAGE = f"registry.example/mcm@sha256:{'0' * 64}"
NAMES = sorted(path.parent.name for path in (ROOT / "components").glob("*/component.py"))


def entry(name: str) -> catalog.Entry:
    return next(item for item in catalog.entries(IMAGE) if item.name == name)


def test_every_component_is_in_the_catalog() -> None:
    assert sorted(item.name for item in catalog.entries(IMAGE)) == NAMES


def test_nothing_generated_is_stale() -> None:
    assert catalog.refresh(image("cpu").reference, check=True) == [], "stale: mcm pipeline components"


@pytest.mark.parametrize("name", NAMES)
def test_a_component_is_described_as_it_is(name: str) -> None:
    item = entry(name)
    spec = item.component.component_spec
    metadata = {port["name"] for port in (*item.about["inputs"], *item.about["outputs"])}
    described = metadata | set(item.about.get("kubeflow", {}))
    ports = {*(spec.inputs or {}), *(spec.outputs or {})}
    assert ports <= described
    if name != "report":  # which reads a folder as a program, and single artifacts on Kubeflow
        assert metadata <= ports
    assert spec.description == item.about["description"]
    assert set(item.about["parameters"]) <= {*ports, "students"}


@pytest.mark.parametrize("name", NAMES)
def test_component_yaml_can_be_reused(name: str) -> None:
    loaded = kfp_components.load_component_from_file(str(ROOT / "components" / name / "component.yaml"))
    ours = entry(name).component.component_spec
    assert set(loaded.component_spec.inputs or {}) == set(ours.inputs or {})
    assert set(loaded.component_spec.outputs or {}) == set(ours.outputs or {})
    assert "@sha256:" in loaded.component_spec.implementation.container.image


def test_the_version_changes_with_the_image() -> None:
    one = entry("evaluate")
    other = next(item for item in catalog.entries(IMAGE.replace("0", "1")) if item.name == "evaluate")
    assert one.version != other.version and one.interface == other.interface


def test_an_interface_changes_under_no_version_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = catalog.entries(IMAGE)
    monkeypatch.setattr(catalog, "LOCK", tmp_path / "versions.lock.json")
    rows = json.loads(catalog.lock(listed))
    rows["evaluate"]["interface"] = "another"
    catalog.LOCK.write_text(json.dumps(rows))
    with pytest.raises(UserError) as error:
        catalog.lock(listed)
    assert str(error.value) == (
        "components/evaluate/metadata.yaml: the interface changed and version is still "
        f"{rows['evaluate']['version']}; raise it"
    )
    rows["evaluate"]["version"] -= 1
    catalog.LOCK.write_text(json.dumps(rows))
    assert json.loads(catalog.lock(listed))["evaluate"]["interface"] == entry("evaluate").interface


def test_an_interface_is_every_name_and_type() -> None:
    hashes = {item.interface for item in catalog.entries(IMAGE)}
    assert len(hashes) == len(NAMES)


def test_metadata_has_no_owner_and_no_unknown_key() -> None:
    keys = {"name", "version", "description", "inputs", "outputs", "parameters", "hardware", "kubeflow", "guide"}
    for name in NAMES:
        about = yaml.safe_load((ROOT / "components" / name / "metadata.yaml").read_text())
        assert set(about) <= keys and about["name"] == name
