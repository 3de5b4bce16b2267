"""The task API of Kubeflow Pipelines without MLMD, as far as a reader of runs meets it (kubeflow/pipelines#13986).

No released client has it, so the published shape of its messages stands here: names and types of their fields.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from components.lineage.record import Artifact, Record
from components.lineage.store import record_name

STATES = ("RUNTIME_STATE_UNSPECIFIED", "RUNNING", "SUCCEEDED", "SKIPPED", "FAILED", "CACHED")
TYPES = ("ROOT", "RUNTIME", "CONDITION_BRANCH", "CONDITION", "LOOP", "EXIT_HANDLER", "IMPORTER", "DAG")
IO = ("COMPONENT_INPUT", "TASK_OUTPUT_INPUT", "COLLECTED_INPUTS", "ITERATOR_INPUT", "ITERATOR_OUTPUT", "OUTPUT")
KINDS = ("Artifact", "Model", "Dataset", "HTML", "Markdown", "Metric")
MESSAGES: dict[str, dict[str, Any]] = {
    "ListTasksResponse": {"tasks": ["PipelineTask"], "next_page_token": str, "total_size": int},
    "PipelineTask": {
        **dict.fromkeys(("name", "display_name", "task_id", "run_id", "cache_fingerprint", "parent_task_id"), str),
        **dict.fromkeys(("scope_path", "lifecycle_message"), str),
        **dict.fromkeys(("create_time", "end_time"), datetime),
        "state": STATES,
        "type": TYPES,
        "type_attributes": "TypeAttributes",
        "child_tasks": ["ChildTask"],
        "inputs": "InputOutputs",
        "outputs": "InputOutputs",
    },
    "TypeAttributes": {"iteration_index": str, "iteration_count": str, "download_to_workspace": bool},
    "ChildTask": {"name": str, "task_id": str},
    "InputOutputs": {"artifacts": ["IOArtifact"], "parameters": ["IOParameter"]},
    "IOParameter": {"value": object, "type": IO, "parameter_key": str, "producer": "IOProducer"},
    "IOArtifact": {"artifacts": ["Artifact"], "type": IO, "artifact_key": str, "producer": "IOProducer"},
    "IOProducer": {"task_name": str, "iteration": str},
    "Artifact": {
        **dict.fromkeys(("artifact_id", "name", "description", "uri", "namespace"), str),
        "type": KINDS,
        "metadata": object,
        "number_value": float,
        "created_at": datetime,
    },
}
# How our pipeline calls the inputs of the report.
REPORT = {"teacher": "model", "variance": "x_var", "dataset": "dataset"}
REPORT |= {"evaluations/teacher": "teacher_evaluation", "timings/teacher": "teacher_timing"}
LISTS = {"students": "models", "evaluations": "evaluations", "timings": "timings"}


def problems(value: Any, kind: Any, where: str) -> Iterator[str]:
    """What in a JSON value is not as the messages have it."""
    if isinstance(kind, list):
        for k, item in enumerate(value):
            yield from problems(item, kind[0], f"{where}[{k}]")
    elif isinstance(kind, tuple):
        if value not in kind:
            yield f"{where}: {value!r} is none of {kind}"
    elif isinstance(kind, str):
        for key, item in value.items():
            if key not in MESSAGES[kind]:
                yield f"{where}: {kind} has no field '{key}'"
            else:
                yield from problems(item, MESSAGES[kind][key], f"{where}.{key}")
    elif kind is datetime:
        datetime.fromisoformat(value)
    elif not isinstance(value, kind):
        yield f"{where}: {value!r} is no {kind.__name__}"


def tasks(run_id: str, records: Iterable[Record], states: Mapping[str, str], named: bool = True) -> list[Any]:
    """The tasks of a run that did what `records` say, each in SUCCEEDED or its state by the record's name.

    `named` False: their artifacts name no lineage record, as those of runs before there were records.
    """
    root = _task(run_id, "root", "ROOT", "")
    chain = _task(run_id, "chain", "DAG", root["task_id"])
    loop = _task(run_id, "students", "LOOP", chain["task_id"])
    found, rounds = [root, chain, loop], dict[str, dict[str, Any]]()
    found.append(_task(run_id, "plan", "RUNTIME", chain["task_id"]))
    made: dict[str, dict[str, Any]] = {}
    for record in records:
        parent, looped = chain, record.task not in ("", "teacher")
        if looped and record.task not in rounds:
            turn = _task(run_id, "iteration-item", "DAG", loop["task_id"], f"{len(rounds)}")
            turn["type_attributes"] = {"iteration_index": str(len(rounds))}
            rounds[record.task] = turn
            found.append(turn)
        if looped:
            parent = rounds[record.task]
        key = record.stage.replace("_", "-")
        if record.stage == "evaluate":
            key = "evaluate-student" if looped else "evaluate-teacher"
        task = _task(run_id, key, "RUNTIME", parent["task_id"], record.task)
        task["state"] = states.get(record.name, "SUCCEEDED")
        outputs = [("OUTPUT", a.name, [_artifact(record, a, named)]) for a in record.outputs]
        for artifact, (_, _, (shown,)) in zip(record.outputs, outputs, strict=True):
            made[artifact.md5] = shown
        shown_besides = ("OUTPUT", "metrics", [{"artifact_id": f"{task['task_id']}-fid", "type": "Metric"}])
        task["outputs"] = {"artifacts": [_io(*row) for row in [*outputs, shown_besides]]}
        task["inputs"] = {"artifacts": [_io(*row) for row in _inputs(record, made)]}
        found.append(task)
    return found


def _task(run_id: str, name: str, kind: str, parent: str, which: str = "") -> dict[str, Any]:
    return {
        "name": name,
        "display_name": name,
        "task_id": f"{run_id}-{name}-{which}",
        "run_id": run_id,
        "parent_task_id": parent,
        "type": kind,
        "state": "SUCCEEDED",
        "create_time": "2026-03-01T12:00:00Z",
        "end_time": "2026-03-01T12:01:00Z",
    }


def _artifact(record: Record, artifact: Artifact, named: bool) -> dict[str, Any]:
    metadata = {"md5": artifact.md5, **({"record": record_name(record)} if named else {})}
    if record.stage in ("train_teacher", "train_student", "evaluate"):
        metadata["name"] = record.task or "teacher"
    return {
        "artifact_id": f"{record.id}-{artifact.name}",
        "name": artifact.name,
        "type": "Artifact",
        "uri": f"gs://bucket/{record.id}/{artifact.name}",
        "metadata": metadata,
    }


def _inputs(record: Record, made: Mapping[str, dict[str, Any]]) -> Iterator[tuple[str, str, list[dict[str, Any]]]]:
    lists: dict[str, list[dict[str, Any]]] = {}
    for artifact in record.inputs:
        if artifact.md5 not in made:
            continue
        folder = artifact.name.partition("/")[0]
        if record.stage != "report" or artifact.name in REPORT:
            key = REPORT[artifact.name] if record.stage == "report" else artifact.name
            yield "TASK_OUTPUT_INPUT", key, [made[artifact.md5]]
        else:
            lists.setdefault(LISTS[folder], []).append(made[artifact.md5])
    for key, artifacts in lists.items():
        yield "COLLECTED_INPUTS", key, artifacts


def _io(kind: str, key: str, artifacts: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": kind, "artifact_key": key, "artifacts": artifacts}
