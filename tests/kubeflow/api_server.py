"""A server that speaks the Kubernetes API for what a job needs: TrainJobs and JobSets, their pods, logs and watches.

Paths, verbs, status codes and Status objects are the real server's. What a controller would do, a test does: it sets
conditions and pods, and each change reaches the watches.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from tests.serving import Quiet, Server

RESOURCES = {("trainer.kubeflow.org", "v1alpha1"): "trainjobs", ("jobset.x-k8s.io", "v1alpha2"): "jobsets"}
NAMESPACE = "team"
TOKEN = "token-of-the-test"


class KubernetesServer:
    """State and faults. Objects are kept as they were sent, with what the server adds to metadata."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.version = 1
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.events: list[tuple[int, str, dict[str, Any]]] = []
        self.pods: dict[str, dict[str, Any]] = {}
        self.logs: dict[str, list[str]] = {}
        self.requests: list[tuple[str, str]] = []
        self.denied: dict[tuple[str, str], int] = {}  # (verb, resource) -> status
        self.installed = set(RESOURCES.values())
        self.unknown: str | None = None  # a field of spec that the installed version does not have
        self.forgotten = 0  # watches from before this version are answered 410
        self.cut_watch_after: int | None = None  # events of a watch, then the connection drops in the middle of a line
        self.cut_log_after: int | None = None
        self.failing = 0  # so many of the next requests are answered 503
        self.log_not_ready = 0  # so many requests for a log come before the container has started
        self.slow_deletion = False  # deletion waits for `finish_deletion`, as with finalizers
        self.on_create: Callable[[dict[str, Any]], None] | None = None

    # What a test does, as controllers and kubelets would.

    def condition(self, name: str, kind: str, reason: str = "Reason", message: str = "") -> None:
        """Set a condition of a job to True."""
        with self.changed:
            key = next(key for key in self.objects if key[1] == name)
            conditions = self.objects[key].setdefault("status", {}).setdefault("conditions", [])
            conditions.append({"type": kind, "status": "True", "reason": reason, "message": message})
            self._bump(key, "MODIFIED")

    def run_pod(self, job: str, index: int, phase: str = "Running", end: dict[str, Any] | None = None) -> str:
        """Make or change the pod of a node."""
        name = f"{job}-node-0-{index}-x"
        with self.changed:
            labels = {
                "jobset.sigs.k8s.io/jobset-name": job,
                "jobset.sigs.k8s.io/replicatedjob-name": "node",
                "batch.kubernetes.io/job-completion-index": str(index),
            }
            metadata = {"name": name, "namespace": NAMESPACE, "uid": f"uid-{name}", "labels": labels}
            state = {"terminated": end} if end else {"running": {}}
            status = {"name": "node", "image": "", "imageID": "", "ready": False, "restartCount": 0, "state": state}
            self.pods[name] = {
                "metadata": {**metadata, "creationTimestamp": "2026-11-21T10:00:00Z"},
                "spec": {"containers": [{"name": "node"}]},
                "status": {"phase": phase, "containerStatuses": [status]},
            }
            self.logs.setdefault(name, [])
            self.changed.notify_all()
        return name

    def write_log(self, pod: str, *lines: str) -> None:
        with self.changed:
            for line in lines:
                seconds, rest = divmod(time.time_ns(), 10**9)  # one reading: two could meet the turn of a second
                stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest:09d}Z"
                self.logs[pod].append(f"{stamp} {line}")
            self.changed.notify_all()

    def remove(self, name: str) -> None:
        """Take a job away, as `kubectl delete` or the end of a slow deletion does."""
        with self.changed:
            key = next(key for key in self.objects if key[1] == name)
            gone = self.objects.pop(key)
            self.version += 1
            self.events.append((self.version, "DELETED", gone))
            self.changed.notify_all()

    # What the handler does.

    def _bump(self, key: tuple[str, str], kind: str) -> None:
        self.version += 1
        self.objects[key]["metadata"]["resourceVersion"] = str(self.version)
        self.events.append((self.version, kind, json.loads(json.dumps(self.objects[key]))))
        self.changed.notify_all()

    def create(self, plural: str, body: dict[str, Any]) -> bool:
        key = (plural, body["metadata"]["name"])
        with self.changed:
            if key in self.objects:
                return False
            body["metadata"]["uid"] = f"uid-{self.version}"
            self.objects[key] = body
            self._bump(key, "ADDED")
        if self.on_create:
            threading.Thread(target=self.on_create, args=(body,), daemon=True).start()
        return True

    def delete(self, key: tuple[str, str]) -> None:
        if self.slow_deletion:
            with self.changed:
                self.objects[key]["metadata"]["deletionTimestamp"] = "2026-11-21T10:00:00Z"
                self._bump(key, "MODIFIED")
        else:
            self.remove(key[1])

    @contextmanager
    def serving(self, kubeconfig: Path) -> Iterator[str]:
        """Serve on a free port; `kubeconfig` is written for it."""

        class Handler(_Handler):
            state = self

        with Server(Handler) as http:
            url = f"http://127.0.0.1:{http.server_port}"
            write_kubeconfig(kubeconfig, url)
            yield url


