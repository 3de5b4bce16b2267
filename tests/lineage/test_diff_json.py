"""The JSON of a comparison has the documented form, whatever the runs."""

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from components.lineage.record import Record
from pipelines.lineage.compare.diff import compare
from pipelines.lineage.graph import build
from tests.lineage.builders import chain, graph, md5, partial, record
from tests.lineage.diffs import runs

OLD, NEW = md5("images"), md5("images", "one more")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Side(_Part):
    name: str
    by: Literal["dvc", "mcm", "kubeflow"]
    run: str
    started: str | None
    commit: str | None
    warnings: list[str]


class _Change(_Part):
    kind: Literal["data", "parameter", "seed", "code", "library", "image", "hardware", "stage", "unexplained"]
    name: str
    before: Any
    after: Any


class _Cause(_Change):
    at: list[str]


class _Bytes(_Part):
    name: str
    a: str | None
    b: str | None
    equal: bool
    measured: bool


class _Metric(_Part):
    name: str
    a: float | None
    b: float | None
    measured: bool


class _Node(_Part):
    key: str
    stage: str
    task: str
    state: Literal["same", "recomputed", "changed", "added", "removed"]
    role: Literal["first", "followed"] | None
    a_key: str | None
    b_key: str | None
    causes: list[int]
    changes: list[_Change]
    inputs: list[_Bytes]
    outputs: list[_Bytes]
    metrics: list[_Metric]
    notes: list[str]
    a: dict[str, Any] | None
    b: dict[str, Any] | None


class _Counts(_Part):
    same: int
    recomputed: int
    changed: int
    added: int
    removed: int


Edge = dict[Literal["maker", "reader", "input", "in"], str]


class _Source(_Part):
    reader: str
    name: str
    a: str | None
    b: str | None


class _Diff(_Part):
    version: Literal[1]
    a: _Side
    b: _Side
    counts: _Counts
    causes: list[_Cause]
    without_effect: list[_Cause]
    nodes: list[_Node]
    edges: list[Edge]
    sources: list[_Source]


def test_the_json_has_the_form_that_is_documented() -> None:
    a = graph(chain(images=OLD), name="HEAD~1")
    b = graph(chain("r2", images=NEW, students=("cd-2", "ct-4"), libraries={"torch": "2.2.0"}))
    values = json.loads(json.dumps(compare(a, b).json(), allow_nan=False))
    form = _Diff.model_validate(values)
    assert (form.a.name, form.a.run, form.a.by, form.a.commit) == ("HEAD~1", "r1", "mcm", "c" * 40)
    assert form.a.started == "2026-03-01T12:00:00+00:00"
    assert sum(form.counts.model_dump().values()) == len(form.nodes)
    keys = [node.key for node in form.nodes]
    for edge in form.edges:
        assert keys.index(edge["maker"]) < keys.index(edge["reader"]) and edge["in"] in ("a", "b", "both")
    assert {"maker": "train_student ct-4", "reader": "evaluate ct-4", "input": "model", "in": "b"} in form.edges
    assert {"maker": "prepare_data", "reader": "train_teacher", "input": "dataset", "in": "both"} in form.edges
    assert [s.model_dump() for s in form.sources] == [
        {"reader": "prepare_data", "name": "images", "a": OLD, "b": NEW}
    ]  # fmt: skip
    for node in form.nodes:
        for side, given in ((node.a, node.a_key), (node.b, node.b_key)):
            assert (side is None) == (given is None)
            assert side is None or Record.model_validate(side)
    assert {cause.kind for cause in form.causes} == {"data", "library", "stage"}


def test_a_source_on_one_side_only() -> None:
    diff = runs({}, {"teacher": NEW})
    assert [(reader, read.name, read.a, read.b) for reader, read in diff.sources][:1] == [
        ("estimate_variance", "teacher", None, NEW)
    ]


def test_metrics_that_are_no_numbers_stay_out_of_the_json() -> None:
    a, b = (record("evaluate", run=run, metrics={"fid": fid}) for run, fid in (("r1", 1.0), ("r2", float("nan"))))
    [node] = compare(graph([a]), graph([b])).nodes
    assert [(f.name, f.a, f.b) for f in node.metrics] == [("fid", 1.0, None)]


def test_what_a_run_took_from_earlier_ones_is_not_when_it_began_nor_its_commit() -> None:
    first = chain("r1", by="dvc")
    changed = {"parameters": {"students.iterations@train_student cd-1": 9}}
    b = [
        r.model_copy(update={"code": r.code and r.code.model_copy(update={"commit": "d" * 40})})
        for r in chain("r2", by="dvc", earlier=first, begin=9000, **changed)
    ]
    side = compare(graph(first), graph(b, first)).json()["b"]
    assert (side["started"], side["commit"]) == ("2026-03-01T14:30:00+00:00", "d" * 40)


def test_a_git_revision_is_its_commit() -> None:
    lock = build("HEAD", "dvc", "e" * 40, [(partial(r), False) for r in chain()])
    side = compare(lock, lock).json()["a"]
    assert (side["name"], side["commit"], side["started"]) == ("HEAD", "e" * 40, None)
