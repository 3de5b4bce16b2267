"""Jobs on one node or several, as a Kubeflow TrainJob or as a JobSet. Both start torchrun on each node.

TrainJob: Kubeflow Trainer 2, `trainer.kubeflow.org/v1alpha1`, on the ClusterTrainingRuntime that the profile names.
JobSet: `jobset.x-k8s.io/v1alpha2`, one indexed Job whose pods find rank 0 by its name in a headless service.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from mcm.config import Config

MANAGER = "multistep-consistency.dev/launcher"  # owner of the patches that a TrainJob puts on its runtime
RUN_LABEL = "multistep-consistency.dev/run"  # the run on whose behalf a job is there
PART = {"app.kubernetes.io/part-of": "multistep-consistency"}  # what network policies select pods by
NODE = "node"  # name of the replicated job and of its container, as in the runtimes of Kubeflow Trainer
PORT = 29500
GRACE = 120  # seconds between SIGTERM and SIGKILL: a checkpoint is written and uploaded in them
RESTARTS = 3  # of the processes of a node where one dies, each from the newest checkpoint; a lost node ends the job
KEPT = 24 * 60 * 60  # seconds that a finished JobSet is kept where its task could not delete it

# Of the task's own environment, what its workers must see too: where the store is, and how it is reached.
INHERITED = (
    "MCM_IMAGE",
    "MCM_LINEAGE",
    "MCM_RECORD",
    "MCM_RUN",
    "STORAGE_EMULATOR_HOST",
    "API_ENDPOINT_OVERRIDE",
    *(name for word in ("http_proxy", "https_proxy", "no_proxy") for name in (word, word.upper())),
)


class JobRequest(Config):
    """What a task asks the cluster for when its stage runs as a job. Amounts are those of one node."""

    launcher: Literal["TrainJob", "JobSet"]
    nodes: int = Field(ge=1)
    processes: int = Field(ge=1, description="one for each GPU; one on a TPU host, whose chips it drives alone")
    image: str
    runtime: str = "torch-distributed"
    requests: dict[str, str]
    limits: dict[str, str]
    shm: str | None = None
    node_selector: dict[str, str] = Field({})
    tolerations: tuple[dict[str, str], ...] = ()
    claim: str | None = Field(None, description="PersistentVolumeClaim, mounted at `mount`")
    mount: str = ""
    sub_path: str = ""
    tpu: bool = False
    queue: str | None = Field(None, description="Kueue LocalQueue")
    account: str | None = Field(None, description="service account of the workers; None is that of the task")
    run_as_user: int = 10001
    pull_policy: str = "IfNotPresent"
    timeout: int = Field(ge=1, description="seconds that it may run")


class Place(Config):
    """Where a job is created and on whose behalf: what the task's own pod says of itself."""

    namespace: str
    service_account: str | None = None
    run: str | None = None
    owner: dict[str, Any] | None = Field(None, description="ownerReference: the job goes when this goes")


def job_name(program: str, key: str, request: JobRequest) -> str:
    """A name that the same work on the same hardware has again, so that a retried task finds its running job."""
    identity = json.dumps([program, key, request.resolved()], sort_keys=True)
    return f"mcm-{program.replace('_', '-')}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"


