"""How the stages are joined: which place below the output root each output has, and from where each input comes.

`dvc.yaml` and the pipeline draw the same; here it is said by the names that records use, for runs whose artifacts lie
in a store by content alone.
"""

from collections.abc import Mapping
from typing import Any

from components.lineage.record import Record
from components.lineage.recorder import flat
from pipelines.lineage.match import agrees

FOLDERS = {"prepare_data": "dataset", "train_teacher": "teacher", "estimate_variance": "variance", "report": "report"}
# Sections of params.yaml that a stage reads.
SECTIONS: dict[str, tuple[str, ...]] = {
    "prepare_data": ("data",),
    "train_teacher": ("network", "schedule", "teacher"),
    "estimate_variance": ("variance",),
    "train_student": ("students",),
    "evaluate": ("evaluation",),
    "report": (),
}
PLACE = "data.path"  # the one parameter that names a place: it differs between machines, and its images have an md5


def made_at(stage: str, task: str, output: str) -> str:
    """The place of an output: `teacher`, `students/cd-4`, `timings/cd-4`."""
    if stage == "train_student":
        return f"students/{task}"
    if stage == "evaluate":
        return f"{'timings' if output == 'timing' else 'evaluations'}/{task}"
    return FOLDERS[stage]


def read_from(stage: str, task: str) -> dict[str, str]:
    """The place of each input of a stage by the input's name. The report names its inputs by their places."""
    if stage in ("estimate_variance", "train_student"):
        return {"dataset": "dataset", "teacher": "teacher"}
    if stage == "evaluate" and task == "teacher":
        return {"model": "teacher", "dataset": "dataset", "variance": "variance"}
    if stage == "evaluate":
        return {"model": f"students/{task}", "dataset": "dataset"}
    return {"dataset": "dataset"} if stage == "train_teacher" else {}


def values_of(params: Mapping[str, Any], stage: str, task: str) -> dict[str, Any]:
    """What the sections of `params.yaml` ask of one execution, by dotted name; defaults are not in it."""
    if stage != "train_student":
        return dict(flat({name: params.get(name) or {} for name in SECTIONS[stage]}))
    method, _, steps = task.partition("-")
    if not steps.isdigit():
        return {}  # no student of ours
    merged: dict[str, Any] = {}
    for part in ("common", method, task):
        for key, value in ((params.get("students") or {}).get(part) or {}).items():
            both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
            merged[key] = {**merged[key], **value} if both else value
    return dict(flat({"students": {**merged, "method": method, "student_steps": int(steps)}}))


def fits(record: Record, asked: Mapping[str, Any]) -> bool:
    """Whether an execution had the parameters that were asked for."""
    had = record.parameters
    return all(name in had and agrees(value, had[name]) for name, value in asked.items() if name != PLACE)