def write_kubeconfig(path: Path, url: str) -> None:
    context = {"cluster": "test", "user": "test", "namespace": NAMESPACE}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": url}}],
        "users": [{"name": "test", "user": {"token": TOKEN}}],
        "contexts": [{"name": "test", "context": context}],
    }
    path.write_text(yaml.safe_dump(config))


class _Handler(Quiet):
    server: Server
    state: KubernetesServer

    def do_GET(self) -> None:
        url, query = urlsplit(self.path), parse_qs(urlsplit(self.path).query)
        parts = url.path.strip("/").split("/")
        if parts[:4] == ["api", "v1", "namespaces", NAMESPACE] and parts[4] == "pods":
            self._pods(parts[5:], query)
        elif (plural := self._plural(parts)) and "watch" in query:
            if not self._refused("watch", plural):
                self._watch(plural, query)
        elif plural and len(parts) == 7:
            found = self.state.objects.get((plural, parts[6]))
            if not self._refused("get", plural):
                self._answer(200, found) if found else self._status(404, "NotFound", plural, parts[6])

    def do_POST(self) -> None:
        body = self._body()
        url = urlsplit(self.path)
        if (plural := self._plural(url.path.strip("/").split("/"))) and not self._refused("create", plural):
            if self.state.unknown in body["spec"] and parse_qs(url.query).get("fieldValidation") == ["Strict"]:
                problem = f'strict decoding error: unknown field "spec.{self.state.unknown}"'
                self._status(400, "BadRequest", plural, body["metadata"]["name"], problem)
            elif self.state.create(plural, body):
                self._answer(201, body)
            else:
                self._status(409, "AlreadyExists", plural, body["metadata"]["name"])

    def do_PATCH(self) -> None:
        body, parts = self._body(), self.path.strip("/").split("/")
        if (plural := self._plural(parts)) and not self._refused("patch", plural):
            with self.state.changed:
                found = self.state.objects[plural, parts[6]]
                for key, value in body["metadata"].items():
                    old = found["metadata"].get(key)
                    found["metadata"][key] = {**old, **value} if isinstance(old, dict) else value
                self.state._bump((plural, parts[6]), "MODIFIED")
            self._answer(200, found)

    def do_DELETE(self) -> None:
        self._body()
        parts = urlsplit(self.path).path.strip("/").split("/")
        if (plural := self._plural(parts)) and not self._refused("delete", plural):
            if (plural, parts[6]) in self.state.objects:
                self.state.delete((plural, parts[6]))
                self._answer(200, {"kind": "Status", "status": "Success"})
            else:
                self._status(404, "NotFound", plural, parts[6])

    def _plural(self, parts: list[str]) -> str | None:
        """The resource of a path; a path that the server does not have is answered as it answers."""
        plural = RESOURCES.get((parts[1], parts[2])) if parts[0] == "apis" else None
        if plural and plural in self.state.installed and parts[3:6] == ["namespaces", NAMESPACE, plural]:
            return plural
        self.state.requests.append((self.command, self.path))
        self.answer(404, b"404 page not found\n", "text/plain")
        return None

    def _refused(self, verb: str, resource: str) -> bool:
        self.state.requests.append((verb, resource))
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            self._status(401, "Unauthorized", resource, "", "Unauthorized")
        elif self.state.failing:
            self.state.failing -= 1
            self._status(503, "ServiceUnavailable", resource, "", "the server is restarting")
        elif status := self.state.denied.get((verb, resource)):
            who = 'User "system:serviceaccount:team:default"'
            self._status(
                status, "Forbidden", resource, "", f'{resource} is forbidden: {who} cannot {verb} "{resource}"'
            )
        else:
            return False
        return True

    def _pods(self, rest: list[str], query: dict[str, list[str]]) -> None:
        if rest[1:] == ["log"]:
            if self.state.log_not_ready:
                self.state.log_not_ready -= 1
                self._status(400, "BadRequest", "pods/log", "", "container is waiting to start: ContainerCreating")
            elif not self._refused("get", "pods/log"):
                self._log(rest[0], query)
        elif rest:
            if not self._refused("get", "pods"):
                found = self.state.pods.get(rest[0])
                self._answer(200, found) if found else self._status(404, "NotFound", "pods", rest[0])
        elif not self._refused("list", "pods"):
            wanted = dict(pair.split("=") for pair in query["labelSelector"][0].split(","))
            items = [
                pod for pod in self.state.pods.values() if wanted.items() <= pod["metadata"].get("labels", {}).items()
            ]
            self._answer(200, {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})

    def _watch(self, plural: str, query: dict[str, list[str]]) -> None:
        name = query["fieldSelector"][0].removeprefix("metadata.name=")
        since, end = int(query["resourceVersion"][0]), time.monotonic() + float(query["timeoutSeconds"][0])
        self._open()
        if since < self.state.forgotten:
            gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
            self._chunk(json.dumps({"type": "ERROR", "object": gone}) + "\n")
            return self._chunk("")
        sent = 0
        while time.monotonic() < end and not self.server.closing:
            with self.state.changed:
                new = [event for event in self.state.events if event[0] > since]
                if not new:
                    self.state.changed.wait(0.2)
                    continue
            for version, kind, found in new:
                since = version
                if found["metadata"]["name"] == name and found["kind"].lower() + "s" == plural:
                    line = json.dumps({"type": kind, "object": found}) + "\n"
                    sent += 1
                    if self.state.cut_watch_after is not None and sent > self.state.cut_watch_after:
                        self.state.cut_watch_after = None
                        self._chunk(line[: len(line) // 2])
                        return self._drop()
                    self._chunk(line)
        return self._chunk("")

    def _log(self, pod: str, query: dict[str, list[str]]) -> None:
        self._open("text/plain")
        sent = 0
        while not self.server.closing:
            with self.state.changed:
                lines, phase = self.state.logs[pod][sent:], self.state.pods[pod]["status"]["phase"]
                if not lines and phase == "Running":
                    self.state.changed.wait(0.2)
                    continue
            if not lines:
                return self._chunk("")
            for line in lines:
                sent += 1
                if self.state.cut_log_after is not None and sent > self.state.cut_log_after:
                    self.state.cut_log_after = None
                    self._chunk(line[:20])
                    return self._drop()
                self._chunk(line + "\n")

    def _body(self) -> dict[str, Any]:
        return json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")

    def _status(self, code: int, reason: str, resource: str, name: str, message: str = "") -> None:
        text = message or f'{resource} "{name}" {"not found" if code == 404 else "already exists"}'
        body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason}
        self._answer(code, {**body, "message": text, "details": {"name": name, "kind": resource}})

    def _answer(self, code: int, body: dict[str, Any] | None) -> None:
        self.answer(code, json.dumps(body).encode())

    def _open(self, kind: str = "application/json") -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _chunk(self, text: str) -> None:
        data = text.encode()
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _drop(self) -> None:
        """End the connection as a cut cable does: no last chunk."""
        self.wfile.flush()
        self.close_connection = True
        self.connection.close()
