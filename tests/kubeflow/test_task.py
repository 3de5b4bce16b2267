"""What a task does around its stage: inputs checked, work that was done before taken from the store."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from kfp.dsl import Artifact, Dataset, PipelineTaskFinalStatus

from components.kubeflow import task
from components.kubeflow.gather import run_report
from components.kubeflow.launch import launch
from components.kubeflow.memo import code_md5
from components.kubeflow.show import write_ending
from components.kubeflow.task import checked, content_md5, run
from components.kubeflow.values import pack, unpack
from components.storage import Objects
from mcm.artifacts import folder_md5
from mcm.errors import UserError
from tests.conftest import data_section, tiny_params, write_pictures


@pytest.fixture
def params(tmp_path: Path) -> dict[str, Any]:
    return {"data": data_section(write_pictures(tmp_path / "pictures", 12))}


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The programs that were started, each of them really."""
    started: list[str] = []
    real = task.launch

    def counting(program: str, arguments: list[str]) -> None:
        started.append(program)
        real(program, arguments)

    monkeypatch.setattr(task, "launch", counting)
    return started


def prepare(params: dict[str, Any], out: Path, store: str = "", data_version: str = "1") -> Dataset:
    artifact = Dataset(uri=str(out))
    run("prepare_data", params, {}, {"out": artifact}, store, key={"data_version": data_version})
    return artifact


def test_an_output_is_where_kubeflow_wants_it_and_named_by_its_content(params: dict[str, Any], tmp_path: Path) -> None:
    made = prepare(params, tmp_path / "a" / "b" / "out")
    assert made.metadata["md5"] == folder_md5(tmp_path / "a" / "b" / "out")


def test_the_same_work_is_done_once(params: dict[str, Any], tmp_path: Path, launched: list[str]) -> None:
    store = str(tmp_path / "store")
    first = prepare(params, tmp_path / "first", store)
    second = prepare(params, tmp_path / "second", store)
    assert launched == ["prepare_data"]
    assert first.metadata == second.metadata == {"md5": folder_md5(tmp_path / "second")}


