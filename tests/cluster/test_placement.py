"""Every pod that a profile's stages become is accepted by a real API server, and its scheduler places it on nodes with
that hardware and on no others."""

import functools
import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.kubeflow.manifests import Place, manifest
from pipelines.compiler import compile_pipeline
from pipelines.hardware import job_request
from pipelines.profile import load_profile, profiles
from tests.cluster.nodes import GPU, TPU, kinds
from tests.cluster.server import RefusedError, Server
from tests.deploy.overlays import overlay, quantity
from tests.pipelines.pods import pods_of

pytestmark = pytest.mark.cluster

IMAGE = "registry.example/mcm@sha256:" + "0" * 64
PARAMS = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text())
TRAINING = {"train-teacher", "train-student"}
MEASURING = {"estimate-variance", "evaluate-teacher", "evaluate-student"}
PLAIN = {"e2-standard-4", "e2-standard-16", "n2-standard-32", "cpu-server"}
NVIDIA = {kind.name for kind in kinds() if kind.resource == GPU and not kind.spot}  # whichever GPU a cluster has

# Accelerators of a pod, and kinds of nodes (nodes.py) that it may go to: pods of training, pods of measuring. The other
# pods go to those of PLAIN that are large enough.
EXPECTED: dict[str, tuple[tuple[int, set[str]], tuple[int, set[str]]]] = {
    "cpu": ((0, PLAIN - {"e2-standard-4"}), (0, PLAIN - {"e2-standard-4"})),
    "kind": ((0, PLAIN), (0, PLAIN)),
    "k8s-gpu": ((1, NVIDIA), (1, NVIDIA)),
    "gke-l4": ((1, {"g2-standard-8-spot"}), (1, {"g2-standard-8-spot"})),
    "gke-a100": ((1, {"a2-highgpu-1g-spot"}), (1, {"a2-highgpu-1g-spot"})),
    "gke-h100-8": ((8, {"a3-highgpu-8g"}), (1, {"a3-highgpu-1g", "a3-highgpu-8g"})),
    "gke-h100-8x2": ((8, {"a3-highgpu-8g"}), (1, {"a3-highgpu-1g", "a3-highgpu-8g"})),
    "tpu-v5e-2x4": ((4, {"ct5lp-hightpu-4t-2x4"}), (1, {"ct5lp-hightpu-1t-1x1"})),
    "tpu-v6e-1": ((1, {"ct6e-standard-1t-1x1-spot"}), (1, {"ct6e-standard-1t-1x1-spot"})),
    "tpu-v6e-2x4": ((8, {"ct6e-standard-8t-2x4"}), (1, {"ct6e-standard-1t-1x1"})),
}
NODES = {kind.name: [kind.build(number)["metadata"]["name"] for number in range(kind.nodes)] for kind in kinds()}
KIND_OF = {node: kind for kind, nodes in NODES.items() for node in nodes}
names = (f"pod-{number}" for number in itertools.count())


@functools.cache
def compiled(profile: str) -> dict[str, dict[str, Any]]:
    return pods_of(compile_pipeline(load_profile(profile), IMAGE, PARAMS))


def workers(profile: str) -> dict[str, list[dict[str, Any]]]:
    """The pods of the jobs that stages with a launcher make, by task: one for each node."""
    made = {}
    for stage in ("train_teacher", "train_student"):
        if load_profile(profile).stage(stage).launcher:
            request = job_request(stage, load_profile(profile), IMAGE)
            place = Place(namespace="kubeflow", service_account="mcm-pipeline")
            job = manifest(request, stage, ["--out", "gs://bucket/out"], f"mcm-{stage.replace('_', '-')}", place, {})
            made[stage.replace("_", "-")] = [worker_pod(job) for _ in range(request.nodes)]
    return made


