"""The programs of the stages on URIs: the same bytes as on paths, from any machine, killed or not."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components import storage
from components.estimate_variance.__main__ import main as estimate_variance
from components.evaluate.__main__ import main as evaluate
from components.prepare_data.__main__ import main as prepare_data
from components.sample.__main__ import main as sample
from components.storage.store import open_store
from components.train_student.__main__ import main as train_student
from components.train_teacher.__main__ import main as train_teacher
from mcm.artifacts import folder_md5
from mcm.training.checkpoint import STATE
from tests.chain.programs import ROOT, environment, write_params
from tests.conftest import data_section, tiny_params, write_pictures
from tests.storage.server import Server, free_port

Main = Callable[[list[str]], None]
EVERY, PAUSE, ITERATIONS = 5, 12, 20


def params_file(folder: Path, pictures: Path | str) -> Path:
    params: dict[str, Any] = {"data": data_section(Path("none")), **tiny_params()}
    params["data"]["path"] = str(pictures)
    params["teacher"] |= {"iterations": ITERATIONS, "checkpoint_every": EVERY}
    return write_params(folder / "params.yaml", params)


def call(main: Main, **options: str | Path) -> None:
    main([str(word) for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)])


def said_by(capsys: pytest.CaptureFixture[str], main: Main, **options: str | Path) -> str:
    """The one line of a program that leaves with status 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        call(main, **options)
    lines = capsys.readouterr().err.splitlines()
    assert left.value.code == 2 and len(lines) == 1, lines
    return lines[0]


def md5_of(uri: str, folder: Path) -> str:
    storage.download(uri, folder)
    return folder_md5(folder)


