"""Runs at a Kubeflow server as lineage graphs: by today's API, and by the one without MLMD."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from components.lineage.record import Record, Run, RunRecord
from mcm.errors import UserError
from pipelines.client import Connection, Options
from pipelines.lineage.graph import Graph
from pipelines.lineage.kubeflow.runs import run_graph
from pipelines.lineage.kubeflow.wiring import values_of
from pipelines.lineage.store.records import LineageStore
from pipelines.parameters import load
from pipelines.runs import get
from tests.chain.programs import ROOT
from tests.lineage.builders import STUDENTS, chain, write
from tests.pipelines import native
from tests.pipelines.argo import State
from tests.pipelines.conftest import Verb, package, server, submit, verb  # noqa: F401  (fixtures)
from tests.pipelines.kfp_server import KFPServer

SET = ("students.methods=[cd]", "students.steps=[1, 2]")
TASKS = {"prepare_data": "prepare-data", "train_teacher": "train-teacher", "estimate_variance": "estimate-variance"}
TASKS |= {"evaluate teacher": "evaluate-teacher", "report": "report"}
ALL = [*TASKS, *(f"{stage} {name}" for name in STUDENTS for stage in ("train_student", "evaluate"))]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The store of the pipeline, and beside it the index of its records."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "store" / "lineage").mkdir(parents=True)
    return tmp_path / "store"


class Cluster:
    """A server, and runs of it that are submitted as a user does."""

    def __init__(self, kfp: KFPServer, send: Verb, store: Path) -> None:
        self.server, self.submit, self.store = kfp, send, store

    def run(self, name: str = "", **changes: Any) -> str:
        words = [word for change in SET for word in ("-S", change)]
        words += [word for key, value in changes.items() for word in ("-S", f"{key.replace('__', '.')}={value}")]
        words += ["--name", name] if name else []
        said = self.submit(*words, "--store", self.store, "--json")
        assert said.status == 0, said.err
        return str(said.json["run_id"])

    def ends(self, run_id: str, states: Mapping[str, str] | None = None, state: str = "SUCCEEDED") -> None:
        """End a run; `states` are Argo's, of stages that did not just succeed."""
        tasks: dict[Any, State] = {"plan": State("Succeeded"), "conclude": State("Succeeded")}
        for name in ALL:
            stage, _, task = name.partition(" ")
            key: Any = TASKS.get(name)
            if key is None:
                key = ({"train_student": "train-student"}.get(stage, "evaluate-student"), STUDENTS.index(task))
            tasks[key] = State((states or {}).get(name, "Succeeded"))
        self.server.move(run_id, state, tasks, rounds=len(STUDENTS))

    def graph(self, run: str, stores: Sequence[LineageStore] = ()) -> Graph:
        return run_graph(run, stores, argparse.Namespace(host=self.server.url))


@pytest.fixture
def cluster(server: KFPServer, submit: Verb, store: Path) -> Cluster:  # noqa: F811
    return Cluster(server, submit, store)


def records(run: str, **others: Any) -> list[Record]:
    """What such a run leaves: the parameters of every stage are those that were asked for."""
    params = load(ROOT / "params.yaml", SET)
    values = {
        f"{name}@{key}": value
        for key in ALL
        for name, value in values_of(params, *(key.split(" ") if " " in key else (key, ""))).items()
    }
    return chain(run, by="kubeflow", parameters={**values, **others.pop("parameters", {})}, **others)


def without(all_of_them: Sequence[Record], *names: str) -> list[Record]:
    return [record for record in all_of_them if record.name not in names]


def shape(graph: Graph) -> tuple[Any, ...]:
    """What a graph says, but for who ran it."""
    nodes = {key: (node.record.id, node.reused) for key, node in graph.nodes.items()}
    return nodes, {(e.maker, e.reader, e.input) for e in graph.edges}, [s.artifact.md5 for s in graph.sources]


