"""Jobs on several nodes, against a server that speaks the Kubernetes API."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.kubeflow.cluster import POD
from components.kubeflow.jobs import run_on_cluster
from components.kubeflow.manifests import RUN_LABEL, JobRequest, job_name
from mcm.errors import UserError
from tests.chain.programs import ROOT, environment
from tests.kubeflow.api_server import NAMESPACE, KubernetesServer, write_kubeconfig

KINDS = {"TrainJob": ("trainjobs", "Complete"), "JobSet": ("jobsets", "Completed")}
ARGUMENTS = ["--out", "gs://bucket/store/jobs/x/out"]


def request(launcher: str = "TrainJob", **changes: Any) -> JobRequest:
    values = {
        "launcher": launcher,
        "nodes": 2,
        "processes": 8,
        "image": "registry.example/mcm@sha256:" + "0" * 64,
        "requests": {"cpu": "4", "memory": "8Gi"},
        "limits": {"memory": "8Gi", "nvidia.com/gpu": "8"},
        "timeout": 3600,
    }
    return JobRequest.parse({**values, **changes}, "test")


def run(asked: JobRequest) -> None:
    run_on_cluster(asked, "train_teacher", ARGUMENTS, "key")


def name_of(asked: JobRequest) -> str:
    return job_name("train_teacher", "key", asked)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubernetesServer]:
    state = KubernetesServer()
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("MCM_CLUSTER_PAUSE", "0.05")
    monkeypatch.setenv("MCM_CLUSTER_PATIENCE", "5")
    monkeypatch.delenv(POD, raising=False)
    with state.serving(tmp_path / "config") as url:
        monkeypatch.setattr(state, "url", url, raising=False)
        yield state


def soon(state: KubernetesServer, launcher: str, lines: int = 3, watches: int = 1) -> None:
    """As soon as a job is watched it runs on two pods and writes a log; it completes when it was watched so often."""

    def watched(times: int) -> None:
        while sum(verb == "watch" for verb, _ in state.requests) < times:
            time.sleep(0.01)

    def play(body: dict[str, Any]) -> None:
        name = body["metadata"]["name"]
        watched(1)
        state.condition(name, "Suspended", message="waiting for quota")
        pod = state.run_pod(name, 0)
        state.run_pod(name, 1)
        for line in range(lines):
            state.write_log(pod, f"line {line}")
            time.sleep(0.02)
        state.run_pod(name, 0, "Succeeded")
        watched(watches)
        state.condition(name, KINDS[launcher][1], message="jobset completed successfully")

    state.on_create = play


def error_of(asked: JobRequest) -> str:
    with pytest.raises(UserError) as caught:
        run(asked)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("launcher", KINDS)
def test_a_job_runs_its_log_is_shown_and_it_is_deleted(
    launcher: str, server: KubernetesServer, capfd: pytest.CaptureFixture[str]
) -> None:
    soon(server, launcher)
    run(request(launcher))
    shown = capfd.readouterr().out.splitlines()
    assert [line for line in shown if line.startswith("line")] == ["line 0", "line 1", "line 2"]
    assert shown[0] == f"{launcher} {name_of(request(launcher))}: created in namespace {NAMESPACE}"
    assert server.objects == {}
    assert ("delete", KINDS[launcher][0]) in server.requests


def test_a_failed_job_fails_the_task_with_its_reason(server: KubernetesServer) -> None:
    asked = request()

    def play(body: dict[str, Any]) -> None:
        name = body["metadata"]["name"]
        server.run_pod(name, 0, "Failed", {"exitCode": 1, "reason": "Error", "finishedAt": "2026-11-21T10:00:09Z"})
        server.run_pod(
            name, 1, "Failed", {"exitCode": 137, "reason": "OOMKilled", "finishedAt": "2026-11-21T10:00:01Z"}
        )
        server.condition(name, "Failed", "FailedJobs", "jobset failed due to one or more job failures")

    server.on_create = play
    assert error_of(asked) == (
        f"TrainJob {name_of(asked)}: failed, FailedJobs: jobset failed due to one or more job failures (node 1: "
        "OOMKilled, exit status 137); its log is above, and a new try goes on from the newest checkpoint"
    )
    assert list(server.objects) == [("trainjobs", name_of(asked))], "a failed job stays to be looked at"


def test_a_new_try_adopts_a_job_that_runs(
    server: KubernetesServer, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = request()
    body = {"apiVersion": "x", "kind": "TrainJob", "metadata": {"name": name_of(asked), "labels": {RUN_LABEL: "old"}}}
    server.create("trainjobs", body)
    own_pod(server, monkeypatch)

    def end() -> None:
        while ("patch", "trainjobs") not in server.requests:
            time.sleep(0.01)
        adopted.update(server.objects["trainjobs", name_of(asked)]["metadata"])
        server.condition(name_of(asked), "Complete")

    adopted: dict[str, Any] = {}
    threading.Thread(target=end, daemon=True).start()
    run(asked)
    assert ("create", "trainjobs") not in server.requests
    assert "there already, from an earlier try; adopting it" in capfd.readouterr().out
    assert adopted["labels"][RUN_LABEL] == "run-1"
    assert [owner["name"] for owner in adopted["ownerReferences"]] == ["workflow-1"]


def test_a_new_try_takes_a_complete_job_and_replaces_a_failed_one(
    server: KubernetesServer, capfd: pytest.CaptureFixture[str]
) -> None:
    asked = request()
    body: dict[str, Any] = {"apiVersion": "x", "kind": "TrainJob", "metadata": {"name": name_of(asked)}}
    server.create("trainjobs", json.loads(json.dumps(body)))
    server.condition(name_of(asked), "Complete")
    run(asked)
    assert ("create", "trainjobs") not in server.requests
    server.create("trainjobs", body)
    server.condition(name_of(asked), "Failed", "BackoffLimitExceeded", "a node went")
    soon(server, "TrainJob")
    run(asked)
    assert server.requests.count(("create", "trainjobs")) == 1
    shown = capfd.readouterr().out
    assert "an earlier try failed (BackoffLimitExceeded: a node went); deleting it to start anew" in shown
    assert "line 2" in shown


def test_a_job_that_is_being_deleted_is_waited_for(server: KubernetesServer) -> None:
    asked = request()
    server.create("trainjobs", {"apiVersion": "x", "kind": "TrainJob", "metadata": {"name": name_of(asked)}})
    server.slow_deletion = True
    server.delete(("trainjobs", name_of(asked)))
    server.slow_deletion = False
    soon(server, "TrainJob")
    threading.Timer(0.3, server.remove, [name_of(asked)]).start()
    run(asked)
    assert server.requests.count(("create", "trainjobs")) == 1


def test_lost_connections_lose_neither_the_job_nor_a_line_of_its_log(
    server: KubernetesServer, capfd: pytest.CaptureFixture[str]
) -> None:
    server.cut_watch_after, server.cut_log_after = 0, 2
    server.failing = 2
    soon(server, "TrainJob", lines=6, watches=2)
    run(request())
    shown = capfd.readouterr().out.splitlines()
    assert [line for line in shown if line.startswith("line")] == [f"line {n}" for n in range(6)]
    assert server.cut_watch_after is None and server.cut_log_after is None and server.failing == 0
    assert server.requests.count(("get", "pods/log")) >= 2
    assert server.requests.count(("create", "trainjobs")) == 1


def test_a_container_that_has_not_started_is_waited_for(
    server: KubernetesServer, capfd: pytest.CaptureFixture[str]
) -> None:
    server.log_not_ready = 2

    def play(body: dict[str, Any]) -> None:
        server.write_log(server.run_pod(body["metadata"]["name"], 0, "Succeeded"), "all that was said")
        server.condition(body["metadata"]["name"], "Complete")

    server.on_create = play
    run(request())
    assert server.log_not_ready == 0
    assert "all that was said\n" in capfd.readouterr().out


def test_a_watch_that_is_too_old_is_opened_anew(server: KubernetesServer) -> None:
    def play(body: dict[str, Any]) -> None:
        while ("watch", "trainjobs") not in server.requests:
            time.sleep(0.01)
        server.forgotten = 0
        server.condition(body["metadata"]["name"], "Complete")

    server.forgotten, server.on_create = 100, play
    run(request())
    assert server.requests.count(("watch", "trainjobs")) >= 1


def test_a_job_that_vanishes_is_one_line(server: KubernetesServer) -> None:
    server.on_create = lambda body: server.remove(body["metadata"]["name"])
    assert error_of(request()) == (
        f"TrainJob {name_of(request())}: deleted while it ran; submit again to go on from the newest checkpoint"
    )


def test_what_the_cluster_refuses_is_one_line(server: KubernetesServer, tmp_path: Path) -> None:
    url = server.url  # type: ignore[attr-defined]
    server.denied["create", "trainjobs"] = 403
    assert error_of(request()) == (
        f"cluster {url}: may not create trainjobs.trainer.kubeflow.org in namespace team: trainjobs is forbidden: "
        'User "system:serviceaccount:team:default" cannot create "trainjobs"; give the task\'s service account the '
        "role that deploy/ has for it"
    )
    server.denied, server.unknown = {}, "runtimePatches"
    assert error_of(request()) == (
        f"cluster {url}: its TrainJob is not the one of Kubeflow Trainer 2.3: strict decoding error: unknown field "
        '"spec.runtimePatches"; install Kubeflow Trainer 2.3 or newer'
    )
    server.denied, server.unknown = {("watch", "trainjobs"): 403}, None
    assert error_of(request()).startswith(
        f"cluster {url}: may not watch trainjobs.trainer.kubeflow.org in namespace team:"
    )
    server.installed = {"trainjobs"}
    assert error_of(request("JobSet")) == (
        f"cluster {url}: it has no JobSet of jobset.x-k8s.io/v1alpha2; install the JobSet controller, or choose a "
        "profile with another launcher"
    )
    config = tmp_path / "config"
    config.write_text(config.read_text().replace("token-of-the-test", "expired"))
    assert error_of(request()) == (
        f"cluster {url}: may not get trainjobs.trainer.kubeflow.org in namespace team: not signed in (Unauthorized); "
        "renew the token, or name a service account"
    )
    assert "expired" not in error_of(request())


def test_a_log_that_may_not_be_read_does_not_fail_the_job(
    server: KubernetesServer, capfd: pytest.CaptureFixture[str]
) -> None:
    server.denied["list", "pods"] = 403
    soon(server, "TrainJob")
    run(request())
    assert "its log cannot be shown: cluster http" in capfd.readouterr().err


def test_an_unreachable_cluster_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("MCM_CLUSTER_PAUSE", "0.01")
    monkeypatch.setenv("MCM_CLUSTER_PATIENCE", "0")
    monkeypatch.delenv(POD, raising=False)
    write_kubeconfig(tmp_path / "config", "http://127.0.0.1:9")
    message = error_of(request())
    assert message.startswith("cluster http://127.0.0.1:9: not reachable for 0 s: ")
    assert message.endswith("; what runs there goes on, so try again")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    assert error_of(request()).startswith("no Kubernetes cluster to start nodes on: ")


def own_pod(server: KubernetesServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is a task of a run."""
    workflow = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "workflow-1", "uid": "uid-w"}
    server.pods["task-pod"] = {
        "metadata": {
            "name": "task-pod",
            "labels": {"pipeline/runid": "run-1"},
            "ownerReferences": [{**workflow, "controller": True}],
        },
        "spec": {"serviceAccountName": "pipeline-runner", "containers": [{"name": "main"}]},
    }
    monkeypatch.setenv(POD, "task-pod")