@pytest.fixture(scope="module")
def local(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chain on paths: pictures, dataset, teacher, variance, student, evaluations."""
    folder = tmp_path_factory.mktemp("local")
    pictures = write_pictures(folder / "pictures")
    params = params_file(folder, pictures)
    shared = {"params": params, "dataset": folder / "dataset"}
    call(prepare_data, params=params, out=folder / "dataset")
    call(train_teacher, **shared, out=folder / "teacher", work=folder / "work")
    return folder


@pytest.fixture
def remote(local: Path, uri: str) -> str:
    """The chain's files in the bucket."""
    for name in ("pictures", "dataset", "teacher", "params.yaml"):
        storage.upload(local / name, f"{uri}/{name}")
    return uri


def test_pictures_in_a_bucket_are_the_same_data_set(remote: str, local: Path, tmp_path: Path) -> None:
    params = params_file(tmp_path, f"{remote}/pictures/")
    call(prepare_data, params=params, out=tmp_path / "dataset")
    assert folder_md5(tmp_path / "dataset") == folder_md5(local / "dataset")
    assert json.loads((tmp_path / "dataset" / "config.json").read_text())["path"] == "pictures"


def test_pictures_that_cannot_be_used_are_named_by_uri(
    remote: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    params = params_file(tmp_path, f"{remote}/nothing")
    assert said_by(capsys, prepare_data, params=params, out=tmp_path / "out") == (
        f"error: {remote}/nothing: nothing is there; check the name, or make it first"
    )
    storage.write_bytes(f"{remote}/words/a.md", b"no picture")
    params = params_file(tmp_path, f"{remote}/words")
    assert said_by(capsys, prepare_data, params=params, out=tmp_path / "out") == (
        f"error: data: no images in '{remote}/words'; put images there or name another source"
    )
    assert not (tmp_path / "out").exists()


def test_a_teacher_is_trained_from_uri_to_uri(remote: str, local: Path, tmp_path: Path) -> None:
    places = {"params": f"{remote}/params.yaml", "dataset": f"{remote}/dataset"}
    call(train_teacher, **places, out=f"{remote}/made/teacher", work=f"{remote}/state")
    assert md5_of(f"{remote}/made/teacher", tmp_path / "back") == folder_md5(local / "teacher")
    left = storage.list_names(f"{remote}/state")  # logs stay, checkpoints go
    assert left and all(name.split("/")[1] == "logs" for name in left)
    (record,) = storage.list_names(f"{remote}/made/lineage")
    noted = json.loads(storage.read_bytes(f"{remote}/made/lineage/{record}"))
    assert noted["outputs"][0]["md5"] == folder_md5(local / "teacher") and noted["outputs"][0]["path"] == "teacher"
    assert noted["inputs"][0]["md5"] == folder_md5(local / "dataset")


def test_checkpoints_in_a_bucket_stay_until_the_artifact_is_there_too(
    remote: str, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An artifact on a machine that may go away does not free its checkpoint: the next machine writes it at once."""
    places = {"params": f"{remote}/params.yaml", "dataset": f"{remote}/dataset", "work": f"{remote}/state"}
    call(train_teacher, **places, out=tmp_path / "one")
    states = [name for name in storage.list_names(f"{remote}/state") if name.endswith(STATE)]
    assert states[-1].endswith(f"checkpoint-{ITERATIONS:08d}/{STATE}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another machine"))
    call(train_teacher, **places, out=tmp_path / "two")
    assert folder_md5(tmp_path / "two") == folder_md5(tmp_path / "one") == folder_md5(local / "teacher")
    assert [name for name in storage.list_names(f"{remote}/state") if name.endswith(STATE)] == states


def test_an_output_that_cannot_be_copied_leaves_the_checkpoints(
    remote: str, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"params": f"{remote}/params.yaml", "dataset": f"{remote}/dataset"}
    with pytest.raises(SystemExit):
        call(train_teacher, **places, out="gs://none/teacher", work=f"{remote}/state")
    assert capsys.readouterr().err.splitlines()[-1] == "error: gs://none: no such bucket; create it or name another"
    assert any(f"{ITERATIONS:08d}/{STATE}" in name for name in storage.list_names(f"{remote}/state"))


def test_the_other_stages_from_uri_to_uri(
    remote: str, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths: dict[str, str | Path] = {"params": local / "params.yaml", "dataset": local / "dataset"}
    uris: dict[str, str | Path] = {"params": f"{remote}/params.yaml", "dataset": f"{remote}/dataset"}
    made: dict[str, dict[str, str | Path]] = {}
    for name, given, base in (("here", paths, tmp_path), ("there", uris, remote)):
        teacher = local / "teacher" if name == "here" else f"{remote}/teacher"
        out = {key: Path(base) / key if name == "here" else f"{base}/{key}" for key in ("v", "s", "e", "t.json", "w")}
        call(estimate_variance, **given, teacher=teacher, out=out["v"])
        student = {"method": "cd", "student_steps": "2", "teacher": teacher, "work": out["w"]}
        call(train_student, **given, **student, out=out["s"])
        evaluation = {"variance": out["v"], "out": out["e"], "timing": out["t.json"], "work": out["w"]}
        call(evaluate, **given, model=teacher, **evaluation)
        made[name] = out
    for key in ("v", "s", "e"):
        assert md5_of(str(made["there"][key]), tmp_path / "back") == folder_md5(Path(made["here"][key])), key
    assert set(json.loads(storage.read_bytes(made["there"]["t.json"]))) == {"addim-4", "ddim-2", "ddim-1"}
    # Another machine finds the features there, and so makes none.
    features = [name for name in storage.list_names(made["there"]["w"]) if name.startswith("features/")]
    assert len(features) == 2
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another machine"))
    monkeypatch.setattr("mcm.evaluation.evaluate.atomic_file", lambda path: pytest.fail(f"{path} was made again"))
    out = made["there"]
    before = {entry.name: entry.generation for entry in open_store(out["w"]).entries("features")}
    evaluation = {"variance": out["v"], "out": f"{remote}/again", "timing": f"{remote}/again.json", "work": out["w"]}
    call(evaluate, **uris, model=f"{remote}/teacher", **evaluation)
    assert {entry.name: entry.generation for entry in open_store(out["w"]).entries("features")} == before


def test_pictures_of_a_model_in_a_bucket(
    remote: str, capsys: pytest.CaptureFixture[str], local: Path, tmp_path: Path
) -> None:
    options = {"steps": "2", "num": "4"}
    call(sample, checkpoint=f"{remote}/teacher", out=f"{remote}/grid.png", **options)
    assert capsys.readouterr().out.startswith(f"{remote}/grid.png: 4 images")
    call(sample, checkpoint=local / "teacher", out=tmp_path / "grid.png", **options)
    assert storage.read_bytes(f"{remote}/grid.png") == (tmp_path / "grid.png").read_bytes()


def test_inputs_that_are_not_there(remote: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    places = {"params": f"{remote}/params.yaml", "work": f"{remote}/state", "out": tmp_path / "out"}
    assert said_by(capsys, train_teacher, dataset=f"{remote}/data", **places) == (
        f"error: {remote}/data: nothing is there; check the name, or make it first"
    )
    # What a stage says of an input is said of the URI, and not of the copy.
    assert said_by(capsys, train_teacher, dataset=f"{remote}/teacher", **places) == (
        f"error: {remote}/teacher: this is a denoiser, and a dataset is needed; name another folder"
    )
    assert said_by(capsys, train_teacher, dataset="gs://none/data", **places) == (
        "error: gs://none: no such bucket; create it or name another"
    )


# As processes, killed


def start(words: list[str], machine: Path, wait: str, launch: tuple[str, ...] = ()) -> "subprocess.Popen[bytes]":
    """A program on a machine of its own, that is, with a cache of its own; `wait` as `tests.chain.pausing` has it."""
    machine.mkdir(exist_ok=True)
    command = [sys.executable, *launch, "-m"]
    command += ["tests.chain.pausing", words[0], str(PAUSE), wait, str(machine / "mark")] if wait else [words[0]]
    with (machine / "said.log").open("w") as log:
        return subprocess.Popen(
            [*command, *words[1:]],
            cwd=ROOT,
            env={**environment(), "XDG_CACHE_HOME": str(machine)},
            stdout=log,
            stderr=log,
        )


def wait_for(mark: Path, process: "subprocess.Popen[bytes]") -> None:
    while not mark.exists():
        assert process.poll() is None, (mark.parent / "said.log").read_text()
        time.sleep(0.02)


def ended(process: "subprocess.Popen[bytes]", machine: Path, status: int = 0) -> list[str]:
    assert process.wait(300) == status, (machine / "said.log").read_text()
    return (machine / "said.log").read_text().splitlines()


def words_of(remote: str) -> list[str]:
    words = ["components.train_teacher", "--params", f"{remote}/params.yaml", "--dataset", f"{remote}/dataset"]
    return [*words, "--out", f"{remote}/made", "--work", f"{remote}/state"]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["kill -9", "SIGTERM"])
def test_another_machine_goes_on_with_what_a_killed_one_left(
    remote: str, local: Path, tmp_path: Path, how: str
) -> None:
    process = start(words_of(remote), tmp_path / "one", "kill" if how == "kill -9" else "term")
    wait_for(tmp_path / "one" / "mark-0", process)
    if how == "kill -9":
        # Training stands still, and the copy of what it saved goes on behind it.
        while not any(f"{2 * EVERY:08d}/{STATE}" in name for name in storage.list_names(f"{remote}/state")):
            time.sleep(0.05)
        process.kill()
        ended(process, tmp_path / "one", -signal.SIGKILL)
    else:
        process.send_signal(signal.SIGTERM)
        said = ended(process, tmp_path / "one", 143)
        assert said[-1] == (
            f"stopped by SIGTERM at iteration {PAUSE} of {ITERATIONS}; the same command goes on from there"
        )
        # By the time that the program left, the checkpoint was there.
        assert any(f"{PAUSE:08d}/{STATE}" in name for name in storage.list_names(f"{remote}/state"))
    assert not storage.exists(f"{remote}/made")
    said = ended(start(words_of(remote), tmp_path / "two", ""), tmp_path / "two")
    begun = 2 * EVERY if how == "kill -9" else PAUSE
    assert f"{begun}/{ITERATIONS}" in "\n".join(said)
    assert md5_of(f"{remote}/made", tmp_path / "back") == folder_md5(local / "teacher")
    assert not any("checkpoint" in name for name in storage.list_names(f"{remote}/state"))


@pytest.mark.slow
def test_two_nodes_without_a_common_disk(remote: str, server: Server, tmp_path: Path) -> None:
    """Each node brings down what it needs; a signal to one stops both; two others go on with the same bytes."""

    def nodes(wait: str, *names: str) -> list["subprocess.Popen[bytes]"]:
        meet = ("--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", port)
        return [
            start(words, tmp_path / name, wait, ("-m", "torch.distributed.run", *meet, "--node-rank", str(rank)))
            for rank, name in enumerate(names)
        ]

    words, port = words_of(remote), str(free_port())
    for name, process in zip("ab", nodes("", "a", "b"), strict=True):
        ended(process, tmp_path / name)
    whole = md5_of(f"{remote}/made", tmp_path / "whole")
    storage.delete(f"{remote}/made")
    port = str(free_port())
    both = nodes("first", "c", "d")
    wait_for(tmp_path / "d" / "mark-1", both[1])
    os.kill(int((tmp_path / "d" / "mark-1").read_text()), signal.SIGTERM)
    for name, process in zip("cd", both, strict=True):
        ended(process, tmp_path / name, 1)
    kept = [name for name in storage.list_names(f"{remote}/state") if name.endswith(STATE)]
    assert kept[-1].endswith(f"checkpoint-{PAUSE + 1:08d}/{STATE}")
    port = str(free_port())
    for name, process in zip("ef", nodes("", "e", "f"), strict=True):
        ended(process, tmp_path / name)
        assert list((tmp_path / name).glob("*/work/*/checkpoints")), "this node brought nothing down"
    assert md5_of(f"{remote}/made", tmp_path / "back") == whole
    assert not any("checkpoint" in name for name in storage.list_names(f"{remote}/state"))