@pytest.mark.parametrize("change", ["parameter", "data", "image", "code"])
def test_other_work_is_done(
    params: dict[str, Any], tmp_path: Path, launched: list[str], monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    store = str(tmp_path / "store")
    prepare(params, tmp_path / "first", store)
    if change == "parameter":
        params["data"]["resolution"] = 8
    if change == "image":
        monkeypatch.setenv("MCM_IMAGE", "another")
    if change == "code":
        monkeypatch.setattr("components.kubeflow.memo.code_md5", lambda: "another")
    prepare(params, tmp_path / "second", store, "2" if change == "data" else "1")
    assert launched == ["prepare_data"] * 2


def test_a_result_that_is_not_whole_any_more_is_made_again(
    params: dict[str, Any], tmp_path: Path, launched: list[str]
) -> None:
    store = tmp_path / "store"
    first = prepare(params, tmp_path / "first", str(store))
    victim = sorted(path for path in (store / "files").rglob("*") if path.is_file())[0]
    victim.unlink()
    second = prepare(params, tmp_path / "second", str(store))
    assert launched == ["prepare_data"] * 2
    assert first.metadata == second.metadata


def test_bad_input_of_a_stage_is_its_one_line_and_status_2(
    params: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    params["data"]["path"] = str(tmp_path / "nowhere")
    with pytest.raises(SystemExit) as left:
        prepare(params, tmp_path / "out", str(tmp_path / "store"))
    assert left.value.code == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if line]
    assert len(lines) == 1 and lines[0].startswith("error: ") and "nowhere" in lines[0]
    assert not (tmp_path / "out").exists() and not (tmp_path / "store" / "memo").exists()


def test_a_job_gets_everything_by_uri_and_leaves_the_same(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program really runs, here once instead of on the nodes of a job."""
    sections = {name: tiny_params()[name] for name in ("network", "schedule", "teacher")}
    dataset = Dataset(uri=str(tiny_dataset))
    alone, spread = Artifact(uri=str(tmp_path / "alone")), Artifact(uri=str(tmp_path / "spread"))
    run("train_teacher", sections, {"dataset": dataset}, {"out": alone}, str(tmp_path / "one"), work="state")
    given: list[list[str]] = []

    def on_nodes(program: str, arguments: list[str], key: str) -> None:
        given.append(arguments)
        launch(program, arguments)

    monkeypatch.setattr(task, "elsewhere", lambda: True)
    monkeypatch.setattr(task, "launch", on_nodes)
    store = str(tmp_path / "two")
    run("train_teacher", sections, {"dataset": dataset}, {"out": spread}, store, work="state")
    assert all(word.startswith((f"{store}/jobs/", f"{store}/state")) for word in given[0][1::2])
    assert alone.metadata == spread.metadata
    # A task that died after its job ended finds the result under the job's name, and starts none.
    place = given[0][given[0].index("--out") + 1]
    shutil.copytree(tmp_path / "spread", place)
    shutil.rmtree(tmp_path / "two" / "memo")
    run("train_teacher", sections, {"dataset": dataset}, {"out": spread}, store, work="state")
    assert len(given) == 1
    assert not (tmp_path / "two" / "jobs").exists() or not list((tmp_path / "two" / "jobs").iterdir())


def test_a_job_needs_a_store(tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task, "elsewhere", lambda: True)
    with pytest.raises(SystemExit) as left:
        run("train_teacher", {}, {"dataset": Dataset(uri=str(tiny_dataset))}, {"out": Artifact(uri=str(tmp_path))})
    assert left.value.code == 2


def given(folder: Path, text: str = "a") -> Artifact:
    folder.mkdir(parents=True)
    (folder / "file").write_text(text)
    return Artifact(uri=str(folder), metadata={"md5": folder_md5(folder)})


def test_an_input_that_was_deleted_is_said(tmp_path: Path) -> None:
    artifact = given(tmp_path / "in")
    shutil.rmtree(tmp_path / "in")
    with pytest.raises(UserError) as error:
        checked("dataset", artifact)
    assert str(error.value) == (
        f"input 'dataset': nothing at {tmp_path / 'in'}; if it was deleted behind a cache hit, "
        "submit again with --no-cache"
    )


def test_an_input_that_was_deleted_is_taken_from_the_store(tmp_path: Path) -> None:
    artifact, store = given(tmp_path / "in"), str(tmp_path / "store")
    Objects(store).push(tmp_path / "in")
    shutil.rmtree(tmp_path / "in")
    assert checked("dataset", artifact, store) == artifact.metadata["md5"] == content_md5(tmp_path / "in")


def test_an_input_that_was_changed_is_said(tmp_path: Path) -> None:
    artifact = given(tmp_path / "in")
    (tmp_path / "in" / "file").write_text("b")
    with pytest.raises(UserError, match="was changed or cut off since, so submit again with --no-cache"):
        checked("dataset", artifact)


def test_the_report_says_which_artifact_has_no_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    single, nameless = given(tmp_path / "dataset"), given(tmp_path / "model", "b")
    with pytest.raises(SystemExit) as left:
        run_report({}, {"dataset": single}, {"students": [nameless]}, Artifact(uri=str(tmp_path / "out")))
    assert left.value.code == 2
    assert "does not say whose it is" in capsys.readouterr().err


VALUES: list[Any] = [
    {"path": None, "steps": 8, "rate": 0.5, "whole": 1.0, "list": [1, None, {"a": None}], "word": "x", "flag": True},
    {},
    [],
]


@pytest.mark.parametrize("value", VALUES)
def test_parameters_survive_a_struct(value: Any) -> None:
    from google.protobuf import json_format, struct_pb2

    struct = struct_pb2.Value()
    json_format.Parse(json.dumps(pack(value)), struct)
    assert unpack(json_format.MessageToDict(struct)) == value


def test_the_code_has_a_hash_of_its_own() -> None:
    assert len(code_md5()) == 32 and code_md5() == code_md5()


@pytest.mark.parametrize(
    ("state", "message", "line"),
    [
        ("SUCCEEDED", "", "The run ended SUCCEEDED."),
        (
            "FAILED",
            "train-teacher",
            "The run ended FAILED: train-teacher. What was made is kept: `mcm pipeline resume` goes on from there.",
        ),
        ("RUNNING", "", "The run is over; Kubeflow gives its state as RUNNING, so see the tasks."),
    ],
)
def test_the_exit_handler_says_how_the_run_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], state: str, message: str, line: str
) -> None:
    status = PipelineTaskFinalStatus(state, "job", "exit-handler-1", 1, message)
    write_ending(status, Artifact(uri=str(tmp_path / "page")))
    assert (tmp_path / "page").read_text() == f"{line}\n" == capsys.readouterr().out
