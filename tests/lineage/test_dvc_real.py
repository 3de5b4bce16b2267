"""Locks, experiments and caches that dvc itself wrote, and its own view of this project's graph."""

import os
from pathlib import Path

import pytest
import yaml

from mcm.artifacts import file_md5
from pipelines.lineage.dvc.history import history, lock_records
from pipelines.lineage.graph import build
from pipelines.lineage.resolve import resolve
from pipelines.lineage.store.records import LineageStore
from tests.chain.programs import ROOT, run, write_params
from tests.conftest import data_section, write_pictures

pytestmark = pytest.mark.slow

STAGES = {
    "prepare_data": {
        "cmd": "python -m components.prepare_data --params params.yaml --out artifacts/dataset",
        "deps": ["code", "data"],
        "params": ["data"],
        "outs": ["artifacts/dataset"],
    },
    "count": {
        "cmd": "python code/count.py artifacts/dataset counts.json",
        "deps": ["artifacts/dataset", "code/count.py"],
        "outs": ["counts.json"],
    },
}
COUNT = "import json, os, sys\njson.dump(len(os.listdir(sys.argv[1])), open(sys.argv[2], 'w'))\n"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of one stage of ours and one of another's, after `dvc repro` and an experiment."""
    folder = tmp_path_factory.mktemp("dvc") / "project"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"NAME": "t", "EMAIL": "t@t"}.items():
            patch.setenv(f"GIT_AUTHOR_{name}", value)
            patch.setenv(f"GIT_COMMITTER_{name}", value)
        patch.setenv("PYTHONPATH", str(ROOT))
        run("git", "init", "--quiet", "--initial-branch=main", cwd=folder)
        run("dvc", "init", "--quiet", cwd=folder)
        (folder / ".dvcignore").write_text("*.md\n")
        (folder / ".gitignore").write_text("artifacts/\ndata/\n__pycache__/\ncounts.json\n")
        (folder / "code/inner").mkdir(parents=True)
        (folder / "code/count.py").write_text(COUNT)
        (folder / "code/inner/more.py").write_text("")
        (folder / "code/README.md").write_text("about\n")
        write_pictures(folder / "data/pictures", count=8)
        params = {"data": {**data_section(folder / "data/pictures"), "path": "data/pictures"}}
        write_params(folder / "params.yaml", params)
        (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES}))
        run("dvc", "repro", "--quiet", cwd=folder)
        run("git", "add", "--all", cwd=folder)
        run("git", "commit", "--quiet", "-m", "first", cwd=folder)
        run("dvc", "exp", "run", "--quiet", "-n", "half", "-S", "data.holdout=0.5", cwd=folder)
        run("git", "checkout", "--quiet", "--force", "HEAD", cwd=folder)
    return folder


def test_every_stage_of_a_real_lock_is_the_execution_that_left_a_record(
    project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(project)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    stores = [LineageStore("artifacts/lineage")]
    for name in ("HEAD", "half", "workspace"):
        graph = resolve(name, stores)
        assert set(graph.nodes) == {"prepare_data", "count"}
        record = graph.nodes["prepare_data"].record
        assert record.started is not None
        assert record.parameters["data.holdout"] == (0.5 if name == "half" else 0.2)
        assert graph.nodes["count"].record.started is None  # a program that knows nothing of records
        assert [(edge.maker, edge.reader) for edge in graph.edges] == [("prepare_data", "count")]
    assert resolve("half", stores).nodes["prepare_data"].record.run.experiment == "half"


def test_a_folder_of_code_that_dvc_hashed_is_named_file_by_file(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    expected = {name: file_md5(Path(name)) for name in ("code/count.py", "code/inner/more.py")}
    for revision in ("HEAD", None):
        records = {record.stage: record for record in lock_records(revision)}
        prepared, counted = records["prepare_data"].code, records["count"].code
        assert prepared and prepared.files == expected
        assert counted and counted.files == {"code/count.py": expected["code/count.py"]}


def test_history_has_the_experiment_that_dvc_made(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    found = list(history())
    assert [revision.name for revision in found if revision.commit.experiment] == ["half"]
    assert {revision.commit.subject for revision in found} >= {"first"}


def test_the_graph_of_this_project_is_the_one_that_dvc_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    from dvc.repo import Repo

    monkeypatch.chdir(ROOT)
    with Repo(os.fspath(ROOT)) as repo:
        stages = yaml.safe_load(Path("dvc.lock").read_text())["stages"]
        drawn = {(maker.name, reader.name) for reader, maker in repo.index.graph.edges}
    records = lock_records()
    names = dict(zip(stages, (record.name for record in records), strict=True))
    graph = build("workspace", "dvc", "workspace", [(record, False) for record in records])
    assert {(edge.maker, edge.reader) for edge in graph.edges} == {(names[m], names[r]) for m, r in drawn}
