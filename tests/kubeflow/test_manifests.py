"""TrainJobs and JobSets of the profiles, against the published models and schemas."""

import json
from typing import Any

import kubernetes_validate
import pytest
from kubeflow_trainer_api.models import JobsetV1alpha2JobSet, TrainerV1alpha1TrainJob
from pydantic import BaseModel

from components.kubeflow.manifests import GRACE, JobRequest, Place, job_name, manifest, worker_command
from mcm.errors import UserError
from pipelines.hardware import job_request
from pipelines.profile import STAGES, load_profile, profiles

KUBERNETES = "1.31"
IMAGE = "registry.example/mcm@sha256:" + "0" * 64
ARGUMENTS = ["--dataset", "gs://bucket/data", "--out", "gs://bucket/$(HOME)/teacher"]
OWNER = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "run", "uid": "0-0"}
PLACE = Place(namespace="team", service_account="pipeline-runner", run="run-1", owner=OWNER)
MODELS: dict[str, type[BaseModel]] = {"TrainJob": TrainerV1alpha1TrainJob, "JobSet": JobsetV1alpha2JobSet}


def requests() -> list[JobRequest]:
    """One of each profile and stage with several nodes, and one with all that can be asked for."""
    found = [
        job_request(stage, profile, IMAGE)
        for profile in profiles().values()
        for stage in STAGES
        if profile.stage(stage).nodes > 1
    ]
    full = {"claim": "mcm-state", "mount": "/mnt/mcm", "sub_path": "team", "queue": "team", "shm": "1Gi"}
    return found + [found[0].model_copy(update={**full, "launcher": kind}) for kind in MODELS]


def made(request: JobRequest) -> dict[str, Any]:
    name = job_name("train_teacher", "key", request)
    return manifest(request, "train_teacher", ARGUMENTS, name, PLACE, {"MCM_IMAGE": IMAGE, "HTTPS_PROXY": "http://p"})


def check(body: dict[str, Any]) -> None:
    """The published model takes the manifest, and gives it back with no field lost: none is unknown to it."""
    model: Any = MODELS[body["kind"]]
    assert model.from_dict(json.loads(json.dumps(body))).to_dict() == body
    if body["kind"] == "JobSet":
        for job in body["spec"]["replicatedJobs"]:
            template = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}, **job["template"]}
            kubernetes_validate.validate(template, KUBERNETES, strict=True)
    else:
        kubernetes_validate.validate(pod_of(body), KUBERNETES, strict=True)


