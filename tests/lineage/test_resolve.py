"""What a user may call a run, the earlier executions that complete it, and the lines said where nothing fits."""

import argparse
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from components.lineage.record import Code, Origin, Record, Run
from mcm.errors import UserError
from pipelines.lineage import options
from pipelines.lineage.dvc.history import lock_records
from pipelines.lineage.graph import Graph
from pipelines.lineage.match import agrees, best
from pipelines.lineage.resolve import complete, find_artifact, resolve
from pipelines.lineage.store.records import LineageStore
from tests.lineage.builders import chain, write
from tests.lineage.dvc_project import Project, lock_of

STORE = Path("artifacts/lineage")
CHANGE = {"students.learning_rate@train_student cd-1": 0.1}
FOLLOWS = {"train_student cd-1", "evaluate cd-1", "report"}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("KFP_HOST", "KF_PIPELINES_ENDPOINT", "MCM_LINEAGE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """A first run, committed; a second one that trained one student anew, with its lock in the workspace."""
    made = Project(tmp_path / "project")
    monkeypatch.chdir(made.folder)
    made.write(".gitignore", "artifacts/\n")
    first = chain("dvc-20260301-a1", by="dvc")
    again = chain("dvc-20260302-b2", by="dvc", parameters=CHANGE, earlier=first, begin=86400)
    write(STORE, first)
    made.lock(lock_of(first))
    made.commit("first")
    write(STORE, again)
    made.lock(lock_of({record.name: record for record in (*first, *again)}.values()))
    yield made


def look(name: str, *stores: LineageStore) -> Graph:
    return resolve(name, stores or [LineageStore(STORE)])


def ids(graph: Graph) -> set[str]:
    return {node.record.id for node in graph.nodes.values()}


def reused(graph: Graph) -> set[str]:
    return {key for key, node in graph.nodes.items() if node.reused}


ALL = {record.name for record in chain()}


@pytest.mark.parametrize(
    ("name", "run"),
    [
        ("dvc-20260302-b2", "dvc-20260302-b2"),
        ("dvc-20260302", "dvc-20260302-b2"),
        ("artifacts/lineage/dvc-20260302-b2", "dvc-20260302-b2"),
        ("artifacts/lineage/dvc-20260302-b2/", "dvc-20260302-b2"),
        ("workspace", "workspace"),
    ],
)
def test_every_name_of_a_run_gives_its_graph_completed_by_earlier_runs(project: Project, name: str, run: str) -> None:
    graph = look(name)
    assert (graph.name, graph.run, graph.by) == (name, run, "dvc")
    assert graph.nodes.keys() == ALL
    assert reused(graph) == ALL - FOLLOWS
    assert graph.sources == ()


def test_a_revision_is_its_lock_with_the_executions_that_it_stands_for(project: Project) -> None:
    head = project.git("rev-parse", "HEAD")
    for name in ("HEAD", "main", head, head[:8]):
        graph = look(name)
        assert (graph.name, graph.run) == (name, head)
        assert ids(graph) == {record.id for record in chain("dvc-20260301-a1", by="dvc")}
        assert reused(graph) == set()


def test_an_experiment_by_name_and_by_revision(project: Project) -> None:
    other = chain("dvc-20260303-c3", by="dvc", parameters={"teacher.learning_rate": 0.1}, begin=200000)
    write(STORE, other)
    commit = project.experiment("swift-fox", lock_of(other))
    for name in ("swift-fox", commit[:9]):
        graph = look(name)
        assert (graph.run, ids(graph)) == (commit, {record.id for record in other})
    assert {record.run.experiment for record in lock_records(commit)} == {"swift-fox"}
    assert {record.run.experiment for record in lock_records("HEAD")} == {None}


def test_without_records_a_revision_is_its_lock_alone(project: Project) -> None:
    shutil.rmtree(STORE)
    graph = resolve("HEAD", [])
    assert graph.nodes.keys() == ALL and graph.sources == ()
    assert all(node.record.started is None and not node.reused for node in graph.nodes.values())


def test_a_store_with_one_run_names_that_run(project: Project, tmp_path: Path) -> None:
    records = chain("only")
    write(tmp_path / "lineage", records)
    for name in (tmp_path / "lineage", tmp_path / "lineage" / "only"):
        assert ids(resolve(str(name), [])) == {record.id for record in records}


def test_a_copy_of_a_runs_folder_is_completed_from_stores_alone(project: Project, tmp_path: Path) -> None:
    shutil.copytree(STORE / "dvc-20260302-b2", tmp_path / "copy")
    shutil.copytree(STORE / "dvc-20260301-a1", tmp_path / "beside")  # no store, for all one can tell
    assert resolve(str(tmp_path / "copy"), []).nodes.keys() == FOLLOWS
    assert look(str(tmp_path / "copy")).nodes.keys() == ALL
    assert resolve("artifacts/lineage/dvc-20260302-b2", []).nodes.keys() == ALL  # in its own store it is not alone


def test_a_run_in_two_stores_is_one(project: Project, tmp_path: Path) -> None:
    shutil.copytree(STORE, tmp_path / "mirror")
    graph = look("dvc-20260302-b2", LineageStore(STORE), LineageStore(tmp_path / "mirror"))
    assert graph.nodes.keys() == ALL


def test_a_run_id_comes_before_a_branch_and_a_branch_before_an_experiment(project: Project) -> None:
    project.git("branch", "dvc-20260302-b2")
    project.git("branch", "swift-fox")
    project.experiment("swift-fox", lock_of(chain("x", parameters={"teacher.seed": 5})))
    assert look("dvc-20260302-b2").run == "dvc-20260302-b2"
    assert look("swift-fox").run == project.git("rev-parse", "HEAD")


def test_a_folder_without_records_hides_no_branch(project: Project) -> None:
    project.git("branch", "docs")
    project.write("docs/page.json", "{}")
    assert look("docs").run == project.git("rev-parse", "HEAD")


# Completion and matching


def test_completion_takes_the_execution_that_ended_before_the_reader_began(project: Project) -> None:
    shutil.rmtree(STORE)
    early, late = chain("early", begin=0), chain("late", begin=500_000)
    write(STORE, [*early, *late])
    reader = chain("reader", parameters=CHANGE, earlier=early, begin=100_000)
    completed = complete(reader, [LineageStore(STORE)])
    assert {record.run.id for record, _ in completed} == {"reader", "early"}
    assert len(completed) == len(ALL)


def test_completion_takes_figures_and_durations_of_one_execution(project: Project) -> None:
    one, two = chain("one", begin=0), chain("two", begin=50_000)  # the same bytes, other durations
    write(STORE, [*one, *two])
    completed = complete(chain("reader", parameters=CHANGE, earlier=one, begin=100_000), [LineageStore(STORE)])
    assert len(completed) == len(ALL)
    taken = {record.run.id for record, _ in completed if record.name in ("evaluate cd-2", "evaluate teacher")}
    assert taken == {"one"}


def test_completion_never_takes_what_did_not_succeed(project: Project) -> None:
    shutil.rmtree(STORE)
    first = chain("first")
    broken = [r.model_copy(update={"status": "failed"}) if r.stage == "train_teacher" else r for r in first]
    write(STORE, broken)
    completed = complete(chain("again", parameters=CHANGE, earlier=first, begin=9e4), [LineageStore(STORE)])
    assert "train_teacher" not in {record.name for record, _ in completed}


def test_of_equal_executions_the_one_with_the_locks_own_durations_stands_for_it(project: Project) -> None:
    twin = chain("dvc-20260309-z9", by="dvc", begin=900_000)  # the same bytes, other durations, later
    write(STORE, twin)
    assert {node.record.run.id for node in look("HEAD").nodes.values() if node.record.stage == "evaluate"} == {
        "dvc-20260301-a1"
    }


def test_a_parameter_without_effect_on_the_bytes_is_still_another_execution(project: Project) -> None:
    lock = lock_of(chain("dvc-20260301-a1", by="dvc"))
    lock["train_teacher"]["params"]["params.yaml"]["teacher"]["emas"] = [0.5]
    project.lock(lock)
    graph = look("workspace")
    assert graph.nodes["train_teacher"].record.started is None
    assert graph.nodes["prepare_data"].record.started is not None


def test_of_executions_with_the_same_bytes_the_one_with_the_locks_code_then_dvcs_own_then_the_latest(
    project: Project,
) -> None:
    partial = {record.name: record for record in lock_records("HEAD")}["estimate_variance"]
    full = next(record for record in chain("x") if record.name == "estimate_variance")

    def twin(number: int, **changes: Any) -> Record:
        day = timedelta(days=number)
        times = {"started": full.started + day, "ended": full.ended + day} if full.started and full.ended else {}
        return full.model_copy(update={"id": str(number) * 32, **times, **changes})

    shutil.rmtree(STORE)
    other = {"code": Code(files={"mcm/variance.py": "0" * 32})}
    for written, found in (
        (twin(9, **other), "9"),
        (twin(3), "3"),
        (twin(5), "5"),
        (twin(4), "5"),
        (twin(8, cached_from=Origin(run="y", record="5" * 32)), "5"),
        (twin(2, run=Run(id="dvc-1", by="dvc")), "2"),
        (twin(7, run=Run(id="a-run", by="kubeflow")), "2"),
    ):
        write(STORE, [written])
        made = best(partial, [LineageStore(STORE)])
        assert made and made.id == found * 32
    taken = twin(6, run=Run(id="dvc-2", by="dvc"), cached_from=Origin(run="dvc-1", record="2" * 32))
    write(Path("other"), [taken])  # where nobody knows who made it
    made = best(partial, [LineageStore("other"), LineageStore(STORE)])
    assert made and made.id == "2" * 32


@pytest.mark.parametrize(
    "other",
    [
        {"status": "failed"},
        {"status": "stopped"},
        {"stage": "train_student"},
        {"task": "again"},
        {"outputs": "more"},
        {"inputs": "others"},
    ],
)
def test_what_is_another_execution_never_stands_for_a_stage(project: Project, other: dict[str, str]) -> None:
    """The same bytes out alone are not enough."""
    partial = {record.name: record for record in lock_records("HEAD")}["estimate_variance"]
    shutil.rmtree(STORE)
    full = next(record for record in chain("x") if record.name == "estimate_variance")
    changes: dict[str, Any] = {**other}
    if "outputs" in other:
        changes = {"outputs": (*full.outputs, full.outputs[0].model_copy(update={"name": "table"}))}
    if "inputs" in other:
        changes = {"inputs": tuple(a.model_copy(update={"md5": "0" * 32 + ".dir"}) for a in full.inputs)}
    write(STORE, [full.model_copy(update=changes)])
    assert best(partial, [LineageStore(STORE)]) is None
    write(STORE, [full.model_copy(update={"id": "1" * 32})])
    assert best(partial, [LineageStore(STORE)]) is not None


@pytest.mark.parametrize(
    ("raw", "resolved", "same"),
    [
        ([{"name": "ddim", "steps": 4}], [{"name": "ddim", "steps": 4, "grid": "uniform"}], True),
        ([{"name": "ddim", "steps": 4}], [{"name": "ddim", "steps": 8, "grid": "uniform"}], False),
        ([1], [1, 2], False),
        ("1e-4", 0.0001, True),
        (0, 0.0, True),
        (1, True, False),
        (True, 1, False),
        (True, True, True),
        (None, None, True),
        (None, 0, False),
        ("cd", "ct", False),
        ({"a": 1}, {}, False),
    ],
)
def test_a_value_as_given_agrees_with_the_resolved_one(raw: object, resolved: object, same: bool) -> None:
    assert agrees(raw, resolved) is same


# Artifacts


def test_an_artifact_by_its_hash_with_makers_users_and_what_led_to_it(project: Project) -> None:
    teacher = next(record for record in chain("dvc-20260301-a1") if record.stage == "train_teacher")
    md5 = teacher.outputs[0].md5
    for name in (md5, md5.removesuffix(".dir")):
        found = find_artifact(name, [LineageStore(STORE)])
        assert found.artifact.md5 == md5
        assert [(record.name, record.run.id) for record in found.made] == [("train_teacher", "dvc-20260301-a1")]
        assert {record.stage for record in found.used} == {
            "estimate_variance",
            "train_student",
            "evaluate",
            "report",
        }
        assert found.graph.nodes.keys() == {"prepare_data", "train_teacher"}
        assert reused(found.graph) == set()
    ended = [record.ended for record in found.used if record.ended]
    assert ended == sorted(ended, reverse=True) and len(ended) == len(found.used)


def test_an_artifact_that_only_an_old_lock_knows(project: Project) -> None:
    shutil.rmtree(STORE)
    old = {record.name: record for record in lock_records("HEAD")}["evaluate cd-1"].outputs[0].md5
    project.commit("second lock")
    found = find_artifact(old, [])
    assert [record.name for record in found.made] == ["evaluate cd-1"]
    assert [record.name for record in found.used] == ["report"]
    assert found.graph.run == project.git("rev-parse", "HEAD~1")
    assert found.graph.nodes.keys() == {"prepare_data", "train_teacher", "train_student cd-1", "evaluate cd-1"}


def test_given_pictures_have_users_and_no_maker(project: Project) -> None:
    write(STORE, chain("mine", images="d" * 32 + ".dir"))
    found = find_artifact("d" * 32, [LineageStore(STORE)])
    assert (found.made, [record.name for record in found.used], found.graph.nodes) == ((), ["prepare_data"], {})


# Errors


def line(name: str, stores: list[LineageStore] | None = None, args: argparse.Namespace | None = None) -> str:
    with pytest.raises(UserError) as error:
        resolve(name, [LineageStore(STORE)] if stores is None else stores, args)
    return str(error.value)


AFTER = "; `mcm lineage log` lists the runs"
LOOKED = "2 runs in artifacts/lineage, git revisions, 0 DVC experiments, no Kubeflow server (--host)"


def test_an_unknown_run_says_where_was_looked_and_what_is_near(project: Project) -> None:
    assert line("nothing") == f"nothing: no such run; looked at {LOOKED}{AFTER}"
    hint = "did you mean 'dvc-20260302-b2'?"
    assert line("dvc-20260302-b3") == f"dvc-20260302-b3: no such run; {hint} Looked at {LOOKED}{AFTER}"
    assert line("mian") == f"mian: no such run; did you mean 'main'? Looked at {LOOKED}{AFTER}"
    shutil.rmtree(".git")
    looked = "no lineage store, git (project: no git repository), no Kubeflow server (--host)"
    assert line("HEAD", []) == f"HEAD: no such run; looked at {looked}{AFTER}"


def test_ambiguous_names(project: Project) -> None:
    both = "dvc-20260301-a1, dvc-20260302-b2"
    assert line("dvc-20260") == f"dvc-20260: 2 runs begin like this: {both}; give more of the id"
    assert line("dvc-2") == f"dvc-2: no such run; looked at {LOOKED}{AFTER}"
    assert line("artifacts/lineage") == f"artifacts/lineage: holds 2 runs; name one of them: {both}"
    one = project.experiment("twin", lock_of(chain("x", parameters={"teacher.seed": 5})))
    project.commit("another baseline")
    two = project.experiment("twin", lock_of(chain("x", parameters={"teacher.seed": 6})))
    named = f"{two[:9]}, {one[:9]}"
    assert line("twin") == f"twin: 2 experiments have that name; name a commit instead: {named}"


def test_folders_without_records(project: Project) -> None:
    project.write("empty/readme.txt", "")
    expected = "holds no lineage records; name the folder of a run, or a store with one run"
    assert line("empty") == f"empty: {expected}"
    write(Path("half"), [])
    (project.folder / "half/run").mkdir(parents=True)
    assert line("half/run") == f"half/run: {expected}"


def test_a_revision_without_lock(project: Project) -> None:
    project.git("checkout", "--quiet", "--orphan", "bare")
    project.git("rm", "--quiet", "-rf", "--cached", ".")
    (project.folder / "dvc.lock").unlink()
    commit = project.commit("no lock")
    expected = "no dvc.lock in this folder; `mcm lineage log` lists the revisions that have one"
    assert line("bare") == f"bare ({commit[:7]}): {expected}"
    assert line(commit[:10]) == f"{commit[:10]}: {expected}"


def test_an_artifact_is_no_run(project: Project) -> None:
    md5 = "0" * 32
    after = f"`mcm lineage show {md5}` says which runs made and used it"
    assert line(md5) == f"{md5}: names an artifact; {after}"


def test_an_artifact_that_nothing_knows(project: Project) -> None:
    with pytest.raises(UserError) as error:
        find_artifact("0" * 32, [LineageStore(STORE)])
    assert str(error.value) == (
        f"{'0' * 32}: no run made or used an artifact with this md5; looked at artifacts/lineage and the history of "
        "dvc.lock, name another store with --store"
    )


def test_a_run_of_newer_records_alone(project: Project) -> None:
    for path in (STORE / "dvc-20260302-b2").iterdir():
        path.write_text(path.read_text().replace('"version": 1', '"version": 9'))
    assert "upgrade" in line("dvc-20260302-b2")


def test_files_that_are_no_records_are_warnings_of_the_graph(project: Project) -> None:
    (STORE / "dvc-20260302-b2" / "broken.json").write_text('{"kind": "mcm.lin')
    graph = look("dvc-20260302-b2")
    assert graph.nodes.keys() == ALL
    assert len(graph.warnings) == 1 and "dvc-20260302-b2/broken.json" in graph.warnings[0]


def test_a_server_is_asked_last_and_only_where_one_is_named(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    graph = look("HEAD")

    def run_graph(run: str, stores: object, args: object) -> Graph:
        asked.append(run)
        return graph

    monkeypatch.setattr("pipelines.lineage.kubeflow.runs.run_graph", run_graph)
    args = argparse.Namespace(host="http://localhost:1")
    assert resolve("HEAD", [LineageStore(STORE)], args).run == graph.run and not asked
    assert resolve("a-run", [LineageStore(STORE)], args) is graph
    monkeypatch.setenv("KFP_HOST", "http://localhost:1")
    assert resolve("other", [LineageStore(STORE)]) is graph
    assert asked == ["a-run", "other"]


# Stores


def places(*words: str) -> list[str]:
    parser = argparse.ArgumentParser()
    options.add_stores(parser)
    return [str(store.place) for store in options.stores(parser.parse_args(words))]


def test_the_usual_stores_are_those_that_exist(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    assert places() == ["artifacts/lineage"]
    write(Path("work/pipeline/store/lineage"), chain("20260301-120000"))
    write(Path("mine"), chain("m"))
    assert places() == ["artifacts/lineage", "work/pipeline/store/lineage"]
    monkeypatch.setenv("MCM_LINEAGE", "mine")
    assert places() == ["artifacts/lineage", "work/pipeline/store/lineage", "mine"]
    monkeypatch.setenv("MCM_LINEAGE", "off")
    write(Path("off"), chain("o"))
    assert places() == ["artifacts/lineage", "work/pipeline/store/lineage"]
    assert places("--store", "mine/", "--store", "mine", "--store", "gs://b/lineage") == ["mine", "gs://b/lineage"]


def test_a_store_that_is_none(project: Project) -> None:
    with pytest.raises(UserError) as error:
        places("--store", "nowhere")
    assert str(error.value) == "nowhere: no such lineage store; a stage makes one named lineage beside its output"
    with pytest.raises(UserError) as error:
        places("--store", "artifacts")
    assert str(error.value) == "artifacts: not a lineage store itself; did you mean artifacts/lineage?"