def test_workers_get_the_tasks_service_account_run_and_endpoint(
    server: KubernetesServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_pod(server, monkeypatch)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://store:4443")
    monkeypatch.setenv("MCM_SECRET", "hidden")
    seen: list[dict[str, Any]] = []

    def play(body: dict[str, Any]) -> None:
        seen.append(json.loads(json.dumps(body)))
        server.condition(body["metadata"]["name"], "Completed")

    server.on_create = play
    run(request("JobSet", queue="team"))
    body = seen[0]
    owner = body["metadata"]["ownerReferences"][0]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("Workflow", "workflow-1", "uid-w")
    assert body["metadata"]["labels"][RUN_LABEL] == "run-1"
    assert body["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team"
    pod = body["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == "pipeline-runner"
    env = {entry["name"]: entry.get("value") for entry in pod["containers"][0]["env"]}
    assert env["STORAGE_EMULATOR_HOST"] == "http://store:4443"
    assert "MCM_SECRET" not in env


def test_sigterm_deletes_the_job(server: KubernetesServer, tmp_path: Path) -> None:
    asked = request()
    server.on_create = lambda body: server.write_log(server.run_pod(body["metadata"]["name"], 0), "at work")
    code = (
        "from components.kubeflow.launch import launch\n"
        "from components.runner import report_errors\n"
        f"with report_errors(): launch('train_teacher', {ARGUMENTS}, key='key')\n"
    )
    task = subprocess.Popen(
        [sys.executable, "-u", "-c", code],
        cwd=ROOT,
        env={**environment(), **os.environ, "MCM_JOB": asked.model_dump_json(exclude_defaults=True)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert task.stdout
    for line in task.stdout:
        if line == "at work\n":
            break
    assert list(server.objects) == [("trainjobs", name_of(asked))]
    task.send_signal(signal.SIGTERM)
    _, said = task.communicate(timeout=30)
    assert (task.returncode, server.objects) == (143, {})
    assert said == f"TrainJob {name_of(asked)}: stopped and deleted; a new try goes on from the newest checkpoint\n"


def test_names_are_stable_and_change_with_the_work() -> None:
    base = name_of(request())
    assert base == name_of(request())
    assert len({base, name_of(request(nodes=4)), job_name("train_teacher", "other", request())}) == 3
    assert len(job_name("estimate_variance", "key", request())) <= 63 - len("-node-0-0")