def pod_of(body: dict[str, Any]) -> dict[str, Any]:
    """The pod of a node: that of the JobSet, or the one that Kubeflow Trainer makes of its runtime and the patches."""
    if body["kind"] == "JobSet":
        spec = body["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    else:
        template = body["spec"]["runtimePatches"][0]["trainingRuntimeSpec"]["template"]
        patch = template["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
        trainer = body["spec"]["trainer"]
        container = {**patch["containers"][0], "resources": trainer["resourcesPerNode"]}
        container |= {key: trainer[key] for key in ("image", "command", "env")}
        spec = {**patch, "containers": [container], "restartPolicy": "Never"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "node"}, "spec": spec}


def test_two_profiles_ask_for_several_nodes() -> None:
    several = {name for name, p in profiles().items() if any(p.stage(stage).nodes > 1 for stage in STAGES)}
    assert several == {"gke-h100-8x2", "tpu-v5e-2x4"}


@pytest.mark.parametrize("request_", requests(), ids=lambda request: f"{request.launcher}-{request.runtime}")
def test_manifests_are_those_of_the_published_models(request_: JobRequest) -> None:
    check(made(request_))


@pytest.mark.parametrize("kind", MODELS)
def test_a_field_that_the_models_do_not_know_is_found_out(kind: str) -> None:
    body = made(next(request for request in requests() if request.launcher == kind))
    body["spec"]["numNodes"] = 2
    with pytest.raises(AssertionError):
        check(body)


@pytest.mark.parametrize("request_", requests(), ids=lambda request: request.launcher)
def test_each_node_gets_what_the_profile_asks_for(request_: JobRequest) -> None:
    pod = pod_of(made(request_))["spec"]
    container = pod["containers"][0]
    assert container["image"] == IMAGE
    assert container["resources"] == {"requests": request_.requests, "limits": request_.limits}
    assert pod["nodeSelector"] == request_.node_selector
    assert pod["tolerations"] == list(request_.tolerations)
    assert pod["serviceAccountName"] == request_.account == "mcm-worker"
    assert pod["terminationGracePeriodSeconds"] == GRACE
    assert pod["securityContext"]["runAsNonRoot"] is True
    shm = {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": request_.shm}}
    assert shm in pod["volumes"]
    assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"]
    claims = [volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"] if "emptyDir" not in volume]
    assert claims == ([request_.claim] if request_.claim else [])


def test_a_train_job_has_kubeflow_start_torchrun_on_every_node() -> None:
    request = job_request("train_teacher", load_profile("gke-h100-8x2"), IMAGE)
    spec = made(request)["spec"]
    assert spec["runtimeRef"]["name"] == "torch-distributed"
    assert (spec["trainer"]["numNodes"], spec["trainer"]["numProcPerNode"]) == (2, 8)
    assert spec["trainer"]["resourcesPerNode"]["limits"]["nvidia.com/gpu"] == "8"
    # The runtime sets torchrun's variables, and its webhook refuses jobs that set them.
    assert not [entry["name"] for entry in spec["trainer"]["env"] if entry["name"].startswith("PET_")]
    assert spec["trainer"]["command"][:7] == [
        *("python", "-m", "torch.distributed.run"),  # whose processes are started again where one dies
        *("--max-restarts", "3", "-m", "components.train_teacher"),
    ]


def test_torchrun_leaves_its_processes_the_time_that_the_pod_has_to_write_a_checkpoint() -> None:
    for request in requests():
        env = {entry["name"]: entry.get("value") for entry in pod_of(made(request))["spec"]["containers"][0]["env"]}
        patience = None if request.tpu else str(GRACE - 10)
        assert env.get("TORCH_ELASTIC_SHUTDOWN_TIMEOUT") == patience


def test_a_job_set_has_rank_0_found_by_its_name_in_a_headless_service() -> None:
    request = requests()[0].model_copy(update={"launcher": "JobSet"})
    body = made(request)
    name, job = body["metadata"]["name"], body["spec"]["replicatedJobs"][0]
    assert (job["name"], job["replicas"]) == ("node", 1)
    indexed = job["template"]["spec"]
    assert (indexed["completionMode"], indexed["completions"], indexed["parallelism"]) == ("Indexed", 2, 2)
    assert indexed["backoffLimit"] == 0
    assert body["spec"]["network"] == {
        "enableDNSHostnames": True,
        "publishNotReadyAddresses": True,
        "subdomain": name,
    }
    env = {entry["name"]: entry for entry in pod_of(body)["spec"]["containers"][0]["env"]}
    assert env["PET_MASTER_ADDR"]["value"] == f"{name}-node-0-0.{name}"
    assert (env["PET_NNODES"]["value"], env["PET_NPROC_PER_NODE"]["value"]) == ("2", "8")
    rank = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    assert env["PET_NODE_RANK"]["valueFrom"]["fieldRef"]["fieldPath"] == rank


def test_a_tpu_host_runs_one_process_and_a_slice_is_one_node_pool() -> None:
    request = job_request("train_student", load_profile("tpu-v5e-2x4"), IMAGE)
    body = made(request)
    container = pod_of(body)["spec"]["containers"][0]
    assert container["command"] == [
        "python",
        "-m",
        "components.train_teacher",
        *worker_command(request, "x", ARGUMENTS)[3:],
    ]
    assert not [entry["name"] for entry in container["env"] if entry["name"].startswith("PET_")]
    assert container["resources"]["limits"]["google.com/tpu"] == "4"
    annotations = body["metadata"]["annotations"]
    assert annotations == {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}


@pytest.mark.parametrize("kind", MODELS)
def test_arguments_reach_the_program_as_they_are(kind: str) -> None:
    request = requests()[0].model_copy(update={"launcher": kind})
    command = pod_of(made(request))["spec"]["containers"][0]["command"]
    # Kubernetes would put a variable in place of $(HOME), and takes $$ for the sign itself.
    assert [word.replace("$$", "$") for word in command[7:]] == ARGUMENTS
    assert "$$(HOME)" in command[-1]


def test_a_request_that_is_not_whole_is_one_line() -> None:
    with pytest.raises(UserError) as caught:
        JobRequest.parse({"launcher": "TrainJob", "nods": 2}, "MCM_JOB")
    assert str(caught.value).startswith("MCM_JOB: ") and "\n" not in str(caught.value)
