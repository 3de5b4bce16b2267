"""First causes: for every scenario exactly those that a researcher would name, where they acted, and no other."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.lineage.builders import HARDWARE, IMAGE, md5
from tests.lineage.diffs import ALL, EVALUATIONS, ITERATIONS, TEACHER, Change, causes, code, idle, runs, states

OTHER = HARDWARE.model_copy(update={"processor": "cpu B"})
LARGER = HARDWARE.model_copy(update={"memory": 64 << 30, "cores": 16})
IMAGE_2 = IMAGE.replace("1" * 64, "2" * 64)
OLD, NEW = md5("images"), md5("images", "one more")
LR = ("parameter", "teacher.learning_rate", 0.002, 0.001)
TORCH = ("library", "torch", "2.1.0", "2.2.0")
NUMPY = ("library", "numpy", "2.1.0", "2.2.0")

FROM_TEACHER = [*TEACHER, *EVALUATIONS, "report"]
FROM_EVALUATIONS = [*EVALUATIONS, "report"]
STUDENTS = ["train_student cd-1", "train_student cd-2", "evaluate cd-1", "evaluate cd-2", "report"]
ONE_STUDENT = ["train_student cd-1", "evaluate cd-1", "report"]
LESS_LR = {"teacher.learning_rate": 0.001}
LONGER = {"students.iterations@train_student cd-1": 800}


@dataclass(frozen=True)
class Scenario:
    """Two chains, what changed, and the causes with where they came first."""

    causes: dict[Change, list[str]]
    changed: list[str]
    b: dict[str, Any] = field(default_factory=dict)
    a: dict[str, Any] = field(default_factory=dict)
    both: dict[str, Any] = field(default_factory=dict)


SCENARIOS = {
    "nothing": Scenario({}, []),
    "a parameter of the teacher": Scenario({LR: ["train_teacher"]}, FROM_TEACHER, {"parameters": LESS_LR}),
    "a parameter that the students share": Scenario(
        {ITERATIONS: ["train_student cd-1", "train_student cd-2"]},
        STUDENTS,
        {"parameters": {"students.iterations": 800}},
    ),
    "one parameter, from other values at two students": Scenario(
        {
            ITERATIONS: ["train_student cd-1"],
            ("parameter", "students.iterations", 500, 800): ["train_student cd-2"],
        },
        STUDENTS,
        {"parameters": {"students.iterations": 800}},
        {"parameters": {"students.iterations@train_student cd-2": 500}},
    ),
    "parameters of two stages at once": Scenario(
        {LR: ["train_teacher"], ITERATIONS: ["train_student cd-1"]},
        FROM_TEACHER,
        {"parameters": LESS_LR | LONGER},
    ),
    "a parameter that only one run has": Scenario(
        {("parameter", "teacher.guidance", None, 0.5): ["train_teacher"]},
        FROM_TEACHER,
        {"parameters": {"teacher.guidance@train_teacher": 0.5}},
    ),
    "a list": Scenario(
        {("parameter", "teacher.emas", "[0.995]", "[0.995, 0.9]"): ["train_teacher"]},
        FROM_TEACHER,
        {"parameters": {"teacher.emas": [0.995, 0.9]}},
    ),
    "a seed": Scenario(
        {("seed", "students.seed", 1, 7): ["train_student cd-1"]},
        ONE_STUDENT,
        {"parameters": {"students.seed@train_student cd-1": 7}},
    ),
    "one image of the data": Scenario(
        {("data", "images", OLD, NEW): ["prepare_data"]}, ALL, {"images": NEW}, {"images": OLD}
    ),
    "one image of the data, in a folder of another name": Scenario(
        {("data", "images", OLD, NEW): ["prepare_data"]},
        ALL,
        {"images": NEW, "parameters": {"data.path@prepare_data": "v2"}},
        {"images": OLD, "parameters": {"data.path@prepare_data": "v1"}},
    ),
    "own images in the place of emoji, read by other code": Scenario(
        {("parameter", "data.source", "emoji", "folder"): ["prepare_data"]},
        ALL,
        {"images": OLD, "files": {"mcm/data/sources/folder.py@prepare_data": "folder"}},
        {"files": {"mcm/data/sources/emoji.py@prepare_data": "emoji"}},
    ),
    "an imported teacher, which is also read as `model`": Scenario(
        {("data", "teacher", OLD, NEW): ["estimate_variance", "train_student cd-1", "train_student cd-2"]},
        FROM_TEACHER[1:],
        {"teacher": NEW},
        {"teacher": OLD},
    ),
    "a library everywhere": Scenario({TORCH: ["train_teacher"]}, FROM_TEACHER, {"libraries": {"torch": "2.2.0"}}),
    "a library everywhere that only evaluations feel": Scenario(
        {NUMPY: EVALUATIONS},
        FROM_EVALUATIONS,
        {"libraries": {"numpy": "2.2.0"}},
        both={"inert": [f"numpy@{key}" for key in ["prepare_data", *TEACHER]]},
    ),
    "a library everywhere, and a parameter further down": Scenario(
        {TORCH: ["train_teacher"], ITERATIONS: ["train_student cd-1"]},
        FROM_TEACHER,
        {"libraries": {"torch": "2.2.0"}, "parameters": LONGER},
    ),
    "a package that one process loaded, beside a parameter": Scenario(
        {LR: ["train_teacher"]},
        FROM_TEACHER,
        {"libraries": {"kfp@train_teacher": "2.17"}, "parameters": LESS_LR},
    ),
    "a package that one process loaded, below a parameter": Scenario(
        {LR: ["train_teacher"]},
        FROM_TEACHER,
        {"libraries": {"kfp@train_student cd-1": "2.17"}, "parameters": LESS_LR},
    ),
    "a package that one process loaded, and nothing else": Scenario(
        {("library", "flash", None, "1.0"): ["train_student cd-1"]},
        ONE_STUDENT,
        {"libraries": {"flash@train_student cd-1": "1.0"}},
    ),
    "a file that some stages import": Scenario(
        {code("mcm/samplers.py"): EVALUATIONS}, FROM_EVALUATIONS, {"files": {"mcm/samplers.py": "new"}}
    ),
    "a file that all training imports, and one student feels": Scenario(
        {code("mcm/training/loop.py"): ["train_student cd-1"]},
        ONE_STUDENT,
        {"files": {"mcm/training/loop.py": "new"}},
        both={"inert": [f"mcm/training/loop.py@{key}" for key in ("train_teacher", "train_student cd-2")]},
    ),
    "a file that the report imports": Scenario(
        {code("components/report/render.py"): ["report"]},
        ["report"],
        {"files": {"components/report/render.py": "new"}},
    ),
    "an image with another library": Scenario(
        {TORCH: ["train_teacher"]},
        FROM_TEACHER,
        {"image": IMAGE_2, "libraries": {"torch": "2.2.0"}},
        both={"by": "kubeflow"},
    ),
    "an image with other code": Scenario(
        {code("mcm/steps.py"): ["train_teacher"]},
        FROM_TEACHER,
        {"image": IMAGE_2, "files": {"mcm/steps.py": "new"}},
        both={"by": "kubeflow"},
    ),
    "an image that was built again, beside a parameter": Scenario(
        {LR: ["train_teacher"]},
        FROM_TEACHER,
        {"image": IMAGE_2, "parameters": LESS_LR},
        both={"by": "kubeflow"},
    ),
    "an image that alone explains the bytes": Scenario(
        {("image", "image", IMAGE, IMAGE_2): ["train_student cd-1"]},
        ONE_STUDENT,
        {"image": IMAGE_2, "salt": {"train_student cd-1": "another libc"}},
        both={"by": "kubeflow"},
    ),
    "hardware": Scenario(
        {("hardware", "processor", "cpu A", "cpu B"): ["train_teacher"]},
        FROM_TEACHER,
        {"hardware": OTHER},
        both={"inert": ["hardware@prepare_data"]},
    ),
    "memory and cores, which do not act": Scenario(
        {("unexplained", "not reproducible", "", ""): ["train_student cd-1"]},
        ONE_STUDENT,
        {"hardware": LARGER, "salt": {"train_student cd-1": "again"}},
        both={"inert": ["hardware"]},
    ),
    "a stage that is not reproducible": Scenario(
        {("unexplained", "not reproducible", "", ""): ["train_teacher"]},
        FROM_TEACHER,
        {"salt": {"train_teacher": "again"}},
    ),
    "a stage that is not reproducible, below a changed one": Scenario(
        {LR: ["train_teacher"]},
        FROM_TEACHER,
        {"salt": {"train_student cd-1": "again"}, "parameters": LESS_LR},
    ),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_first_causes_and_nothing_else(name: str) -> None:
    case = SCENARIOS[name]
    diff = runs(case.a, case.b, **case.both)
    blank = {key: ("", "") for key in causes(diff) if key[0] == "unexplained"}  # its values are the bytes
    assert {(*key[:2], *blank.get(key, key[2:])): at for key, at in causes(diff).items()} == case.causes
    order = [node.key for node in diff.nodes]
    assert states(diff).get("changed", []) == sorted(case.changed, key=order.index)
    assert set(states(diff)) <= {"changed", "recomputed"}
    first = {key for at in case.causes.values() for key in at}
    assert {node.key: node.role for node in diff.nodes if node.role} == {
        key: "first" if key in first else "followed" for key in case.changed
    }


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_other_order_of_runs_swaps_before_and_after(name: str) -> None:
    case = SCENARIOS[name]
    there, back = runs(case.a, case.b, **case.both), runs(case.b, case.a, **case.both)
    for found in (causes, idle):
        assert found(there) == {(kind, what, now, was): at for (kind, what, was, now), at in found(back).items()}
    assert states(there) == states(back)


def test_changes_that_did_nothing_are_said_to_have_done_nothing() -> None:
    diff = runs(
        {},
        {
            "libraries": {"numpy": "2.2.0"},
            "hardware": OTHER,
            "image": IMAGE_2,
            "parameters": {"teacher.iterations": 1},
        },
        by="kubeflow",
        inert=("numpy", "hardware", "teacher.iterations"),
    )
    assert (causes(diff), set(states(diff))) == ({}, {"recomputed"})
    assert idle(diff) == {
        NUMPY: ALL[:-1],
        ("hardware", "processor", "cpu A", "cpu B"): ALL,
        ("image", "image", IMAGE, IMAGE_2): ["report"],  # elsewhere it is how numpy came
        ("parameter", "teacher.iterations", 5000, 1): ["train_teacher"],
    }


def test_a_change_that_acted_somewhere_is_not_without_effect() -> None:
    diff = runs({}, {"libraries": {"numpy": "2.2.0"}}, inert=("numpy@prepare_data", "numpy@train_teacher"))
    assert NUMPY in causes(diff) and idle(diff) == {}
    assert states(diff)["recomputed"] == ["prepare_data", "train_teacher"]


def test_equal_bytes_of_a_maker_that_ran_again_pass_nothing_on() -> None:
    """Another learning rate that gives the same teacher: a change of the students is theirs alone."""
    diff = runs(
        {},
        {"parameters": {"teacher.learning_rate": 0.001, "students.iterations@train_student cd-1": 800}},
        inert=("teacher.learning_rate",),
    )
    assert causes(diff) == {("parameter", "students.iterations", 400, 800): ["train_student cd-1"]}
    assert idle(diff) == {LR: ["train_teacher"]}
    assert states(diff)["changed"] == ["train_student cd-1", "evaluate cd-1", "report"]
