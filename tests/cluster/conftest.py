"""One cluster for all tests here: deploy/ applied by kubectl, and nodes of every kind."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.nodes import kinds
from tests.cluster.server import Server, missing, running
from tests.deploy.overlays import DEPLOY, SCHEMAS, kubectl

BUILD = Path(__file__).with_name("build.sh")


@pytest.fixture(scope="session")
def binaries() -> Path:
    """The folder MCM_KUBE_BIN; with MCM_KUBE_BUILD=1 it is filled first, which takes ten minutes and more."""
    folder = Path(os.environ.get("MCM_KUBE_BIN", "~/.cache/mcm-kube-bin")).expanduser()
    if missing(folder) and os.environ.get("MCM_KUBE_BUILD") == "1":
        subprocess.run(["nice", "-n", "19", str(BUILD), str(folder)], check=True)
    if lacking := missing(folder):
        pytest.fail(f"{folder}: no {', '.join(lacking)}; build them: {BUILD} {folder}, or set MCM_KUBE_BUILD=1")
    return folder


@pytest.fixture(scope="session")
def server(binaries: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with deploy/ applied as a platform engineer applies it, and the volume of the profiles bound."""
    with running(binaries, tmp_path_factory.mktemp("cluster")) as server:
        _kubectl(server, "apply", "--server-side", "-k", str(DEPLOY / "namespace"))
        _kubectl(server, "apply", "-f", str(SCHEMAS / "kueue.yaml"))
        _kubectl(server, "apply", "-f", str(Path(__file__).with_name("jobs.yaml")))
        _kubectl(server, "wait", "--for=condition=established", "--timeout=30s", "crd", "--all")
        _kubectl(server, "apply", "--server-side", "-k", str(DEPLOY / "overlays/generic"))
        # GKE's queue and settings take the place of the other's.
        _kubectl(server, "apply", "--server-side", "--force-conflicts", "-k", str(DEPLOY / "overlays/gke"))
        _bind(server, "mcm-state")
        for kind in kinds():
            for number in range(kind.nodes):
                server.node(kind.build(number))
        yield server


def _kubectl(server: Server, *words: str) -> None:
    done = subprocess.run([kubectl(), f"--kubeconfig={server.kubeconfig}", *words], capture_output=True, text=True)
    assert done.returncode == 0, f"kubectl {' '.join(words)}\n{done.stdout}{done.stderr}"


def _bind(server: Server, claim: str) -> None:
    """Give a claim its volume, as the controller that is not there would."""
    path = f"/api/v1/namespaces/kubeflow/persistentvolumeclaims/{claim}"
    wanted = server.call("GET", path)
    spec = {
        "capacity": {"storage": "1Ti"},
        "accessModes": wanted["spec"]["accessModes"],
        "storageClassName": wanted["spec"].get("storageClassName", ""),
        "nfs": {"server": "files.example", "path": "/mcm"},
        "claimRef": {"namespace": "kubeflow", "name": claim, "uid": wanted["metadata"]["uid"]},
    }
    server.call("POST", "/api/v1/persistentvolumes", {"metadata": {"name": claim}, "spec": spec})
    server.call("PATCH", f"/api/v1/persistentvolumes/{claim}/status", {"status": {"phase": "Bound"}})
    bound = {"pv.kubernetes.io/bind-completed": "yes"}
    server.call("PATCH", path, {"metadata": {"annotations": bound}, "spec": {"volumeName": claim}})
    server.call("PATCH", f"{path}/status", {"status": {"phase": "Bound"}})
