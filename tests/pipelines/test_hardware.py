"""What a profile puts on tasks, read back from a compiled pipeline as Kubeflow's driver reads it."""

import copy
import json
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from google.protobuf import json_format
from kfp import compiler, dsl

from components.kubeflow.manifests import JobRequest
from pipelines.hardware import apply, job_request
from pipelines.policy import POLICIES, apply_policy
from pipelines.profile import ACCELERATED, FOLDER, STAGES, Profile, load_profile, profiles
from tests.pipelines.pods import executors_of, pods_of

IMAGE = "registry.example/mcm@sha256:" + "0" * 64
KUBERNETES = "1.31"
PROFILES = sorted(profiles())


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def work(word: str) -> str:
    return word


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def end(status: dsl.PipelineTaskFinalStatus):  # type: ignore[no-untyped-def]
    print(status)


def compiled(profile: Profile, folder: Path) -> str:
    """A pipeline of one task a stage, `conclude` as its exit handler and one stage in a loop."""

    def on(task: dsl.PipelineTask, stage: str) -> None:
        task.set_display_name(stage)
        apply(task, stage, profile, IMAGE)
        apply_policy(task, stage)

    @dsl.pipeline(name="all-stages")
    def pipeline(word: str = "x") -> None:
        last = end()
        on(last, "conclude")
        with dsl.ExitHandler(last):
            for stage in STAGES:
                if stage == "train_student":
                    with dsl.ParallelFor(items=["a", "b"], name="students") as item:
                        on(work(word=item), stage)
                elif stage != "conclude":
                    on(work(word=word), stage)

    path = folder / "pipeline.yaml"
    compiler.Compiler().compile(pipeline, str(path))
    return path.read_text()


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {name: compiled(profile, tmp_path_factory.mktemp(name)) for name, profile in profiles().items()}


@pytest.fixture(scope="module")
def pods(texts: dict[str, str]) -> dict[str, dict[str, dict[str, Any]]]:
    return {name: pods_of(text) for name, text in texts.items()}


def main(pod: dict[str, Any]) -> dict[str, Any]:
    return pod["spec"]["containers"][0]


def environment(pod: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in main(pod)["env"]}


@pytest.mark.parametrize("name", PROFILES)
def test_every_pod_is_one_that_kubernetes_knows(name: str, pods: dict[str, dict[str, dict[str, Any]]]) -> None:
    assert set(pods[name]) == set(STAGES)
    for pod in pods[name].values():
        valid = copy.deepcopy(pod)
        valid["metadata"]["name"] = pod["metadata"]["name"].replace("_", "-")
        kubernetes_validate.validate(valid, KUBERNETES, strict=True)