@pytest.mark.parametrize("coming", [False, True], ids=["today's API", "the API to come"])
def test_a_run_is_its_records(cluster: Cluster, store: Path, coming: bool) -> None:
    run = cluster.run("mine")
    wrote = records(run)
    asked = RunRecord(run=Run(id=run, by="kubeflow"), params={"teacher": {"seed": 0}})
    write(store / "lineage", wrote, asked)
    cluster.ends(run)
    if coming:
        cluster.server.tasks = {run: native.tasks(run, wrote, {})}
    for name in (run, "mine", "latest"):
        graph = cluster.graph(name)
        assert (graph.name, graph.by, graph.run, graph.warnings, graph.asked) == (name, "kubeflow", run, (), asked)
        assert shape(graph)[0] == {record.name: (record.id, False) for record in wrote}
        assert graph.sources == () and len(graph.edges) == sum(len(record.inputs) for record in wrote)


def test_both_apis_say_the_same(cluster: Cluster, store: Path) -> None:
    first, second = cluster.run(), cluster.run()
    wrote, again = records(first), records(second, begin=10_000.0)
    cached = ("prepare_data", "train_teacher", "train_student cd-2", "evaluate cd-1")
    write(store / "lineage", [*wrote, *without(again, *cached)])
    cluster.ends(second, dict.fromkeys(cached, "Cached"))
    today = cluster.graph(second)
    taken = {record.name: record for record in wrote}
    shown = [taken[record.name] if record.name in cached else record for record in again]
    cluster.server.tasks = {second: native.tasks(second, shown, dict.fromkeys(cached, "CACHED"))}
    coming = cluster.graph(second)
    assert shape(today) == shape(coming)
    assert {key for key, node in today.nodes.items() if node.reused} == set(cached)
    assert {key: node.record.run.id for key, node in today.nodes.items()} == {
        record.name: first if record.name in cached else second for record in again
    }
    assert today.warnings == coming.warnings == ()


def test_a_cached_task_that_nobody_read_is_found_by_what_it_was_asked(cluster: Cluster, store: Path) -> None:
    """The run goes on, so that no report names the evaluation; only its parameters and inputs tell which it was."""
    others = {"parameters": {"evaluation.samples@evaluate cd-1": 64}}
    first, other, third = cluster.run(), cluster.run(evaluation__samples=64), cluster.run()
    wrote, again = records(first), records(third, begin=20_000.0)
    write(store / "lineage", [*wrote, *records(other, begin=10_000.0, **others)])
    write(store / "lineage", records(cluster.run(), begin=15_000.0, earlier=wrote))  # took all of it by memo
    write(store / "lineage", without(again, "evaluate cd-1", "evaluate cd-2", "train_student cd-2", "report"))
    waits = {"train_student cd-2": "Running", "evaluate cd-2": "Pending", "report": "Omitted"}
    cluster.ends(third, {"evaluate cd-1": "Cached", **waits}, "RUNNING")
    graph = cluster.graph(third)
    found = graph.nodes["evaluate cd-1"]
    assert (found.record.id, found.reused) == (next(r.id for r in wrote if r.name == "evaluate cd-1"), True)
    assert not {"report", "train_student cd-2", "evaluate cd-2"} & set(graph.nodes)
    assert graph.warnings == (f"run {third} is RUNNING: what it has not done yet is missing",)


def test_with_everything_cached_the_first_stage_is_found_too(cluster: Cluster, store: Path) -> None:
    first, second = cluster.run(), cluster.run()
    wrote = records(first)
    own = [record for record in records(second, begin=10_000.0) if record.name == "report"]
    hidden = [record.model_copy(update={"inputs": ()}) for record in own]  # a report of before there were inputs
    write(store / "lineage", [*wrote, *hidden])
    cluster.ends(second, {name: "Cached" for name in ALL if name != "report"})
    graph = cluster.graph(second)
    assert {key: node.record.run.id for key, node in graph.nodes.items()} == {
        name: second if name == "report" else first for name in ALL
    }
    assert graph.warnings == ()


def test_of_several_that_fit_the_last_is_taken_and_said(cluster: Cluster, store: Path) -> None:
    first, second, third = cluster.run(), cluster.run(), cluster.run()
    write(store / "lineage", records(first))
    write(store / "lineage", records(second, begin=10_000.0))
    write(store / "lineage", without(records(third, begin=20_000.0), "train_teacher"))
    cluster.ends(third, {"train_teacher": "Cached"})
    graph = cluster.graph(third)
    assert (graph.nodes["train_teacher"].record.run.id, graph.nodes["train_teacher"].reused) == (second, True)
    assert graph.warnings == (
        f"train_teacher: Kubeflow's cache answered, and 2 earlier executions fit; shown is the last of them, of run "
        f"{second}",
    )


