"""What the many nodes of a run come to: one row a stage, students by name, attempts and cache hits counted."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kfp_server_api
import pytest
import yaml

from pipelines.stages import Row, rows, students, tasks
from tests.pipelines.argo import State, Workflow

STUDENTS = {"methods": ["cd", "ct"], "steps": [1.0, 4.0]}
NAMES = ["cd-1", "cd-4", "ct-1", "ct-4"]
BEFORE = ("plan", "prepare-data", "train-teacher", "estimate-variance", "evaluate-teacher")


@pytest.fixture(scope="module")
def spec(package: Path) -> dict[str, Any]:
    return next(iter(yaml.safe_load_all(package.read_text())))


def run_of(spec: dict[str, Any], states: dict[Any, State], state: str = "RUNNING", rounds: int = 4) -> Any:
    """A run as the generated client reads it from the server's JSON."""
    details = Workflow("chain-abcde", spec, states, rounds).details("id")
    run = {
        "run_id": "id",
        "state": state,
        "pipeline_spec": {"pipeline_spec": spec},
        "runtime_config": {"parameters": {"students": STUDENTS}},
        "run_details": {"task_details": details},
    }
    client = kfp_server_api.ApiClient(kfp_server_api.Configuration())
    import json

    return client.deserialize(SimpleNamespace(data=json.dumps(run)), "V2beta1Run")


def named(found: list[Row]) -> dict[str, Row]:
    assert len({row.name for row in found}) == len(found)
    return {row.name: row for row in found}


def test_the_tasks_stand_in_an_order_in_which_they_can_run(spec: dict[str, Any]) -> None:
    order = [task.title for task in tasks(spec)]
    assert order[:5] == list(BEFORE)
    assert order[5:] == ["train-student", "evaluate-student", "report", "conclude"]


def test_a_run_that_has_not_begun_shows_all_its_stages(spec: dict[str, Any]) -> None:
    found = rows(run_of(spec, {}, "PENDING"))
    assert {row.state for row in found} == {"WAITING"}
    assert [row.name for row in found if row.student] == [
        f"{stage} {name}" for name in NAMES for stage in ("train-student", "evaluate-student")
    ]


def test_rounds_of_the_loop_are_students(spec: dict[str, Any]) -> None:
    states: dict[Any, State] = {name: State("Succeeded") for name in BEFORE}
    states |= {("train-student", k): State("Succeeded") for k in range(4)}
    states |= {("train-student", 1): State("Failed", 3, "out of memory"), ("evaluate-student", 0): State("Running")}
    found = named(rows(run_of(spec, states)))
    assert {name: found[f"train-student {name}"].state for name in NAMES} == {
        "cd-1": "SUCCEEDED",
        "cd-4": "FAILED",
        "ct-1": "SUCCEEDED",
        "ct-4": "SUCCEEDED",
    }
    assert found["evaluate-student cd-1"].state == "RUNNING"
    assert found["evaluate-student ct-4"].state == found["report"].state == "WAITING"
    failed = found["train-student cd-4"]
    assert (failed.attempts, failed.attempts_allowed, failed.message) == (3, 11, "out of memory")
    assert len(failed.pods) == 3 and "impl" in (failed.pod or "")


def test_driver_and_executor_of_a_task_are_one_row(spec: dict[str, Any]) -> None:
    found = named(rows(run_of(spec, {"plan": State("Succeeded"), "prepare-data": State("Running")})))
    assert (found["plan"].attempts, found["plan"].cached) == (1, False)
    assert found["plan"].seconds(found["plan"].finished) == 60.0  # type: ignore[arg-type]
    assert (found["prepare-data"].state, found["prepare-data"].finished) == ("RUNNING", None)


def test_a_cache_hit_is_a_success_without_attempt(spec: dict[str, Any]) -> None:
    found = named(rows(run_of(spec, {"plan": State("Succeeded"), "prepare-data": State("Cached")})))
    assert (found["prepare-data"].state, found["prepare-data"].cached, found["prepare-data"].attempts) == (
        "SUCCEEDED",
        True,
        0,
    )
    assert not found["plan"].cached


def test_attempts_after_one_another_are_counted_once_each(spec: dict[str, Any]) -> None:
    states = {name: State("Succeeded") for name in BEFORE[:2]} | {"train-teacher": State("Running", 2)}
    states["plan"] = State("Succeeded", 3)
    found = named(rows(run_of(spec, states)))
    assert [found[name].attempts for name in ("plan", "prepare-data", "train-teacher")] == [3, 1, 2]


def test_a_task_whose_driver_runs_is_pending_and_one_whose_driver_failed_has_failed(spec: dict[str, Any]) -> None:
    found = named(rows(run_of(spec, {"plan": State("DriverRunning")})))
    assert (found["plan"].state, found["plan"].attempts) == ("PENDING", 0)
    found = named(rows(run_of(spec, {"plan": State("DriverFailed", message="no such image")}, "FAILED")))
    assert (found["plan"].state, found["plan"].message) == ("FAILED", "no such image")
    assert found["plan"].pod and found["plan"].pod.startswith("chain-abcde-system-container-driver-")


def test_what_a_finished_run_did_not_reach_was_not_run(spec: dict[str, Any]) -> None:
    states = {"plan": State("Failed"), "prepare-data": State("Omitted"), "conclude": State("Succeeded")}
    found = named(rows(run_of(spec, states, "FAILED")))
    assert {found[name].state for name in ("prepare-data", "train-teacher", "report", "train-student cd-1")} == {
        "NOT RUN"
    }
    assert found["conclude"].state == "SUCCEEDED"


def test_without_links_between_nodes_no_student_is_guessed(spec: dict[str, Any]) -> None:
    run = run_of(spec, {("train-student", k): State("Running") for k in range(4)})
    for detail in run.run_details.task_details:
        detail.child_tasks, detail.pod_name = None, None
    found = [row for row in rows(run) if row.stage == "train-student"]
    assert [(row.student, row.state) for row in found] == [(f"#{k}", "RUNNING") for k in range(4)]


def test_methods_are_outermost_and_whole_floats_are_integers(spec: dict[str, Any]) -> None:
    assert students(run_of(spec, {})) == NAMES
