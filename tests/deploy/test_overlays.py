"""deploy/ builds offline, is valid, refers only to what is there, and gives what profiles ask for and no more."""

import json
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from pipelines.profile import STAGES, profiles
from tests.deploy.overlays import (
    DEPLOY,
    OVERLAYS,
    allows_egress,
    allows_ingress,
    build,
    flavor_for,
    kueue_schemas,
    of_kind,
    overlay,
    quantity,
)

PART_OF = {"app.kubernetes.io/part-of": "multistep-consistency"}
ALL = [*sorted(DEPLOY.rglob("*.yaml")), *sorted(DEPLOY.rglob("*.json")), *sorted(DEPLOY.rglob("*.env"))]


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_object_is_valid_to_the_last_field(name: str) -> None:
    for each in (*overlay(name), *build(DEPLOY / "namespace")):
        if each["apiVersion"].startswith("kueue.x-k8s.io/"):
            assert each["apiVersion"] == "kueue.x-k8s.io/v1beta2"
            jsonschema.validate(each, kueue_schemas()[each["kind"]])
        else:
            kubernetes_validate.validate(each, kubernetes_validate.latest_version(), strict=True)


def test_an_unknown_field_would_be_found() -> None:
    queue = {"kind": "LocalQueue", "spec": {"clusterQueues": "mcm"}}
    with pytest.raises(jsonschema.ValidationError, match="'clusterQueues' was unexpected"):
        jsonschema.validate(queue, kueue_schemas()["LocalQueue"])
    policy = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "spec": {"podSelectors": {}}}
    with pytest.raises(kubernetes_validate.ValidationError, match="'podSelectors' was unexpected"):
        kubernetes_validate.validate(policy, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("name", OVERLAYS)
def test_names_that_refer_to_each_other_exist(name: str) -> None:
    objects = overlay(name)
    accounts, roles = of_kind(objects, "ServiceAccount"), of_kind(objects, "Role")
    for binding in of_kind(objects, "RoleBinding").values():
        assert binding["roleRef"]["name"] in roles
        assert {(each["name"] in accounts, each["namespace"]) for each in binding["subjects"]} == {(True, "kubeflow")}
    queues, flavors = of_kind(objects, "ClusterQueue"), of_kind(objects, "ResourceFlavor")
    assert all(local["spec"]["clusterQueue"] in queues for local in of_kind(objects, "LocalQueue").values())
    groups = [group for queue in queues.values() for group in queue["spec"]["resourceGroups"]]
    assert {flavor["name"] for group in groups for flavor in group["flavors"]} == set(flavors)
    for group in groups:  # Kueue refuses a flavor that has other resources, or the same in another order
        for flavor in group["flavors"]:
            assert [each["name"] for each in flavor["resources"]] == group["coveredResources"]


@pytest.mark.parametrize("name", OVERLAYS)
def test_objects_lie_in_the_namespace_of_kubeflow_pipelines(name: str) -> None:
    global_kinds = {"ClusterQueue", "ResourceFlavor", "StorageClass"}
    for each in overlay(name):
        expected = None if each["kind"] in global_kinds else "kubeflow"
        assert each["metadata"].get("namespace") == expected, each["metadata"]["name"]
        assert PART_OF.items() <= each["metadata"]["labels"].items(), "found and deleted by label"


def test_volumes_and_queues_that_profiles_name_are_there() -> None:
    for profile in profiles().values():
        for name in {"gke": ["gke"], "kubernetes": ["generic", "kind"]}[profile.platform]:
            if profile.volume:
                assert profile.volume.claim in of_kind(overlay(name), "PersistentVolumeClaim"), profile.name
            for stage in STAGES:
                queue = profile.stage(stage).queue
                assert queue is None or queue in of_kind(overlay(name), "LocalQueue"), (profile.name, stage)


@pytest.mark.parametrize("profile", [name for name in sorted(profiles()) if name != "kind"])
def test_the_queue_has_a_flavor_with_room_for_every_stage(profile: str) -> None:
    for stage in STAGES:
        hardware = profiles()[profile].stage(stage)
        name = {"gke": "gke", "kubernetes": "generic"}[profiles()[profile].platform]
        total = {"cpu": quantity(hardware.cpu_request), "memory": quantity(hardware.memory_request)}
        total |= {hardware.kind.resource: hardware.count} if hardware.kind else {}
        total = {key: value * hardware.nodes for key, value in total.items()}
        tolerations = [each.manifest() for each in hardware.place.tolerations]
        flavor = flavor_for(overlay(name), hardware.place.node_selector, tolerations, total)
        assert flavor, f"{profile}, {stage}: no flavor of overlay {name} admits it"
        assert (flavor == "mcm-cpu") == (hardware.kind is None), (stage, flavor)
        assert flavor.endswith("-spot") == hardware.spot, (stage, flavor)


# Where a pod of the pipeline has to get to: (overlay, address or labels of a pod, port, protocol).
DNS, LAUNCHER = {"k8s-app": "kube-dns"}, {"app": "ml-pipeline"}
NEEDED: list[tuple[str, Any, int, str]] = [
    *((name, DNS, 53, protocol) for name in OVERLAYS for protocol in ("UDP", "TCP")),
    *((name, LAUNCHER, port, "TCP") for name in OVERLAYS for port in (8887, 8888)),
    *((name, {"component": "metadata-grpc-server"}, 8080, "TCP") for name in OVERLAYS),
    *((name, PART_OF, 29500, "TCP") for name in OVERLAYS),
    ("generic", {"app": "seaweedfs"}, 8333, "TCP"),
    ("kind", {"app": "seaweedfs"}, 8333, "TCP"),
    ("kind", {"app": "minio"}, 9000, "TCP"),
    ("gke", "10.128.0.2", 443, "TCP"),  # the API server of settings.env
    ("generic", "10.0.0.1", 6443, "TCP"),
    ("kind", "172.18.0.2", 6443, "TCP"),
    ("kind", "10.89.0.2", 6443, "TCP"),
    ("gke", "142.250.1.207", 443, "TCP"),  # storage.googleapis.com, one of many
    ("gke", "199.36.153.8", 443, "TCP"),  # private.googleapis.com
    ("gke", "169.254.169.252", 988, "TCP"),
    ("gke", "169.254.169.254", 80, "TCP"),
    ("gke", "169.254.169.254", 53, "UDP"),  # Cloud DNS
    ("gke", "34.118.224.10", 53, "UDP"),
]
REFUSED: list[tuple[str, Any, int, str]] = [
    *((name, {"app": "mysql"}, 3306, "TCP") for name in OVERLAYS),
    *((name, {"app": "ml-pipeline-ui"}, 3000, "TCP") for name in OVERLAYS),
    *((name, "10.128.0.77", 443, "TCP") for name in OVERLAYS),  # another machine of the VPC
    *((name, "142.250.1.207", 80, "TCP") for name in OVERLAYS),
    *((name, "8.8.8.8", 53, "UDP") for name in OVERLAYS),
    *((name, "169.254.169.254", 22, "TCP") for name in OVERLAYS),
    ("generic", "169.254.169.254", 80, "TCP"),  # the cloud's metadata are nobody's business there
    ("kind", "142.250.1.207", 443, "TCP"),
]


def _reaches(name: str, to: Any, port: int, protocol: str) -> bool:
    policies = list(of_kind(overlay(name), "NetworkPolicy").values())
    assert all(policy["spec"]["podSelector"] == {"matchLabels": PART_OF} for policy in policies)
    if isinstance(to, str):
        return allows_egress(policies, port, protocol, ip=to)
    return allows_egress(policies, port, protocol, pod=to, namespace="kube-system" if to == DNS else "kubeflow")


@pytest.mark.parametrize(("name", "to", "port", "protocol"), NEEDED)
def test_policies_let_out_what_is_needed(name: str, to: Any, port: int, protocol: str) -> None:
    assert _reaches(name, to, port, protocol)


@pytest.mark.parametrize(("name", "to", "port", "protocol"), REFUSED)
def test_policies_let_nothing_else_out(name: str, to: Any, port: int, protocol: str) -> None:
    assert not _reaches(name, to, port, protocol)


@pytest.mark.parametrize("name", OVERLAYS)
def test_only_the_pods_of_a_job_get_in(name: str) -> None:
    policies = of_kind(overlay(name), "NetworkPolicy")
    assert policies["mcm-closed"]["spec"] == {
        "podSelector": {"matchLabels": PART_OF},
        "policyTypes": ["Ingress", "Egress"],
    }
    assert allows_ingress(policies.values(), PART_OF)
    assert not allows_ingress(policies.values(), LAUNCHER)
    assert not allows_ingress(policies.values(), PART_OF, namespace="another")


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_pipeline_may_do_what_it_does_and_no_more(name: str) -> None:
    objects = overlay(name)
    allowed = set()
    for role in of_kind(objects, "Role").values():
        for rule in role["rules"]:
            for resource in rule["resources"]:
                of = "/".join(rule.get("resourceNames", []))
                allowed |= {(verb, f"{resource}{':' if of else ''}{of}") for verb in rule["verbs"]}
    expected = {(verb, "workflowtaskresults") for verb in ("create", "patch")}
    expected |= {(verb, "workflowtasksets") for verb in ("get", "list", "watch")}
    expected |= {("patch", "workflowtasksets/status"), ("get", "configmaps:kfp-launcher")}
    expected |= {(v, job) for v in ("create", "get", "watch", "patch", "delete") for job in ("trainjobs", "jobsets")}
    expected |= {("get", "pods"), ("list", "pods"), ("get", "pods/log")}
    if name != "gke":
        expected |= {("get", "secrets:mlpipeline-minio-artifact")}
    assert allowed == expected
    assert not of_kind(objects, "ClusterRole") and not of_kind(objects, "ClusterRoleBinding")
    subjects = {s["name"] for binding in of_kind(objects, "RoleBinding").values() for s in binding["subjects"]}
    assert subjects == {"mcm-pipeline"}, "workers have no say in Kubernetes"
    assert of_kind(objects, "ServiceAccount")["mcm-worker"]["automountServiceAccountToken"] is False


def test_both_accounts_are_the_google_account_of_the_settings() -> None:
    lines = (DEPLOY / "overlays/gke/settings.env").read_text().splitlines()
    settings = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
    for account in of_kind(overlay("gke"), "ServiceAccount").values():
        assert account["metadata"]["annotations"] == {"iam.gke.io/gcp-service-account": settings["google_account"]}
    cidr = of_kind(overlay("gke"), "NetworkPolicy")["mcm-api-server"]["spec"]["egress"][0]["to"]
    assert cidr == [{"ipBlock": {"cidr": settings["api_server"]}}]


def test_optional_parts_of_gke_build(tmp_path: Path) -> None:
    tree = shutil.copytree(DEPLOY, tmp_path / "deploy")
    file = tree / "overlays/gke/kustomization.yaml"
    file.write_text(file.read_text().replace("# - ../../c", "- ../../c"))
    objects = build(file.parent)
    claim = of_kind(objects, "PersistentVolumeClaim")["mcm-state"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert claim["spec"]["storageClassName"] in of_kind(objects, "StorageClass")
    assert of_kind(objects, "StorageClass")["mcm-filestore"]["reclaimPolicy"] == "Retain"
    policies = of_kind(objects, "NetworkPolicy").values()
    assert allows_egress(policies, 443, ip="199.36.153.9") and not allows_egress(policies, 443, ip="142.250.1.207")
    for each in objects:
        if not each["apiVersion"].startswith("kueue"):
            kubernetes_validate.validate(each, kubernetes_validate.latest_version(), strict=True)


def test_no_secret_value_is_in_the_tree(tmp_path: Path) -> None:
    assert not [each for name in OVERLAYS for each in overlay(name) if each["kind"] == "Secret"]
    assert sorted(path.name for path in (DEPLOY / "secrets").iterdir() if path.name != "config.json") == [
        ".gitignore",
        "kustomization.yaml",
    ]
    tree = shutil.copytree(DEPLOY / "secrets", tmp_path / "secrets", ignore=lambda *_: ["config.json"])
    with pytest.raises(ValueError, match=r"config\.json"):
        build(tree)
    (tree / "config.json").write_text('{"auths": {}}')
    (secret,) = build(tree)
    named = [each["imagePullSecrets"] for each in of_kind(overlay("generic"), "ServiceAccount").values()]
    assert (secret["kind"], secret["type"]) == ("Secret", "kubernetes.io/dockerconfigjson")
    assert named == [[{"name": secret["metadata"]["name"]}]] * 2


def test_everything_is_in_the_tree_and_nothing_is_fetched() -> None:
    for path in ALL:
        text = path.read_text()
        if path.name == "kustomization.yaml":
            made = yaml.safe_load(text)
            for reference in (*made.get("resources", []), *made.get("components", [])):
                assert "//" not in reference and (path.parent / reference).exists(), f"{path}: {reference}"
        assert "image:" not in text, f"{path}: images come from the lock file alone"


def test_only_scratch_is_deleted_by_age() -> None:
    for rule in json.loads((DEPLOY / "bucket/lifecycle.json").read_text())["rule"]:
        if rule["action"]["type"] == "Delete":
            assert rule["condition"]["matchesPrefix"] == ["runs/", "store/jobs/", "store/state/"], "the rest is kept"


def test_the_namespace_says_which_pods_it_takes() -> None:
    (namespace,) = build(DEPLOY / "namespace")
    assert namespace["metadata"]["name"] == "kubeflow"
    levels = {key.rpartition("/")[2]: value for key, value in namespace["metadata"]["labels"].items()}
    assert levels == {"enforce": "baseline", "warn": "restricted", "audit": "restricted"}
