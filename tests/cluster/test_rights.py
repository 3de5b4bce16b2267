"""What deploy/ lets the service accounts do, asked of a real API server with their own tokens."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kubernetes.config import kube_config

from components.kubeflow.cluster import Cluster
from components.kubeflow.jobs import KINDS, Job, run_on_cluster
from components.kubeflow.manifests import JobRequest, Place, job_name, manifest
from mcm.errors import UserError
from pipelines.hardware import job_request
from pipelines.profile import load_profile
from tests.cluster.server import RefusedError, Server

pytestmark = pytest.mark.cluster

IMAGE = "registry.example/mcm@sha256:" + "0" * 64
JOBS = "/apis/{}/namespaces/kubeflow/{}"
PATHS = {
    "TrainJob": JOBS.format("trainer.kubeflow.org/v1alpha1", "trainjobs"),
    "JobSet": JOBS.format("jobset.x-k8s.io/v1alpha2", "jobsets"),
}


def token(server: Server, account: str) -> str:
    """A token of a service account, as its pods have it."""
    path = f"/api/v1/namespaces/kubeflow/serviceaccounts/{account}/token"
    return str(server.call("POST", path, {"spec": {"audiences": ["api"]}})["status"]["token"])


@pytest.mark.parametrize("path", sorted(PATHS.values()))
def test_the_pipeline_makes_changes_and_deletes_jobs(server: Server, path: str) -> None:
    mine = token(server, "mcm-pipeline")
    kind = next(kind for kind, each in PATHS.items() if each == path)
    body = {"apiVersion": "/".join(path.split("/")[2:4]), "kind": kind, "metadata": {"name": "mine"}, "spec": {}}
    server.call("POST", path, body, mine)
    server.call("PATCH", f"{path}/mine", {"metadata": {"labels": {"run": "2"}}}, mine)
    assert server.call("GET", f"{path}/mine", token=mine)["metadata"]["labels"] == {"run": "2"}
    server.call("DELETE", f"{path}/mine", token=mine)


POD = {"metadata": {"name": "x"}, "spec": {"containers": [{"name": "x", "image": "x"}]}}
CORE = "/api/v1/namespaces/kubeflow"
FORBIDDEN: list[tuple[str, str, Any]] = [
    ("GET", f"{CORE}/secrets", None),
    ("GET", f"{CORE}/secrets/mcm-registry", None),
    ("GET", f"{CORE}/configmaps", None),
    ("GET", f"{CORE}/configmaps/pipeline-install-config", None),
    ("POST", f"{CORE}/pods", POD),
    ("DELETE", f"{CORE}/pods/x", None),
    ("POST", f"{CORE}/pods/x/exec?command=sh", None),
    ("POST", f"{CORE}/serviceaccounts/mcm-pipeline/token", {"spec": {}}),
    ("GET", f"{CORE}/persistentvolumeclaims", None),
    ("GET", "/api/v1/namespaces/default/pods", None),
    ("GET", "/api/v1/pods", None),
    ("GET", "/api/v1/nodes", None),
    ("GET", "/api/v1/namespaces", None),
    ("GET", "/apis/trainer.kubeflow.org/v1alpha1/namespaces/default/trainjobs", None),
    ("POST", "/apis/rbac.authorization.k8s.io/v1/namespaces/kubeflow/rolebindings", {"metadata": {"name": "x"}}),
    ("GET", "/apis/kueue.x-k8s.io/v1beta2/clusterqueues", None),
]


@pytest.mark.parametrize(("method", "path", "body"), FORBIDDEN)
@pytest.mark.parametrize("account", ["mcm-pipeline", "mcm-worker"])
def test_nothing_else_is_allowed(server: Server, account: str, method: str, path: str, body: Any) -> None:
    with pytest.raises(RefusedError) as refused:
        server.call(method, path, body, token(server, account))
    assert refused.value.status == 403


def test_the_pipeline_reads_pods_and_their_logs_and_a_worker_reads_nothing(server: Server) -> None:
    server.call("POST", f"{CORE}/configmaps", {"metadata": {"name": "kfp-launcher"}})
    pipeline, worker = token(server, "mcm-pipeline"), token(server, "mcm-worker")
    for path in (f"{CORE}/pods", f"{CORE}/configmaps/kfp-launcher"):
        server.call("GET", path, token=pipeline)
        with pytest.raises(RefusedError, match="forbidden"):
            server.call("GET", path, token=worker)
    with pytest.raises(RefusedError, match='pods "x" not found'):
        server.call("GET", f"{CORE}/pods/x/log", token=pipeline)
    for path in PATHS.values():
        with pytest.raises(RefusedError, match="forbidden"):
            server.call("GET", path, token=worker)


Act = Callable[[str], None]


@pytest.fixture
def act_as(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Act:
    """Makes this process a task of a service account: it has that token and nothing more."""
    # The client reads the variable KUBECONFIG when it is imported.
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))
    monkeypatch.setenv("MCM_CLUSTER_PAUSE", "0.1")
    monkeypatch.delenv("KFP_POD_NAME", raising=False)

    def act(account: str) -> None:
        config = server.kubeconfig.read_text().replace(server.token, token(server, account))
        (tmp_path / "kubeconfig").write_text(config)

    return act


@contextmanager
def controller(server: Server, kind: str, condition: dict[str, str]) -> Iterator[list[dict[str, Any]]]:
    """Plays the controller of TrainJobs or JobSets: ends each with a condition, and lets go of what is deleted."""
    seen: dict[str, dict[str, Any]] = {}
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.1):
            for job in server.call("GET", PATHS[kind])["items"]:
                path = f"{PATHS[kind]}/{job['metadata']['name']}"
                seen.setdefault(job["metadata"]["uid"], job)
                if job["metadata"].get("deletionTimestamp"):
                    server.call("PATCH", path, {"metadata": {"finalizers": None}})
                elif not job.get("status"):
                    status = {"conditions": [{"status": "True", **condition}]}
                    server.call("PATCH", f"{path}/status", {"status": status})

    thread = threading.Thread(target=work)
    thread.start()
    found: list[dict[str, Any]] = []
    try:
        yield found
    finally:
        stop.set()
        thread.join()
        found += seen.values()


def request(profile: str) -> JobRequest:
    return job_request("train_teacher", load_profile(profile), IMAGE)


@pytest.mark.parametrize(("kind", "profile"), [("TrainJob", "gke-h100-8x2"), ("JobSet", "tpu-v5e-2x4")])
def test_a_stage_runs_its_job_with_these_rights(
    server: Server, act_as: Act, kind: str, profile: str, capsys: pytest.CaptureFixture[str]
) -> None:
    act_as("mcm-pipeline")
    with controller(server, kind, {"type": "Complete", "message": "done"}) as jobs:
        run_on_cluster(request(profile), "train_teacher", ["--out", "gs://b/o"], "key")
        _until(lambda: not server.call("GET", PATHS[kind])["items"])
    (job,) = jobs
    said = capsys.readouterr().out
    assert f"{kind} {job['metadata']['name']}: created in namespace kubeflow" in said
    assert json.dumps(job["spec"]).count(IMAGE) == 1


def test_a_stage_that_is_tried_again_adopts_its_job(
    server: Server, act_as: Act, capsys: pytest.CaptureFixture[str]
) -> None:
    act_as("mcm-pipeline")
    asked = request("tpu-v5e-2x4")
    name = job_name("train_teacher", "key", asked)
    body = manifest(asked, "train_teacher", [], name, Place(namespace="kubeflow"), {})
    Job(Cluster(), KINDS["JobSet"], name, body).start()
    with controller(server, "JobSet", {"type": "Completed"}) as jobs:
        run_on_cluster(asked, "train_teacher", [], "key")
        _until(lambda: not server.call("GET", PATHS["JobSet"])["items"])
    assert f"JobSet {name}: there already, from an earlier try; adopting it" in capsys.readouterr().out
    assert [job["metadata"]["name"] for job in jobs] == [name]


@pytest.mark.parametrize(("kind", "profile"), [("TrainJob", "gke-h100-8x2"), ("JobSet", "tpu-v5e-2x4")])
def test_a_job_that_fails_fails_its_stage_and_the_next_try_makes_it_anew(
    server: Server, act_as: Act, kind: str, profile: str
) -> None:
    act_as("mcm-pipeline")
    failed = {"type": "Failed", "reason": "FailedJobs", "message": "node 1 was lost"}
    with controller(server, kind, failed) as jobs:
        for _ in range(2):
            with pytest.raises(UserError, match=r": failed, FailedJobs: node 1 was lost.*newest checkpoint"):
                run_on_cluster(request(profile), "train_teacher", [], "key")
    assert len(jobs) == 2 and len({job["metadata"]["name"] for job in jobs}) == 1


def test_without_the_role_a_stage_says_in_one_line_what_is_missing(server: Server, act_as: Act) -> None:
    act_as("mcm-worker")
    said = r"may not get trainjobs\.trainer\.kubeflow\.org in namespace kubeflow: .*; give the task's service account"
    with pytest.raises(UserError, match=said):
        run_on_cluster(request("gke-h100-8x2"), "train_teacher", [], "key")


def _until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)
