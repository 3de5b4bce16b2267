"""The executions of a Kubeflow run as its server lists them: one form for today's API and for the one that follows.

Releases without MLMD serve the tasks of a run with their artifacts (`/runs/{id}/tasks`). Earlier ones answer 404 there
and list a run's tasks with neither inputs nor outputs.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from components.lineage.record import Artifact
from pipelines.client import ApiError, Connection

PAGE = 200
FORM = re.compile(r"[0-9a-f]{32}(\.dir)?")
# The report's inputs, which are named otherwise on Kubeflow; a folder where one is a list.
REPORT = {
    "model": "teacher",
    "x_var": "variance",
    "teacher_evaluation": "evaluations/teacher",
    "teacher_timing": "timings/teacher",
    "models": "students",
    "evaluations": "evaluations",
    "timings": "timings",
}
LISTS = ("models", "evaluations", "timings")


@dataclass(frozen=True)
class Task:
    """One execution of a stage. `inputs` and `outputs` are None where the server does not tell them."""

    stage: str
    task: str
    state: str
    cached: bool
    inputs: tuple[Artifact, ...] | None = None
    outputs: tuple[Artifact, ...] | None = None
    record: str | None = None  # name of the lineage record in the store, `<run>/<file>`

    @property
    def name(self) -> str:
        return f"{self.stage} {self.task}".strip()


def tasks_of(connection: Connection, run: Any) -> list[Task]:
    """The executions of our stages in a run, by the newest API that the server has."""
    listed = _listed(connection, str(run.run_id))
    return list(_today(run) if listed is None else _coming(listed, run))


def _stages() -> dict[str, str]:
    """The stage of each task of the pipeline that has artifacts."""
    from pipelines.pipeline import COMPONENTS, STUDENT, TEACHER

    plain = {stage.replace("_", "-"): stage for stage in COMPONENTS if stage not in ("plan", "conclude", "evaluate")}
    return {**plain, TEACHER: "evaluate", STUDENT: "evaluate"}


def _today(run: Any) -> Iterator[Task]:
    from pipelines.pipeline import TEACHER
    from pipelines.stages import rows

    known = _stages()
    for row in rows(run):
        guessed = (row.student or "").startswith("#")  # the server does not say which student it is
        if row.stage in known and not guessed:
            task = "teacher" if row.stage == TEACHER else row.student or ""
            yield Task(known[row.stage], task, row.state, row.cached)


def _listed(connection: Connection, run_id: str) -> list[Mapping[str, Any]] | None:
    """The tasks of a run, all pages; None where the server does not serve them."""
    found: list[Mapping[str, Any]] = []
    token = ""
    while True:
        query = {"page_size": str(PAGE), **({"page_token": token} if token else {})}
        try:
            text = connection.get_text(f"/apis/v2beta1/runs/{run_id}/tasks", **query)
        except ApiError as error:
            if error.status in (404, 405, 501):
                return None
            raise
        try:
            page = json.loads(text)
            found += page.get("tasks") or []
            token = page.get("next_page_token") or ""
        except (ValueError, AttributeError, TypeError):
            raise connection.not_kfp("no list of tasks") from None
        if not token:
            return found


def _coming(listed: list[Mapping[str, Any]], run: Any) -> Iterator[Task]:
    from components.kubeflow.gather import NAME
    from components.kubeflow.memo import LINEAGE
    from pipelines.pipeline import TEACHER
    from pipelines.stages import students

    known, names = _stages(), students(run)
    by_id = {task.get("task_id"): task for task in listed}
    for task in listed:
        key = str(task.get("name") or "")
        if task.get("type") != "RUNTIME" or key not in known:
            continue
        stage, state = known[key], str(task.get("state") or "")
        made = {i["artifact_key"]: i.get("artifacts") or [] for i in _io(task, "outputs")}
        about = [a.get("metadata") or {} for listed_ in made.values() for a in listed_]
        outputs = tuple(
            Artifact(name=name, md5=md5, measured=name == "timing" or stage == "report")
            for name, artifacts in made.items()
            for a in artifacts
            if (md5 := _md5(a))
        )
        turn = _turn(task, by_id)
        name = next((str(values[NAME]) for values in about if NAME in values), "")
        if not name and turn is not None and turn < len(names):
            name = names[turn]
        own = "teacher" if key == TEACHER else name if stage in ("train_student", "evaluate") else ""
        if stage in ("train_student", "evaluate") and not own:
            continue  # nobody says which student it is
        record = next((str(values[LINEAGE]) for values in about if LINEAGE in values), None)
        inputs = tuple(_inputs(stage, task))
        yield Task(stage, own, state, state == "CACHED", inputs, outputs, record)


def _inputs(stage: str, task: Mapping[str, Any]) -> Iterator[Artifact]:
    from components.kubeflow.gather import NAME

    for given in _io(task, "inputs"):
        key = str(given["artifact_key"])
        for artifact in given.get("artifacts") or []:
            if md5 := _md5(artifact):
                name = REPORT.get(key, key) if stage == "report" else key
                if stage == "report" and key in LISTS:
                    name = f"{name}/{artifact['metadata'].get(NAME, '')}"
                yield Artifact(name=name, md5=md5, measured=name.startswith("timings/"))


def _md5(artifact: Mapping[str, Any]) -> str | None:
    """What our tasks name an artifact; None for those that are only shown, and for those of others."""
    from components.kubeflow.task import MD5

    said = (artifact.get("metadata") or {}).get(MD5)
    return said if isinstance(said, str) and FORM.fullmatch(said) else None


def _io(task: Mapping[str, Any], which: str) -> list[Mapping[str, Any]]:
    return list((task.get(which) or {}).get("artifacts") or [])


def _turn(task: Mapping[str, Any], by_id: Mapping[Any, Mapping[str, Any]]) -> int | None:
    """The round of the loop that a task is in: its own, or that of the nearest task around it which has one."""
    near: Mapping[str, Any] | None = task
    for _ in range(len(by_id) + 1):
        if near is None:
            return None
        index = (near.get("type_attributes") or {}).get("iteration_index")
        if index is not None:
            return int(index)  # int64 travels as text
        near = by_id.get(near.get("parent_task_id"))
    return None
