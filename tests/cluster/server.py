"""A Kubernetes API server and scheduler on loopback, without kubelets: validation and placement are the real ones.

The binaries come from `build.sh` (1.20.2: old, but the real programs). No controller runs, so what controllers make
(service accounts of a namespace, bound volumes) the tests make themselves. Modern clusters mount projected tokens into
pods, which 1.20 does behind a gate; it is switched on, and the ServiceAccount admission stays on.
"""

import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

START_SECONDS = 60.0
PLACE_SECONDS = 30.0


class RefusedError(Exception):
    """What the API server said no to: its status code and message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


@dataclass(frozen=True)
class Server:
    """A running API server: its address, the administrator's token, and the certificate it signed for itself."""

    url: str
    token: str
    certificate: Path
    kubeconfig: Path

    def call(
        self, method: str, path: str, body: Any = None, token: str | None = None, kind: str = "merge-patch+json"
    ) -> Any:
        """One request; the JSON answer. A PATCH replaces lists. Raises RefusedError with the server's own message."""
        answer = requests.request(
            method,
            self.url + path,
            json=body,
            headers={
                "Authorization": f"Bearer {token or self.token}",
                "Content-Type": f"application/{kind if method == 'PATCH' else 'json'}",
            },
            verify=str(self.certificate),
            timeout=30,
        )
        if answer.status_code >= 400:
            said = answer.json() if "json" in answer.headers.get("Content-Type", "") else {"message": answer.text}
            raise RefusedError(answer.status_code, said.get("message", ""))
        return answer.json()

    def apply(self, path: str, body: Any) -> Any:
        """Server-side apply, which refuses fields that the server does not know, where POST would drop them."""
        return self.call("PATCH", f"{path}?fieldManager=tests", body, kind="apply-patch+yaml")

    def node(self, node: dict[str, Any]) -> None:
        """Register a ready node with the capacity in its status, as its kubelet would."""
        name = node["metadata"]["name"]
        self.call("POST", "/api/v1/nodes", node)
        # Admission taints every new node as not ready until the node controller, absent here, has seen it.
        self.call("PATCH", f"/api/v1/nodes/{name}", {"spec": {"taints": node["spec"]["taints"]}})
        self.call("PATCH", f"/api/v1/nodes/{name}/status", {"status": node["status"]})

    def close_node(self, name: str, closed: bool) -> None:
        """As `kubectl cordon` and `uncordon`."""
        self.call("PATCH", f"/api/v1/nodes/{name}", {"spec": {"unschedulable": closed}})

    def remove_pod(self, namespace: str, name: str) -> None:
        """Delete at once: no kubelet is there to end the grace period."""
        self.call("DELETE", f"/api/v1/namespaces/{namespace}/pods/{name}", {"gracePeriodSeconds": 0})

    def placed(self, namespace: str, name: str) -> str:
        """The node that the scheduler gave to a pod, or "" with the reason once it has found none."""
        end = time.monotonic() + PLACE_SECONDS
        while time.monotonic() < end:
            pod = self.call("GET", f"/api/v1/namespaces/{namespace}/pods/{name}")
            if node := pod["spec"].get("nodeName"):
                return str(node)
            for condition in pod["status"].get("conditions", []):
                if condition["type"] == "PodScheduled" and condition.get("reason") == "Unschedulable":
                    return ""
            time.sleep(0.05)
        raise AssertionError(f"the scheduler said nothing of {namespace}/{name} in {PLACE_SECONDS:g} s")


@contextmanager
def running(binaries: Path, folder: Path) -> Iterator[Server]:
    """Start etcd, kube-apiserver and kube-scheduler of one folder, keep their files in another, and stop them."""
    etcd_port, peer_port, port, health_port = _free_ports(4)
    etcd = f"http://127.0.0.1:{etcd_port}"
    token = secrets.token_hex(16)
    certificates = folder / "certificates"
    (folder / "tokens.csv").write_text(f'{token},admin,admin,"system:masters"\n', encoding="utf-8")
    key = folder / "accounts.key"
    subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
    server = Server(f"https://127.0.0.1:{port}", token, certificates / "apiserver.crt", folder / "kubeconfig")
    with (
        _process(
            folder,
            [
                *(binaries / "etcd", f"--data-dir={folder / 'etcd'}", f"--listen-client-urls={etcd}"),
                *(f"--advertise-client-urls={etcd}", f"--listen-peer-urls=http://127.0.0.1:{peer_port}"),
                "--unsafe-no-fsync",
            ],
            lambda: requests.get(f"{etcd}/health", timeout=1).ok,
        ),
        _process(
            folder,
            [
                *(binaries / "kube-apiserver", f"--etcd-servers={etcd}", f"--secure-port={port}"),
                *("--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", f"--cert-dir={certificates}"),
                *(f"--token-auth-file={folder / 'tokens.csv'}", "--authorization-mode=RBAC"),
                *(f"--service-account-key-file={key}", f"--service-account-signing-key-file={key}"),
                *("--service-account-issuer=https://kubernetes.default.svc", "--api-audiences=api"),
                *("--service-cluster-ip-range=10.0.0.0/24", "--feature-gates=BoundServiceAccountTokenVolume=true"),
            ],
            lambda: server.call("GET", "/api/v1/namespaces/default") is not None,
        ),
    ):
        server.kubeconfig.write_text(_kubeconfig(server), encoding="utf-8")
        command = [
            *(binaries / "kube-scheduler", f"--kubeconfig={server.kubeconfig}", "--leader-elect=false"),
            *("--address=127.0.0.1", f"--port={health_port}", "--secure-port=0"),
        ]
        health = f"http://127.0.0.1:{health_port}/healthz"
        with _process(folder, command, lambda: requests.get(health, timeout=1).ok):
            yield server


@contextmanager
def _process(folder: Path, command: list[Any], ready: Callable[[], bool]) -> Iterator[None]:
    """Run a server until the block ends. Its log lies in the folder, and in the error where it does not start."""
    name = Path(command[0]).name
    log = folder / f"{name}.log"
    with log.open("wb") as out:
        process = subprocess.Popen([str(word) for word in command], stdout=out, stderr=subprocess.STDOUT, cwd=folder)
    try:
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                if ready():
                    break
            except (requests.RequestException, OSError, RefusedError):
                pass
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{name} did not start:\n" + "\n".join(log.read_text().splitlines()[-15:]))
            time.sleep(0.2)
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _kubeconfig(server: Server) -> str:
    return (
        "apiVersion: v1\nkind: Config\ncurrent-context: test\n"
        "contexts: [{name: test, context: {cluster: test, user: admin, namespace: kubeflow}}]\n"
        f"users: [{{name: admin, user: {{token: {server.token}}}}}]\n"
        f"clusters: [{{name: test, cluster: {{server: '{server.url}', "
        f"certificate-authority: '{server.certificate}'}}}}]\n"
    )


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def missing(binaries: Path) -> list[str]:
    """Which of the programs are not there to be run."""
    names = ("etcd", "kube-apiserver", "kube-scheduler")
    return [name for name in names if not shutil.which(str(binaries / name))]