@pytest.mark.parametrize("name", PROFILES)
def test_pods_ask_for_what_the_profile_says(name: str, pods: dict[str, dict[str, dict[str, Any]]]) -> None:
    profile = load_profile(name)
    for stage, pod in pods[name].items():
        asked = profile.stage(stage)
        shown = profile.waiting if asked.launcher else asked
        limits = {"memory": shown.memory}
        if shown.cpu_limit:
            limits["cpu"] = shown.cpu_limit
        if shown.kind:
            limits[shown.kind.resource] = str(shown.count)
        assert main(pod)["resources"] == {
            "requests": {"cpu": shown.cpu_request, "memory": shown.memory_request},
            "limits": limits,
        }
        assert pod["spec"].get("nodeSelector", {}) == shown.place.node_selector
        assert pod["spec"].get("tolerations", []) == [entry.manifest() for entry in shown.place.tolerations]
        assert main(pod)["imagePullPolicy"] == profile.pull_policy
        assert main(pod)["securityContext"]["runAsUser"] == profile.run_as_user
        assert main(pod)["securityContext"]["runAsNonRoot"] is True
        assert pod["metadata"]["labels"]["multistep-consistency.dev/stage"] == stage
        assert environment(pod)["MCM_IMAGE"] == IMAGE
        memory = [volume for volume in pod["spec"].get("volumes", []) if "emptyDir" in volume]
        expected = [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": shown.shm}}] if shown.shm else []
        assert memory == expected


@pytest.mark.parametrize("name", PROFILES)
def test_no_accelerator_is_held_by_what_computes_on_a_cpu(
    name: str, pods: dict[str, dict[str, dict[str, Any]]]
) -> None:
    accelerated = load_profile(name).image != "cpu"
    for stage, pod in pods[name].items():
        devices = {key for key in main(pod)["resources"]["limits"] if "/" in key}
        held = devices or JobRequest.parse(json.loads(environment(pod).get("MCM_JOB") or "null") or NO_JOB, "").limits
        assert bool(devices or set(held) - {"cpu", "memory"}) == (accelerated and stage in ACCELERATED)


NO_JOB = {"launcher": "JobSet", "nodes": 2, "processes": 1, "image": "", "requests": {}, "limits": {}, "timeout": 1}


def test_selectors_and_taints_are_those_of_gke() -> None:
    def place(name: str, stage: str) -> tuple[dict[str, str], list[dict[str, str]]]:
        found = load_profile(name).stage(stage).place
        return found.node_selector, [entry.manifest() for entry in found.tolerations]

    gpu = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    tpu = {"key": "google.com/tpu", "operator": "Exists", "effect": "NoSchedule"}
    spot = {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"}
    labels = "cloud.google.com/gke-"
    machine = "node.kubernetes.io/instance-type"
    assert place("gke-l4", "train_teacher") == (
        {f"{labels}accelerator": "nvidia-l4", f"{labels}spot": "true", machine: "g2-standard-8"},
        [gpu, spot],
    )
    assert place("gke-h100-8", "evaluate") == ({f"{labels}accelerator": "nvidia-h100-80gb"}, [gpu])
    assert place("tpu-v5e-2x4", "train_student") == (
        {
            f"{labels}tpu-accelerator": "tpu-v5-lite-podslice",
            f"{labels}tpu-topology": "2x4",
            machine: "ct5lp-hightpu-4t",
        },
        [tpu],
    )
    assert place("tpu-v6e-2x4", "train_teacher")[0] == {
        f"{labels}tpu-accelerator": "tpu-v6e-slice",
        f"{labels}tpu-topology": "2x4",
        machine: "ct6e-standard-8t",
    }
    for stage in STAGES:
        assert place("kind", stage) == ({}, [])
        assert place("cpu", stage) == ({}, [])


def test_state_on_a_claim_is_mounted_in_every_pod(pods: dict[str, dict[str, dict[str, Any]]]) -> None:
    for pod in pods["kind"].values():
        claim = {"name": "mcm-state", "persistentVolumeClaim": {"claimName": "mcm-state"}}
        assert claim in pod["spec"]["volumes"]
        assert {"name": "mcm-state", "mountPath": "/mnt/mcm"} in main(pod)["volumeMounts"]


def test_several_nodes_are_asked_for_by_a_small_pod_without_an_accelerator(
    pods: dict[str, dict[str, dict[str, Any]]],
) -> None:
    for name, launcher, processes in (("gke-h100-8x2", "TrainJob", 8), ("tpu-v5e-2x4", "JobSet", 1)):
        for stage in ("train_teacher", "train_student"):
            pod, profile = pods[name][stage], load_profile(name)
            request = JobRequest.parse(json.loads(environment(pod)["MCM_JOB"]), "MCM_JOB")
            assert request == job_request(stage, profile, IMAGE)
            assert (request.launcher, request.nodes, request.processes) == (launcher, 2, processes)
            assert request.tpu == (launcher == "JobSet")
            assert request.timeout == POLICIES[stage].timeout
            assert "nodeSelector" not in pod["spec"]
        assert "MCM_JOB" not in environment(pods[name]["evaluate"])


def test_a_queue_labels_pods_that_compute_and_jobs_but_not_pods_that_wait(tmp_path: Path) -> None:
    def queued(name: str) -> dict[str, dict[str, Any]]:
        text = (FOLDER / f"{name}.yaml").read_text()
        own = tmp_path / f"{name}.yaml"
        own.write_text(text.replace("default:\n", "default:\n  queue: team\n"))
        return pods_of(compiled(load_profile(own), tmp_path))

    label = "kueue.x-k8s.io/queue-name"
    assert {pod["metadata"]["labels"].get(label) for pod in queued("gke-h100-8").values()} == {"team"}
    waiting = queued("gke-h100-8x2")["train_teacher"]
    assert label not in waiting["metadata"]["labels"]
    assert json.loads(environment(waiting)["MCM_JOB"])["queue"] == "team"


@pytest.mark.parametrize("name", PROFILES)
def test_caching_retries_and_time_limits_are_those_of_the_table(name: str, texts: dict[str, str]) -> None:
    for stage, task, _, platform in executors_of(texts[name]):
        policy = POLICIES[stage]
        assert task.caching_options.enable_cache == policy.cache
        assert json_format.MessageToDict(task.retry_policy) == {
            "maxRetryCount": policy.retries,
            "backoffDuration": f"{policy.backoff}s",
            "backoffFactor": 1.0,
            "backoffMaxDuration": f"{policy.window}s",
        }
        assert platform.active_deadline_seconds == policy.timeout


def test_the_table_covers_every_stage_and_gives_reasons() -> None:
    assert tuple(POLICIES) == STAGES
    assert [stage for stage, policy in POLICIES.items() if not policy.cache] == ["plan", "report", "conclude"]
    for policy in POLICIES.values():
        assert policy.cache_reason and policy.retry_reason and policy.timeout_reason
        # Argo ends the attempts when the window does, and counts it from the start of the first.
        assert policy.window >= (policy.retries + 1) * (policy.timeout + policy.backoff) - policy.backoff
    spot = [stage for profile in profiles().values() for stage in STAGES if profile.stage(stage).spot]
    assert {stage for stage in spot if POLICIES[stage].retries < 4} == set()


def test_a_field_that_kubeflow_does_not_know_is_found_out(texts: dict[str, str]) -> None:
    documents = list(yaml.load_all(texts["gke-l4"], yaml.CSafeLoader))
    executors = documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    next(iter(executors.values()))["nodeSelectors"] = {"labels": {}}
    with pytest.raises(json_format.ParseError, match="nodeSelectors"):
        pods_of(yaml.safe_dump_all(documents))
