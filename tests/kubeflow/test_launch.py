"""A stage's program in this pod: as one process and over several devices."""

import csv
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from components.kubeflow.launch import JOB, elsewhere, launch
from components.kubeflow.manifests import JobRequest, Place, manifest
from mcm.errors import UserError
from tests.chain.programs import ROOT, environment, write_params
from tests.conftest import tiny_params

LAUNCH = """
import sys
from components.kubeflow.launch import launch
from components.runner import report_errors
with report_errors():
    launch(sys.argv[2], sys.argv[3:], processes=int(sys.argv[1]))
print("launched")
"""


def launching(processes: int, program: str, *words: str | Path) -> subprocess.Popen[str]:
    """A task that launches a program; it is a process, since its exit status and signals are what is tested."""
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCH, str(processes), program, *map(str, words)],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


def losses(folder: Path) -> list[float]:
    with (folder / "loss.csv").open(newline="") as opened:
        return [float(row["loss"]) for row in csv.DictReader(opened)]


def test_without_a_request_a_stage_runs_on_one_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(JOB, raising=False)
    assert not elsewhere()


def test_a_request_asks_for_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        JOB,
        '{"launcher": "JobSet", "nodes": 4, "processes": 1, "image": "x", "requests": {}, "limits": {}, "timeout": 9}',
    )
    assert elsewhere()
    monkeypatch.setenv(JOB, "{")
    with pytest.raises(
        UserError, match=r"environment variable MCM_JOB: not readable as JSON \(.*\); compile the pipeline"
    ):
        launch("train_teacher", [])


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_bad_input_is_the_programs_own_line_and_exit_status(processes: int, tmp_path: Path) -> None:
    params = write_params(tmp_path / "params.yaml", tiny_params())
    task = launching(processes, "train_teacher", "--params", params, "--dataset", tmp_path, "--out", tmp_path / "out")
    out, err = task.communicate(timeout=120)
    assert task.returncode == 2
    assert "launched" not in out
    assert err == f"error: {tmp_path}: no config.json here, so this is not a dataset; make it first or name another\n"


@pytest.mark.slow
def test_two_processes_of_a_pod_train_as_one(tiny_dataset: Path, tmp_path: Path) -> None:
    params = write_params(tmp_path / "params.yaml", tiny_params())
    for processes in (1, 2):
        out, work = tmp_path / f"out{processes}", tmp_path / f"work{processes}"
        words: list[Any] = ["--params", params, "--dataset", tiny_dataset, "--out", out, "--work", work]
        task = launching(processes, "train_teacher", *words)
        said, err = task.communicate(timeout=240)
        assert task.returncode == 0, err
        assert said.endswith("launched\n")
    assert losses(tmp_path / "out1") == pytest.approx(losses(tmp_path / "out2"), rel=2e-4)


@pytest.mark.slow
def test_two_nodes_of_a_job_set_train_as_one_process(tiny_dataset: Path, tmp_path: Path) -> None:
    params = write_params(tmp_path / "params.yaml", tiny_params())
    shared = ["--params", str(params), "--dataset", str(tiny_dataset)]
    task = launching(1, "train_teacher", *shared, "--out", tmp_path / "one", "--work", tmp_path / "work1")
    assert task.communicate(timeout=120) and task.returncode == 0
    # The command and the variables of the manifest, which the cluster's nodes get; a name service is not here.
    request = JobRequest(
        launcher="JobSet", nodes=2, processes=1, image="x", requests={}, limits={}, timeout=9, run_as_user=1
    )
    words = [*shared, "--out", str(tmp_path / "two"), "--work", str(tmp_path / "work2")]
    body = manifest(request, "train_teacher", words, "name", Place(namespace="team"), {})
    container = body["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]
    given = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert given.pop("PET_NODE_RANK") is None  # the pod's index
    given |= {"PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": str(free_port())}
    command = [sys.executable, *container["command"][1:]]
    ranks = [
        subprocess.Popen(command, cwd=ROOT, env={**environment(), **given, "PET_NODE_RANK": str(rank)})
        for rank in range(2)
    ]
    assert [rank.wait(timeout=240) for rank in ranks] == [0, 0]
    assert losses(tmp_path / "one") == pytest.approx(losses(tmp_path / "two"), rel=2e-4)


@pytest.mark.slow
def test_what_another_process_than_the_first_says_of_its_failure_is_shown(tmp_path: Path) -> None:
    program = tmp_path / "fails.py"
    program.write_text("import os, sys, time\nif os.environ['RANK'] == '1': sys.exit('lost my way')\ntime.sleep(60)\n")
    code = f"import sys\nfrom components.kubeflow import launch\nsys.exit(launch._together([{str(program)!r}], 2))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (1, "process 1:\nlost my way\n")


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_sigterm_reaches_the_program_and_is_waited_for(processes: int, tiny_dataset: Path, tmp_path: Path) -> None:
    params = tiny_params()
    params["teacher"] |= {"iterations": 100_000, "checkpoint_every": 100_000, "log_every": 1}
    path = write_params(tmp_path / "params.yaml", params)
    words = ["--params", path, "--dataset", tiny_dataset, "--out", tmp_path / "out", "--work", tmp_path / "work"]
    task = launching(processes, "train_teacher", *words)
    end = time.monotonic() + 120
    while not any(log.stat().st_size for log in tmp_path.glob("work/*/logs/*")) and time.monotonic() < end:
        time.sleep(0.02)
    task.send_signal(signal.SIGTERM)
    out, err = task.communicate(timeout=120)
    assert task.returncode == 143, err
    assert "launched" not in out
    # The program was not killed: it has written what it had.
    assert list(tmp_path.glob("work/*/checkpoints/*")), err
    assert not list(tmp_path.glob("out*"))
