"""dvc.yaml and the pipeline on Kubeflow are one graph: stages, edges, parameters."""

import functools
import itertools
import re
from typing import Any

import pytest
import yaml

from components.kubeflow.plan import students
from components.runner import SECTIONS, read_params
from pipelines.compiler import as_yaml
from pipelines.pipeline import LOOP, NOTHING, Given, build
from tests.chain.programs import ROOT
from tests.pipelines.graph import Task, tasks_of

IMAGE = f"registry.example/mcm@sha256:{'0' * 64}"
ONLY_KUBEFLOW = {"plan", "conclude"}  # dvc.yaml's matrix, and an exit handler
OF_A_RUN = {"store", "data_version"}  # parameters that are no section


@functools.cache
def text(given: Given = NOTHING) -> str:
    return as_yaml(build(None, IMAGE, read_params(ROOT / "params.yaml"), given))


def compiled(given: Given = NOTHING) -> dict[str, Task]:
    return tasks_of(text(given))


def dvc_stages() -> dict[str, dict[str, Any]]:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    return {name.replace("_", "-"): stage for name, stage in stages.items()}


def makers(stages: dict[str, dict[str, Any]]) -> dict[str, set[str]]:
    """For each stage the stages that make what it depends on: the same path, or one below a folder that it reads."""
    outs = {out.split("${")[0]: name for name, stage in stages.items() for out in stage["outs"] if "$" in out}
    plain = {out: name for name, stage in stages.items() for out in stage["outs"] if "$" not in out}
    edges: dict[str, set[str]] = {}
    for name, stage in stages.items():
        edges[name] = set()
        for dep in filter(lambda path: path.startswith("artifacts"), stage["deps"]):
            if "${" in dep:
                edges[name].add(outs[dep.split("${")[0]])
                continue
            edges[name] |= {maker for out, maker in plain.items() if f"{out}/".startswith(f"{dep}/")}
            edges[name] |= {maker for out, maker in outs.items() if out.startswith(f"{dep}/")}
    return edges


def test_both_have_the_same_stages() -> None:
    assert set(compiled()) - ONLY_KUBEFLOW == set(dvc_stages())


def test_both_have_the_same_edges() -> None:
    ours = {name: {maker for maker, _ in task.artifacts.values()} for name, task in compiled().items()}
    assert {name: edges for name, edges in ours.items() if name not in ONLY_KUBEFLOW} == makers(dvc_stages())


def test_both_give_a_stage_the_same_sections() -> None:
    for name, stage in dvc_stages().items():
        sections = {key.split(".")[0] for key in stage.get("params", [])}
        reached = set(compiled()[name].parameters.values()) - OF_A_RUN
        if name == "train-student":  # its entry of the plan, which is made of that section
            assert reached == {"each of plan.Output"} and sections == {"students"}
        elif name == "report":  # it shows them all, and none changes what it finds
            assert reached == set(SECTIONS) and sections == set()
        else:
            assert reached == sections, name


def test_both_run_the_same_program_for_a_stage() -> None:
    for name, task in compiled().items():
        if name in ONLY_KUBEFLOW:
            continue
        program = dvc_stages()[name]["cmd"].split()[2].removeprefix("components.")
        assert program == program_of(name), task.component


def program_of(task: str) -> str:
    spec = yaml.load(text(), yaml.CSafeLoader)
    source = spec["deploymentSpec"]["executors"][f"exec-{task}"]["container"]["command"][-1]
    named = re.search(r'\brun\("(\w+)"', source)
    return named[1] if named else "report"  # which has a task of its own, components/kubeflow/gather.py


def test_the_plan_is_the_matrix() -> None:
    params = read_params(ROOT / "params.yaml")
    matrix = dvc_stages()["train-student"]["matrix"]
    assert matrix == {"method": "${students.methods}", "student_steps": "${students.steps}"}
    expanded = itertools.product(params["students"]["methods"], params["students"]["steps"])
    assert [(item["method"], item["student_steps"]) for item in students(params)] == list(expanded)


def test_every_parameter_of_the_run_is_a_section_or_of_the_run() -> None:
    spec = yaml.load(text(), yaml.CSafeLoader)
    assert set(spec["root"]["inputDefinitions"]["parameters"]) == {*SECTIONS, *OF_A_RUN}


def test_students_are_trained_and_evaluated_in_one_loop() -> None:
    loops = {name: task.loop for name, task in compiled().items() if task.loop}
    assert loops == {"train-student": LOOP, "evaluate-student": LOOP}


def test_the_item_of_the_loop_stays_in_the_loop() -> None:
    """kfp has let it leak into the groups around a loop, where no server can give it (kubeflow/pipelines#13273)."""
    spec = yaml.load(text(), yaml.CSafeLoader)
    outside = [spec["root"], *(part for name, part in spec["components"].items() if "exit-handler" in name)]
    assert len(outside) == 2
    for part in outside:
        assert not [name for name in part["inputDefinitions"]["parameters"] if "loop-item" in name]


@pytest.mark.parametrize(
    ("given", "gone", "parameters"),
    [
        (Given(dataset=True), {"prepare-data"}, {"dataset_uri"}),
        (Given(teacher=True), {"train-teacher"}, {"teacher_uri"}),
        (Given(True, True), {"prepare-data", "train-teacher"}, {"dataset_uri", "teacher_uri"}),
    ],
)
def test_what_is_given_is_imported_and_all_else_stays(given: Given, gone: set[str], parameters: set[str]) -> None:
    whole, tasks = compiled(), compiled(given)
    imported = {name for name in tasks if name.startswith("importer")}
    assert {tasks[name].parameters["uri"] for name in imported} == parameters
    assert set(tasks) - imported == set(whole) - gone
    for name in set(tasks) - imported:
        edges = {key: maker for key, (maker, _) in tasks[name].artifacts.items()}
        expected = {key: maker for key, (maker, _) in whole[name].artifacts.items()}
        assert {key: "given" if maker in imported else maker for key, maker in edges.items()} == {
            key: "given" if maker in gone else maker for key, maker in expected.items()
        }
