"""The story of docs/lineage.md, run as written: each comparison names exactly the right first cause."""

import json
from typing import Any

import pytest

from tests.chain.programs import ROOT, run

pytestmark = pytest.mark.slow

EVERY = {
    "prepare_data",
    "train_teacher",
    "estimate_variance",
    "train_student cd-1",
    "train_student cd-2",
    "evaluate teacher",
    "evaluate cd-1",
    "evaluate cd-2",
    "report",
}


@pytest.fixture(scope="module")
def diffs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("story") / "project"
    run("bash", ROOT / "docs" / "lineage" / "story.sh", folder)
    return {file.stem: json.loads(file.read_text()) for file in sorted((folder / "diffs").glob("*.json"))}


def causes(diff: dict[str, Any], among: str = "causes") -> set[tuple[str, str, str]]:
    return {(cause["kind"], cause["name"], at) for cause in diff[among] for at in cause["at"]}


def states(diff: dict[str, Any]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for node in diff["nodes"]:
        found.setdefault(node["state"], set()).add(node["key"])
    return found


def roles(diff: dict[str, Any], role: str) -> set[str]:
    return {node["key"] for node in diff["nodes"] if node["role"] == role}


def test_a_learning_rate(diffs: dict[str, dict[str, Any]]) -> None:
    diff = diffs["learning-rate"]
    assert causes(diff) == {("parameter", "teacher.learning_rate", "train_teacher")}
    assert (diff["causes"][0]["before"], diff["causes"][0]["after"]) == (0.002, 0.0005)
    assert states(diff) == {"same": {"prepare_data"}, "changed": EVERY - {"prepare_data"}}
    assert roles(diff, "first") == {"train_teacher"}


def test_one_image(diffs: dict[str, dict[str, Any]]) -> None:
    diff = diffs["one-image"]
    assert causes(diff) == {("data", "images", "prepare_data")}
    assert states(diff) == {"changed": EVERY} and roles(diff, "first") == {"prepare_data"}


def test_a_library(diffs: dict[str, dict[str, Any]]) -> None:
    diff = diffs["library"]
    assert causes(diff) == {("library", "matplotlib", "estimate_variance")}
    changed = {"estimate_variance", "evaluate teacher", "report"}
    assert states(diff) == {"changed": changed, "recomputed": EVERY - changed}


def test_the_same_again(diffs: dict[str, dict[str, Any]]) -> None:
    diff = diffs["again"]
    assert states(diff) == {"recomputed": EVERY} and not diff["causes"] and not diff["without_effect"]


def test_the_same_by_dvc_and_kubeflow(diffs: dict[str, dict[str, Any]]) -> None:
    diff = diffs["kubeflow"]
    assert (diff["a"]["by"], diff["b"]["by"]) == ("dvc", "kubeflow")
    assert states(diff) == {"recomputed": EVERY} and not diff["causes"] and not diff["without_effect"]


def test_another_container_image_that_holds_the_same(diffs: dict[str, dict[str, Any]]) -> None:
    diff = diffs["image"]
    assert states(diff) == {"recomputed": EVERY} and not diff["causes"]
    assert {(kind, name) for kind, name, _ in causes(diff, "without_effect")} == {("image", "image")}
