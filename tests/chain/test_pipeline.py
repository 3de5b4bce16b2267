"""The whole graph through KFP's local runner: the same bytes as `dvc repro` with the same parameters and seed."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from mcm.artifacts import folder_md5
from tests.chain.programs import run
from tests.storage.server import BUCKET, Server

pytestmark = pytest.mark.slow

# Where DVC keeps what a task makes; {name} is a student's.
PLACES = {
    ("prepare-data", "out"): "artifacts/dataset",
    ("train-teacher", "out"): "artifacts/teacher",
    ("estimate-variance", "out"): "artifacts/variance",
    ("train-student", "out"): "artifacts/students/{name}",
    ("evaluate-teacher", "out"): "artifacts/evaluations/{name}",
    ("evaluate-student", "out"): "artifacts/evaluations/{name}",
}


@pytest.fixture(scope="module")
def ran(project: Path) -> dict[str, Any]:
    """What `mcm pipeline run --local` printed, in the project that `dvc repro` ran in."""
    return ran_again(project)


def ran_again(project: Path, *options: str) -> dict[str, Any]:
    return json.JSONDecoder().raw_decode(run("mcm", "pipeline", "run", "--local", "--json", *options, cwd=project))[0]


def test_every_artifact_has_the_bytes_that_dvc_has(project: Path, ran: dict[str, Any]) -> None:
    stages = yaml.safe_load((project / "dvc.lock").read_text())["stages"]
    known = {out["path"]: out["md5"] for stage in stages.values() for out in stage["outs"]}
    places = {(row["task"], row["output"]): PLACES.get((row["task"], row["output"])) for row in ran["artifacts"]}
    assert set(PLACES) == {key for key, place in places.items() if place}
    ours = {
        place.format(name=row["name"]): row["md5"]
        for row in ran["artifacts"]
        if (place := places[row["task"], row["output"]])
    }
    measured = ("artifacts/timings/", "artifacts/report")  # durations, and the page that shows them
    assert ours == {path: md5 for path, md5 in known.items() if not path.startswith(measured)}


def test_the_figures_are_equal_bit_for_bit(project: Path, ran: dict[str, Any]) -> None:
    theirs = json.loads((project / "artifacts/report/summary.json").read_text())
    assert {key for key in theirs if key.endswith(".fid")}
    assert {k: v for k, v in ran["summary"].items() if not k.endswith("seconds_per_image") and "checks" not in k} == {
        k: v for k, v in theirs.items() if not k.endswith("seconds_per_image") and "checks" not in k
    }


def test_kubeflow_is_shown_figures_report_and_grids(ran: dict[str, Any]) -> None:
    folder = Path(ran["run"])
    pages = {path.parent.name: path for path in folder.rglob("page")}
    assert pages["report"].read_text().startswith("<!DOCTYPE html>")
    grids = list(folder.rglob("evaluate-student/pictures"))
    assert len(grids) == 4 and all("data:image/png;base64," in path.read_text() for path in grids)
    logged = json.loads(next(folder.rglob("evaluate-teacher/executor_output.json")).read_text())["artifacts"]["metrics"]
    assert {"ddim-1.fid", "ddim-2.fid", "addim-4.fid"} <= set(logged["artifacts"][0]["metadata"])


def test_the_exit_handler_says_how_it_ended(ran: dict[str, Any]) -> None:
    ending = next(Path(ran["run"]).rglob("conclude/summary"))
    assert ending.read_text() == "The run ended SUCCEEDED.\n"


def test_a_second_run_takes_everything_from_the_store(project: Path, ran: dict[str, Any]) -> None:
    again = ran_again(project)
    log = (Path(again["run"]) / "log.txt").read_text()
    assert log.count("the same work was done before") == len(PLACES) - 2 + 2 * 4  # the students' two stages, four times
    assert {k: v for k, v in again["summary"].items() if k.endswith("fid")} == {
        k: v for k, v in ran["summary"].items() if k.endswith("fid")
    }


def test_a_given_teacher_and_data_set_are_imported(project: Path, ran: dict[str, Any]) -> None:
    again = ran_again(project, "--dataset", "artifacts/dataset", "--teacher", "artifacts/teacher")
    assert not {"prepare-data", "train-teacher"} & {row["task"] for row in again["artifacts"]}
    assert again["summary"] == pytest.approx(ran["summary"])


def test_a_bucket_as_store_changes_no_byte_and_home_can_pull_it(
    project: Path, ran: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server(tmp_path / "gcs")
    server.start()
    try:
        server.create(BUCKET)
        endpoint, store = f"http://127.0.0.1:{server.port}", f"gs://{BUCKET}/mcm"
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", endpoint)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        made = ran_again(project, "--store", store, "-S", "students.steps=[1]", "-S", "students.methods=[cd]")
        ours, theirs = hashes(made), hashes(ran)
        assert {key for key in ours if key[1] == "out"} >= {("train-student", "out", "cd-1")}
        assert {key: md5 for key, md5 in ours.items() if key[0] != "report" and key[1] == "out"} == {
            key: md5 for key, md5 in theirs.items() if key in ours and key[0] != "report" and key[1] == "out"
        }
        home = tmp_path / "home"
        home.mkdir()
        for words in (["git", "init", "--quiet"], ["dvc", "init", "--quiet"], ["dvc", "remote", "add", "store", store]):
            run(*words, cwd=home)
        run("dvc", "remote", "modify", "store", "endpointurl", endpoint, cwd=home)
        run("dvc", "remote", "modify", "store", "allow_anonymous_login", "true", cwd=home)
        md5 = ours["train-teacher", "out", "teacher"]
        (home / "teacher.dvc").write_text(f"outs:\n- md5: {md5}\n  hash: md5\n  path: teacher\n")
        run("dvc", "pull", "--remote", "store", "teacher.dvc", cwd=home)
        assert folder_md5(home / "teacher") == md5
    finally:
        server.stop()


def hashes(made: dict[str, Any]) -> dict[tuple[str, str, str], str]:
    return {(row["task"], row["output"], row["name"]): row["md5"] for row in made["artifacts"]}


def test_a_failing_task_fails_the_run_and_says_why(project: Path) -> None:
    output = run("mcm", "pipeline", "run", "--local", "-S", "teacher.batch_size=1000", cwd=project, status=2)
    assert output.splitlines()[-1].startswith("error: task train-teacher: ") and "batch" in output
    output = run("mcm", "pipeline", "run", "--local", "-S", "teacher.iteration=3", cwd=project, status=2)
    assert "unknown key 'iteration'; did you mean 'iterations'" in output