def test_a_task_that_took_a_memo_is_not_taken_for_the_work(cluster: Cluster, store: Path) -> None:
    first, second, third = cluster.run(), cluster.run(), cluster.run()
    wrote = records(first)
    write(store / "lineage", [*wrote, *records(second, begin=10_000.0, earlier=wrote)])
    write(store / "lineage", without(records(third, begin=20_000.0), "train_teacher"))
    cluster.ends(third, {"train_teacher": "Cached"})
    graph = cluster.graph(third)
    assert graph.nodes["train_teacher"].record.run.id == first and graph.warnings == ()


def test_where_no_record_fits_that_is_said(cluster: Cluster, store: Path) -> None:
    run = cluster.run()
    write(store / "lineage", without(records(run), "evaluate cd-1", "evaluate cd-2"))
    cluster.ends(run, {"evaluate cd-1": "Cached"})
    graph = cluster.graph(run)
    place = store / "lineage"
    assert set(ALL) - set(graph.nodes) == {"evaluate cd-1", "evaluate cd-2"}
    assert graph.warnings == (
        f"evaluate cd-1: Kubeflow's cache answered, and no record in {place} fits; it is left out",
        f"evaluate cd-2: it ran, and left no record in {place}; it is left out",
    )


def test_the_api_to_come_fills_in_what_left_no_record(cluster: Cluster, store: Path) -> None:
    run = cluster.run()
    wrote = records(run)
    write(store / "lineage", without(wrote, "train_teacher"))
    cluster.ends(run)
    cluster.server.tasks = {run: native.tasks(run, wrote, {}, named=False)}
    graph = cluster.graph(run)
    (whole,) = [record for record in wrote if record.name == "train_teacher"]
    told = graph.nodes["train_teacher"].record
    unknown = dict.fromkeys(("path", "size", "files"))
    assert told.outputs == tuple(a.model_copy(update=unknown) for a in whole.outputs)
    assert [(a.name, a.md5) for a in told.inputs] == [(a.name, a.md5) for a in whole.inputs]
    assert (told.libraries, told.hardware, told.started) == (None, None, None)
    assert told.parameters["teacher.learning_rate"] == 0.002 and "network.preset" in told.parameters
    assert graph.warnings == (f"train_teacher: no record of it in {store / 'lineage'}; shown is what the server knows",)
    assert set(graph.nodes) == set(ALL) and graph.sources == ()


def test_the_report_of_the_api_to_come_names_its_inputs_as_its_record_does(cluster: Cluster, store: Path) -> None:
    run = cluster.run()
    wrote = records(run)
    write(store / "lineage", without(wrote, "report"))
    cluster.ends(run)
    cluster.server.tasks = {run: native.tasks(run, wrote, {}, named=False)}
    told, whole = cluster.graph(run).nodes["report"].record, wrote[-1]
    assert {a.name: (a.md5, a.measured) for a in told.inputs} == {a.name: (a.md5, a.measured) for a in whole.inputs}
    assert [(a.name, a.measured) for a in told.outputs] == [("out", True)]


def test_students_are_told_apart_where_their_artifacts_bear_no_name(cluster: Cluster, store: Path) -> None:
    run = cluster.run()
    wrote = records(run)
    cluster.ends(run)
    listed = native.tasks(run, wrote, {}, named=False)
    for task in listed:
        for one in (task.get("outputs") or {}).get("artifacts", []):
            for artifact in one["artifacts"]:
                artifact.get("metadata", {}).pop("name", None)
    cluster.server.tasks = {run: listed}
    found = {key: node.record.outputs[0].md5 for key, node in cluster.graph(run).nodes.items()}
    assert found == {record.name: record.outputs[0].md5 for record in wrote}