def manifest(
    request: JobRequest, program: str, arguments: list[str], name: str, place: Place, environment: Mapping[str, str]
) -> dict[str, Any]:
    """The job to create. `environment` is the task's; workers get what `INHERITED` names of it."""
    command = worker_command(request, program, arguments)
    env = [{"name": key, "value": _literal(environment[key])} for key in INHERITED if environment.get(key)]
    if not request.tpu:  # torchrun's own patience is 30 s
        env.append({"name": "TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "value": str(GRACE - 10)})
    body = _train_job(request, command, env, place) if request.launcher == "TrainJob" else None
    body = body or _job_set(request, command, env, name, place)
    labels = {**PART, "app.kubernetes.io/component": program}
    if place.run:
        labels[RUN_LABEL] = place.run
    if request.queue:
        labels["kueue.x-k8s.io/queue-name"] = request.queue
    metadata = {"name": name, "namespace": place.namespace, "labels": labels, **body.pop("metadata", {})}
    if place.owner:
        metadata["ownerReferences"] = [place.owner]
    return {"apiVersion": body["apiVersion"], "kind": body["kind"], "metadata": metadata, "spec": body["spec"]}


def worker_command(request: JobRequest, program: str, arguments: list[str]) -> list[str]:
    """What each node runs. torchrun reads nodes, processes, rank and address from the `PET_` variables."""
    torchrun = ["torch.distributed.run", "--max-restarts", str(RESTARTS), "-m"]
    return ["python", "-m", *([] if request.tpu else torchrun), f"components.{program}", *map(_literal, arguments)]


def _literal(word: str) -> str:
    """Kubernetes reads `$(NAME)` in commands and values as a variable; `$$` is the sign itself."""
    return word.replace("$(", "$$(")


def _train_job(request: JobRequest, command: list[str], env: list[dict[str, Any]], place: Place) -> dict[str, Any]:
    pod = _pod(request, place)
    container: dict[str, Any] = {"name": NODE, "securityContext": _container_security()}
    if mounts := _mounts(request):
        container["volumeMounts"] = mounts
    # What the runtime decides itself: restart policy, image pull policy, labels.
    patch = {key: value for key, value in pod.items() if key != "restartPolicy"} | {"containers": [container]}
    job = {"name": NODE, "template": {"spec": {"template": {"metadata": {"labels": PART}, "spec": patch}}}}
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "spec": {
            "runtimeRef": {
                "apiGroup": "trainer.kubeflow.org",
                "kind": "ClusterTrainingRuntime",
                "name": request.runtime,
            },
            "activeDeadlineSeconds": request.timeout,
            "trainer": {
                "image": request.image,
                "command": command,
                "numNodes": request.nodes,
                "numProcPerNode": request.processes,
                "resourcesPerNode": {"requests": request.requests, "limits": request.limits},
                "env": env,
            },
            "runtimePatches": [
                {"manager": MANAGER, "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [job]}}}}
            ],
        },
    }


def _job_set(
    request: JobRequest, command: list[str], env: list[dict[str, Any]], name: str, place: Place
) -> dict[str, Any]:
    index = {"fieldRef": {"fieldPath": "metadata.annotations['batch.kubernetes.io/job-completion-index']"}}
    # The names are torchrun's, as Kubeflow Trainer sets them. A TPU host's process takes its place from libtpu.
    meeting: list[dict[str, Any]] = [
        {"name": "PET_NNODES", "value": str(request.nodes)},
        {"name": "PET_NPROC_PER_NODE", "value": str(request.processes)},
        {"name": "PET_NODE_RANK", "valueFrom": index},
        {"name": "PET_MASTER_ADDR", "value": f"{name}-{NODE}-0-0.{name}"},
        {"name": "PET_MASTER_PORT", "value": str(PORT)},
    ]
    container: dict[str, Any] = {
        "name": NODE,
        "image": request.image,
        "imagePullPolicy": request.pull_policy,
        "command": command,
        "env": [*env, *([] if request.tpu else meeting)],
        "ports": [{"containerPort": 8471 if request.tpu else PORT, "protocol": "TCP"}],
        "resources": {"requests": request.requests, "limits": request.limits},
        "securityContext": _container_security(),
    }
    if mounts := _mounts(request):
        container["volumeMounts"] = mounts
    job = {
        "completionMode": "Indexed",
        "completions": request.nodes,
        "parallelism": request.nodes,
        # One pod that fails ends the job; the task's own retries start it again, from the newest checkpoint.
        "backoffLimit": 0,
        "activeDeadlineSeconds": request.timeout,
        "template": {"metadata": {"labels": PART}, "spec": {**_pod(request, place), "containers": [container]}},
    }
    body = {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "spec": {
            "failurePolicy": {"maxRestarts": 0},
            "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True, "subdomain": name},
            "ttlSecondsAfterFinished": KEPT,
            "replicatedJobs": [{"name": NODE, "replicas": 1, "template": {"spec": job}}],
        },
    }
    if request.tpu:  # the hosts of one job are the hosts of one slice, which is one node pool
        topology = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}
        body["metadata"] = {"annotations": topology}
    return body


def _pod(request: JobRequest, place: Place) -> dict[str, Any]:
    """The pod's own fields, the same for both kinds of job."""
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": GRACE,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": request.run_as_user,
            "fsGroup": request.run_as_user,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    if account := request.account or place.service_account:
        spec["serviceAccountName"] = account
    if request.node_selector:
        spec["nodeSelector"] = request.node_selector
    if request.tolerations:
        spec["tolerations"] = list(request.tolerations)
    volumes: list[dict[str, Any]] = []
    if request.shm:
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": request.shm}})
    if request.claim:
        volumes.append({"name": "state", "persistentVolumeClaim": {"claimName": request.claim}})
    if volumes:
        spec["volumes"] = volumes
    return spec


def _mounts(request: JobRequest) -> list[dict[str, Any]]:
    mounts: list[dict[str, Any]] = []
    if request.shm:
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})
    if request.claim:
        state = {"name": "state", "mountPath": request.mount}
        mounts.append({**state, "subPath": request.sub_path} if request.sub_path else state)
    return mounts


def _container_security() -> dict[str, Any]:
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
