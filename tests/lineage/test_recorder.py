"""What a stage's execution records of itself, and what it never does."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from components.lineage import recorder as recorders
from components.lineage import surroundings
from components.lineage.record import Record, RunRecord, parse_record
from components.lineage.recorder import flat, recording
from components.lineage.runs import store_of
from components.lineage.store import keep
from components.prepare_data.__main__ import main as prepare
from mcm.artifacts import folder_md5
from mcm.errors import UserError
from mcm.training.stop import StoppedError
from tests.chain.programs import ROOT, environment
from tests.conftest import data_section, write_pictures
from tests.lineage.builders import record


@pytest.fixture
def params(tmp_path: Path) -> Path:
    pictures = write_pictures(tmp_path / "somewhere" / "pictures", 12)
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump({"data": data_section(pictures)}))
    return file


def written(store: Path) -> list[Record]:
    files = sorted(store.rglob("*.json")) if store.is_dir() else []
    return [parse_record(json.loads(file.read_text()), str(file)) for file in files]


def test_an_execution_says_what_it_read_decided_and_made(params: Path, tmp_path: Path) -> None:
    out = tmp_path / "artifacts" / "dataset"
    prepare(["--params", str(params), "--out", str(out)])
    (made,) = written(tmp_path / "artifacts" / "lineage")
    assert (made.stage, made.task, made.status, made.run.by) == ("prepare_data", "", "succeeded", "mcm")
    assert made.outputs[0].md5 == folder_md5(out) and made.outputs[0].path == "dataset"
    assert [(i.name, i.md5) for i in made.inputs] == [("images", folder_md5(tmp_path / "somewhere" / "pictures"))]
    assert made.parameters["data.resolution"] == 16 and made.parameters["data.holdout"] is not None
    assert made.seeds == {"data.seed": 0}
    assert made.code and made.code.files and "mcm/data/prepare.py" in made.code.files
    assert made.libraries and {"python", "numpy", "pillow"} <= made.libraries.keys()
    assert made.started and made.ended and made.cost and made.started <= made.ended
    assert made.cost.device_seconds == made.cost.seconds


def test_plumbing_is_no_cause(params: Path, tmp_path: Path) -> None:
    prepare(["--params", str(params), "--out", str(tmp_path / "dataset")])
    (made,) = written(tmp_path / "lineage")
    assert made.code and made.code.files
    assert not [name for name in made.code.files if "lineage" in name or "storage" in name or "__main__" in name]


def test_no_path_and_no_secret(params: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2hunter2")
    monkeypatch.setenv("MCM_IMAGE", "registry.example/mcm@sha256:" + "0" * 64)
    prepare(["--params", str(params), "--out", str(tmp_path / "dataset")])
    (file,) = (tmp_path / "lineage").rglob("*.json")
    text = file.read_text()
    assert (
        "hunter2" not in text and str(tmp_path) not in text and str(ROOT) not in text and str(Path.home()) not in text
    )
    assert json.loads(text)["image"].startswith("registry.example/mcm@sha256:")


@pytest.mark.parametrize(
    ("value", "shown"),
    [("/home/me/pictures", "pictures"), ("~/pictures", "pictures"), ("gs://b/p", "gs://b/p"), ("a/b", "b")],
)
def test_places_are_no_facts_of_a_result(value: str, shown: str) -> None:
    assert dict(flat({"data": {"path": value, "limit": None}})) == {"data.path": shown, "data.limit": None}


def test_bad_input_leaves_nothing(params: Path, tmp_path: Path) -> None:
    params.write_text("data: {source: folder, path: nowhere, resolution: 16}\n")
    with pytest.raises(SystemExit) as left:
        prepare(["--params", str(params), "--out", str(tmp_path / "artifacts" / "dataset")])
    assert left.value.code == 2 and not (tmp_path / "artifacts").exists()


@pytest.mark.parametrize(
    ("error", "status"),
    [(StoppedError(3, 9), "stopped"), (KeyboardInterrupt(), "stopped"), (ValueError("x"), "failed")],
)
def test_an_execution_that_did_not_end_well_is_recorded_and_made_nothing(
    tmp_path: Path, error: BaseException, status: str
) -> None:
    out = tmp_path / "teacher"
    with pytest.raises(type(error)), recording("train_teacher") as noted:
        noted.output("out", out, out)
        raise error
    (made,) = written(tmp_path / "lineage")
    assert made.status == status and made.outputs == ()


def test_of_several_processes_the_leading_one_records(
    params: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    prepare(["--params", str(params), "--out", str(tmp_path / "dataset")])
    assert not (tmp_path / "lineage").exists()
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    prepare(["--params", str(params), "--out", str(tmp_path / "dataset")])
    (made,) = written(tmp_path / "lineage")
    assert made.hardware and made.hardware.devices == 4
    assert made.cost and made.cost.device_seconds == pytest.approx(4 * made.cost.seconds, abs=0.01)


def test_a_record_that_cannot_be_written_is_a_warning(
    params: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MCM_LINEAGE", str(tmp_path / "file" / "lineage"))
    prepare(["--params", str(params), "--out", str(tmp_path / "dataset")])
    assert (tmp_path / "dataset" / "config.json").is_file()
    warned = capsys.readouterr().err.splitlines()
    assert [line for line in warned if line.startswith("warning: prepare_data: its lineage record was not written: ")]


@pytest.mark.parametrize(
    ("out", "store"),
    [
        ("artifacts/teacher", "artifacts/lineage"),
        ("artifacts/students/cd-4", "artifacts/lineage"),
        ("artifacts/timings/cd-4.json", "artifacts/lineage"),
        ("teacher", "lineage"),
        ("gs://bucket/run/evaluations/cd-4", "gs://bucket/run/lineage"),
        ("gs://bucket/teacher", "gs://bucket/lineage"),
    ],
)
def test_records_lie_in_the_output_root(out: str, store: str) -> None:
    assert str(store_of(out)) == store


def test_the_environment_names_another_store_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MCM_LINEAGE", "gs://b/lineage")
    assert store_of("artifacts/teacher") == "gs://b/lineage"
    monkeypatch.setenv("MCM_LINEAGE", "off")
    assert store_of("artifacts/teacher") is None


def test_an_experiment_in_a_copy_of_the_project_records_in_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "project" / ".dvc" / "tmp" / "exps" / "standalone" / "tmpab"
    (copy / ".dvc").mkdir(parents=True)
    monkeypatch.chdir(copy)
    assert store_of("artifacts/teacher") == tmp_path / "project" / "artifacts" / "lineage"


def test_figures_are_those_of_the_artifact(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text('{"ddim-4": {"fid": 2.5, "samples": 9, "guidance": 0.0, "ema": "a"}}')
    (tmp_path / "loss.csv").write_text("iteration,loss\n5,3.0\n10,2.0\n")
    assert dict(recorders.figures(tmp_path)) == {"ddim-4.fid": 2.5, "loss": 2.0}


def test_the_published_schema_is_the_records(params: Path, tmp_path: Path) -> None:
    for kind, name in ((Record, "lineage-record-1.json"), (RunRecord, "lineage-run-1.json")):
        published = json.loads((ROOT / "docs" / "schemas" / name).read_text())
        assert published == kind.model_json_schema(mode="serialization"), (
            "python -m components.lineage.schema docs/schemas"
        )
    prepare(["--params", str(params), "--out", str(tmp_path / "dataset")])
    (file,) = (tmp_path / "lineage").rglob("*.json")
    published = json.loads((ROOT / "docs" / "schemas" / "lineage-record-1.json").read_text())
    jsonschema.Draft202012Validator(published).validate(json.loads(file.read_text()))


def test_code_outside_a_checkout_has_no_commit(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("")
    assert surroundings.checkout(tmp_path / "code.py") == (None, None)


def test_code_installed_inside_another_repository_has_no_commit(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    (tmp_path / "code.py").write_text("")
    assert surroundings.checkout(tmp_path / "code.py") == (None, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "x.json: record version 2, and this program reads up to 1; upgrade it"),
        ({"kind": "other"}, "x.json: not a lineage record; move it out of the store"),
        ({"stage": 5}, "x.json: not a valid lineage record (stage: Input should be a valid string); "),
    ],
)
def test_a_file_that_is_no_record_of_ours_is_named(change: dict[str, Any], message: str) -> None:
    values = {**json.loads(record("evaluate", "cd-4").model_dump_json()), **change}
    with pytest.raises(UserError) as raised:
        parse_record(values, "x.json")
    assert str(raised.value).startswith(message) and "\n" not in str(raised.value)


def test_a_path_outside_the_output_root_is_refused() -> None:
    values = json.loads(record("evaluate", "cd-4", outputs={"out": "0" * 32}).model_dump_json())
    for path in ("/etc/passwd", "../x"):
        values["outputs"][0]["path"] = path
        with pytest.raises(UserError, match="is not below the output root"):
            parse_record(values, "x.json")


WRITER = """
import sys, uuid
from components.lineage.store import keep
from tests.lineage.builders import record
made = record("evaluate", "cd-4", run="shared")
print("ready", flush=True)
for _ in range(int(sys.argv[2])):
    keep(sys.argv[1], made.model_copy(update={"id": uuid.uuid4().hex}))
"""


def writer(store: Path, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(store), str(count)]
    env = {**environment(), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)


def test_two_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    both = [writer(tmp_path, 50), writer(tmp_path, 50)]
    assert [process.wait(timeout=60) for process in both] == [0, 0]
    assert len(written(tmp_path)) == 100


def test_a_killed_writer_leaves_whole_records_alone(tmp_path: Path) -> None:
    process = writer(tmp_path, 10**6)
    assert process.stdout and process.stdout.readline() == "ready\n"
    while len(list(tmp_path.rglob("[!.]*.json"))) < 5:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=60)
    process.stdout.close()
    assert len([parse_record(json.loads(f.read_text()), "") for f in tmp_path.rglob("[!.]*.json")]) >= 5


def test_a_record_is_never_changed(tmp_path: Path) -> None:
    first = record("evaluate", "cd-4")
    name = keep(tmp_path, first)
    before = (tmp_path / name).read_bytes()
    assert keep(tmp_path, first.model_copy(update={"image": "another"})) == name
    assert (tmp_path / name).read_bytes() == before