def test_many_tasks_come_in_pages(cluster: Cluster, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = cluster.run()
    wrote = records(run)
    cluster.ends(run)
    monkeypatch.setattr("pipelines.lineage.kubeflow.tasks.PAGE", 4)
    cluster.server.tasks = {run: native.tasks(run, wrote, {}, named=False)}
    assert set(cluster.graph(run).nodes) == set(ALL)


def test_of_a_task_that_was_tried_again_the_success_is_shown(cluster: Cluster, store: Path) -> None:
    run = cluster.run()
    wrote = records(run)
    (teacher,) = [record for record in wrote if record.name == "train_teacher"]
    stopped = teacher.model_copy(update={"id": "f" * 32, "status": "stopped", "outputs": ()})
    write(store / "lineage", [*wrote, stopped])
    cluster.ends(run)
    graph = cluster.graph(run)
    assert set(graph.nodes) == set(ALL) and graph.nodes["train_teacher"].record.id == teacher.id


def test_a_failed_run_says_so_and_shows_what_it_did(cluster: Cluster, store: Path) -> None:
    run = cluster.run()
    wrote = records(run)
    failed = [r.model_copy(update={"status": "failed", "outputs": ()}) for r in wrote if r.name == "evaluate teacher"]
    write(store / "lineage", [*without(wrote, "evaluate teacher", "report"), *failed])
    cluster.ends(run, {"evaluate teacher": "Failed", "report": "Omitted"}, "FAILED")
    graph = cluster.graph(run)
    assert graph.nodes["evaluate teacher"].record.status == "failed"
    assert graph.warnings == (f"run {run} ended FAILED: what it did not do is missing",)


def test_records_on_a_volume_of_the_cluster_are_named(cluster: Cluster, store: Path, tmp_path: Path) -> None:
    said = cluster.submit(*[word for change in SET for word in ("-S", change)], "--json")  # its store: /mnt/state
    run = said.json["run_id"]
    cluster.ends(run)
    with pytest.raises(UserError) as raised:
        cluster.graph(run)
    assert str(raised.value) == (
        f"run {run}: no lineage records of it in no store; its records lie at /mnt/state/lineage in its pods: mount or "
        "copy that, and name it with --store"
    )
    write(tmp_path / "copy", records(run))
    graph = cluster.graph(run, [LineageStore(tmp_path / "copy")])
    assert set(graph.nodes) == set(ALL)


@pytest.mark.parametrize("coming", [False, True], ids=["today's API", "the API to come"])
def test_where_the_server_does_not_say_which_student_it_is_none_is_guessed(
    cluster: Cluster, store: Path, coming: bool
) -> None:
    run = cluster.run()
    write(store / "lineage", records(run))
    cluster.ends(run)
    details = cluster.server.runs[run]["run_details"]["task_details"]
    for detail in details:
        detail["child_tasks"] = []
        detail.pop("parent_task_id", None)
    if coming:
        foreign = {"artifact_key": "out", "artifacts": [{"artifact_id": "1", "metadata": {"md5": "not one of ours"}}]}
        task = {"name": "train-student", "type": "RUNTIME", "state": "CACHED", "task_id": "t", "run_id": run}
        cluster.server.tasks = {run: [{**task, "outputs": {"artifacts": [foreign]}}]}
    graph = cluster.graph(run)
    assert set(graph.nodes) == set(ALL) and graph.warnings == ()


def test_an_unknown_run_is_one_line(cluster: Cluster) -> None:
    with pytest.raises(UserError) as raised:
        cluster.graph("nobody's")
    assert str(raised.value) == (
        f"run nobody's: no run has that id or name at {cluster.server.url}; check --namespace and --host"
    )


@pytest.mark.parametrize("body", ["<html>log in</html>", "[]"])
def test_a_login_page_in_place_of_the_tasks_is_one_line(cluster: Cluster, body: str) -> None:
    run = cluster.run()
    cluster.server.fault("GET", f"/apis/v2beta1/runs/{run}/tasks", status=200, body=body)
    with pytest.raises(UserError, match=r"answers, but not as Kubeflow Pipelines \(no list of tasks\)"):
        cluster.graph(run)


def test_what_was_asked_is_known_without_a_record_of_it(cluster: Cluster, store: Path) -> None:
    run = cluster.run(teacher__learning_rate=0.5)
    write(store / "lineage", records(run))
    cluster.ends(run)
    asked = cluster.graph(run).asked
    assert asked is not None and asked.params["teacher"]["learning_rate"] == 0.5
    assert get(Connection(Options(host=cluster.server.url)), run).created_at == asked.started
