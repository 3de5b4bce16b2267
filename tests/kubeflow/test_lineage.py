"""The lineage records of tasks: in the store of the pipeline, under the run's id, also where nothing ran."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from kfp.dsl import Artifact

from components.kubeflow.lineage import lineage_in
from components.kubeflow.task import run
from components.lineage.record import Record, RunRecord, parse_record
from mcm.artifacts import folder_md5
from tests.conftest import data_section, write_pictures


@pytest.fixture
def params(tmp_path: Path) -> dict[str, Any]:
    return {"data": data_section(write_pictures(tmp_path / "pictures", 12))}


def prepare(
    params: dict[str, Any], out: Path, store: Path | str, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> Artifact:
    monkeypatch.setenv("MCM_RUN", run_id)
    artifact = Artifact(uri=str(out))
    run("prepare_data", params, {}, {"out": artifact}, str(store))
    return artifact


def recorded(store: Path, run_id: str) -> list[Record]:
    return [
        parse_record(json.loads(f.read_text()), f.name) for f in sorted((store / "lineage" / run_id).glob("*.json"))
    ]


def test_a_task_records_under_its_run_and_names_the_record(
    params: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = prepare(params, tmp_path / "out", tmp_path / "store", "run-a", monkeypatch)
    (record,) = recorded(tmp_path / "store", "run-a")
    assert (record.run.id, record.run.by, record.status) == ("run-a", "kubeflow", "succeeded")
    assert record.outputs[0].md5 == folder_md5(tmp_path / "out") == made.metadata["md5"]
    assert record.outputs[0].path is None
    assert made.metadata["record"] == f"run-a/prepare_data-{record.id[:12]}.json"


def test_work_that_was_taken_says_from_which_run(
    params: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    prepare(params, tmp_path / "first", store, "run-a", monkeypatch)
    second = prepare(params, tmp_path / "second", store, "run-b", monkeypatch)
    (first,), (taken,) = recorded(store, "run-a"), recorded(store, "run-b")
    assert taken.cached_from and (taken.cached_from.run, taken.cached_from.record) == ("run-a", first.id)
    assert taken.id != first.id and taken.cost and taken.cost.device_seconds == 0
    assert (taken.outputs, taken.parameters, taken.code) == (first.outputs, first.parameters, first.code)
    assert second.metadata["record"].startswith("run-b/prepare_data-")


def test_without_a_store_nothing_is_recorded(
    params: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = prepare(params, tmp_path / "out", "", "run-a", monkeypatch)
    assert "record" not in made.metadata and not list(tmp_path.rglob("lineage"))


def test_a_lost_record_of_earlier_work_is_a_warning(
    params: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = tmp_path / "store"
    prepare(params, tmp_path / "first", store, "run-a", monkeypatch)
    for file in (store / "lineage").rglob("*.json"):
        file.write_text("{")
    prepare(params, tmp_path / "second", store, "run-b", monkeypatch)
    assert "warning: no lineage record of what was taken: " in capsys.readouterr().err
    assert folder_md5(tmp_path / "first") == folder_md5(tmp_path / "second")


def test_a_run_records_what_it_was_asked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MCM_RUN", "run-a")
    for seed in (1, 2):
        with lineage_in(str(tmp_path)) as lineage:
            lineage.asked({"teacher": {"seed": seed}})
    asked = RunRecord.model_validate_json((tmp_path / "lineage" / "run-a" / "run.json").read_text())
    assert asked.params == {"teacher": {"seed": 1}} and asked.run.id == "run-a"


def test_the_environment_is_as_before_afterwards(tmp_path: Path) -> None:
    before = dict(os.environ)
    with lineage_in(str(tmp_path)):
        assert os.environ["MCM_LINEAGE"] == f"{tmp_path}/lineage"
    assert dict(os.environ) == before