def worker_pod(job: dict[str, Any]) -> dict[str, Any]:
    """A worker of a JobSet, or of a TrainJob as Kubeflow Trainer makes it: patched, with the trainer's fields."""
    if job["kind"] == "JobSet":
        (replicated,) = job["spec"]["replicatedJobs"]
        return dict(replicated["template"]["spec"]["template"])
    trainer = job["spec"]["trainer"]
    (patch,) = job["spec"]["runtimePatches"]
    (replicated,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    template = replicated["template"]["spec"]["template"]
    (container,) = template["spec"]["containers"]
    given = {key: trainer[key] for key in ("image", "command", "env")} | {"resources": trainer["resourcesPerNode"]}
    return {**template, "spec": {"restartPolicy": "Never", **template["spec"], "containers": [{**container, **given}]}}


def create(server: Server, pod: dict[str, Any]) -> str:
    """Apply a pod under a name of its own, on the server side, where an unknown field is refused."""
    name = next(names)
    body = {
        **{"apiVersion": "v1", "kind": "Pod", "metadata": {**pod.get("metadata", {}), "name": name}},
        "spec": {"serviceAccountName": "mcm-pipeline", **pod["spec"]},
    }
    server.apply(f"/api/v1/namespaces/kubeflow/pods/{name}", body)
    return name


def homes(server: Server, pod: dict[str, Any]) -> set[str]:
    """All kinds of nodes that there are for a pod: it is placed, that kind is closed, and so on until it is not."""
    found: set[str] = set()
    try:
        while True:
            name = create(server, pod)
            node = server.placed("kubeflow", name)
            server.remove_pod("kubeflow", name)
            if not node:
                return found
            found.add(KIND_OF[node])
            for each in NODES[KIND_OF[node]]:
                server.close_node(each, True)
    finally:
        for kind in found:
            for each in NODES[kind]:
                server.close_node(each, False)


@pytest.mark.parametrize("profile", sorted(profiles()))
def test_pods_go_to_nodes_with_their_hardware_and_to_no_others(server: Server, profile: str) -> None:
    assert profile in EXPECTED, f"{profile}: say in EXPECTED which nodes its pods may go to"
    training, measuring = EXPECTED[profile]
    several = workers(profile)
    found: dict[str, tuple[int, set[str]]] = {}  # stages with the same hardware are one question
    for task, pod in compiled(profile).items():
        asked = repr((pod["spec"].get("nodeSelector"), pod["spec"].get("tolerations"), _resources(pod)))
        if asked not in found:
            found[asked] = (_accelerators(pod), homes(server, pod))
        if task in TRAINING and task not in several:
            expected = training
        else:
            expected = measuring if task in MEASURING else (0, {kind for kind in PLAIN if _fits(pod, kind)})
        assert found[asked] == expected, f"{profile}, {task}"
    for task, (pod, *_) in several.items():
        assert (_accelerators(pod), homes(server, pod)) == training, f"{profile}, workers of {task}"


def _resources(pod: dict[str, Any]) -> dict[str, dict[str, str]]:
    (container,) = pod["spec"]["containers"]
    return dict(container["resources"])


def _accelerators(pod: dict[str, Any]) -> int:
    limits = _resources(pod).get("limits", {})
    return int(limits.get(GPU, 0)) + int(limits.get(TPU, 0))


def _fits(pod: dict[str, Any], kind: str) -> bool:
    (has,) = (each.build(0)["status"]["allocatable"] for each in kinds() if each.name == kind)
    return all(quantity(amount) <= quantity(has[name]) for name, amount in _resources(pod)["requests"].items())


SEVERAL = [name for name in sorted(profiles()) if any(len(pods) > 1 for pods in workers(name).values())]


@pytest.mark.parametrize("profile", SEVERAL)
def test_the_workers_of_a_job_have_a_node_each(server: Server, profile: str) -> None:
    for pods in workers(profile).values():
        created = [create(server, pod) for pod in pods]
        nodes = {server.placed("kubeflow", name) for name in created}
        assert len(nodes) == len(pods) and "" not in nodes
        late = create(server, pods[0])
        assert server.placed("kubeflow", late) == "", "the nodes are taken, and a pod more waits"
        for name in (*created, late):
            server.remove_pod("kubeflow", name)


def test_without_its_account_or_volume_a_pod_does_not_start(server: Server) -> None:
    """So deploy/ has to be there first: what a profile takes from it is not optional."""
    pod = compiled("k8s-gpu")["train-teacher"]
    with pytest.raises(RefusedError, match='serviceaccount "another" not found'):
        create(server, {**pod, "spec": {**pod["spec"], "serviceAccountName": "another"}})
    (volume,) = [each for each in pod["spec"]["volumes"] if "persistentVolumeClaim" in each]
    others = [each for each in pod["spec"]["volumes"] if each is not volume]
    lost = {**volume, "persistentVolumeClaim": {"claimName": "lost"}}
    name = create(server, {**pod, "spec": {**pod["spec"], "volumes": [*others, lost]}})
    assert server.placed("kubeflow", name) == ""
    server.remove_pod("kubeflow", name)


def test_the_server_refuses_what_is_no_pod(server: Server) -> None:
    """What makes the other tests worth something: the same pod, with one thing wrong, is not accepted."""
    pod = compiled("gke-l4")["train-teacher"]

    def main(**other: Any) -> dict[str, Any]:
        return {"spec": {**pod["spec"], "containers": [{**pod["spec"]["containers"][0], **other}]}}

    with pytest.raises(RefusedError, match="must be an integer"):
        create(server, main(resources={"limits": {GPU: "0.5"}}))
    with pytest.raises(RefusedError, match="Limit must be set for non overcommitable resources"):
        create(server, main(resources={"requests": {TPU: "4"}}))
    with pytest.raises(RefusedError, match="field not declared in schema"):
        create(server, main(imagePullPolice="Always"))
    with pytest.raises(RefusedError, match="operator must be Exists when `key` is empty"):
        create(server, {"spec": {**pod["spec"], "tolerations": [{"operator": "Equal", "value": "x"}]}})


def test_every_flavor_of_the_queue_is_of_nodes_that_there_are(server: Server) -> None:
    """Kueue adds a flavor's labels to a pod; with labels that no node has it would be admitted and never placed."""
    for flavor in (each for each in overlay("gke") + overlay("generic") if each["kind"] == "ResourceFlavor"):
        spec = flavor.get("spec", {})
        tolerations = [{**taint, "operator": "Equal"} for taint in spec.get("nodeTaints", [])]
        container = {"name": "main", "image": IMAGE, "resources": {"requests": {"cpu": "1"}}}
        place = {"nodeSelector": spec.get("nodeLabels", {}), "tolerations": tolerations}
        name = create(server, {"spec": {**place, "containers": [container]}})
        assert server.placed("kubeflow", name), flavor["metadata"]["name"]
        server.remove_pod("kubeflow", name)


@pytest.mark.parametrize("profile", [name for name in sorted(profiles()) if workers(name)])
def test_workers_are_under_the_policies_and_hold_no_token(server: Server, profile: str) -> None:
    task = compiled(profile)["train-teacher"]
    for pod, account, tokens in ((task, "mcm-pipeline", 1), (workers(profile)["train-teacher"][0], "mcm-worker", 0)):
        name = create(server, pod)
        kept = server.call("GET", f"/api/v1/namespaces/kubeflow/pods/{name}")
        assert kept["metadata"]["labels"]["app.kubernetes.io/part-of"] == "multistep-consistency"
        assert kept["spec"]["serviceAccountName"] == account
        sources = [
            each
            for volume in kept["spec"].get("volumes", [])
            for each in volume.get("projected", {}).get("sources", [])
        ]
        assert len([each for each in sources if "serviceAccountToken" in each]) == tokens
        server.remove_pod("kubeflow", name)
