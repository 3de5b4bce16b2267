"""The Kubernetes API as far as a task needs it: errors in one line, and lost connections taken up again."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from os import environ
from pathlib import Path
from typing import Any, TypeVar

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException
from kubernetes.watch import Watch
from urllib3.exceptions import HTTPError

from components.kubeflow.manifests import Place
from mcm.errors import UserError

TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount")
POD = "KFP_POD_NAME"  # Kubeflow tells each task the name of its own pod
PASSING = (429, 500, 502, 503, 504)  # the server is busy or restarts
CALL = (5.0, 60.0)  # seconds to connect, to answer
WATCH = 240  # seconds of one watch, after which it is opened anew

T = TypeVar("T")


@dataclass(frozen=True)
class Kind:
    """A custom resource, and who has to be installed for it to be there."""

    group: str
    version: str
    plural: str
    name: str
    maker: str


class MissingError(Exception):
    """The object is not there, though its kind is."""


class CutError(Exception):
    """The connection was lost, or the server could not answer yet: try again."""


class Cluster:
    """A connection: the pod's own service account in a cluster, the current context of a kubeconfig outside.

    A server that cannot be reached is tried again for `patience` seconds; `pause` lies between two looks.
    """

    def __init__(self, patience: float | None = None, pause: float | None = None):
        self.patience = float(environ.get("MCM_CLUSTER_PATIENCE", 900)) if patience is None else patience
        self.pause = float(environ.get("MCM_CLUSTER_PAUSE", 3)) if pause is None else pause
        settings = client.Configuration()
        try:
            if (TOKEN / "token").exists():
                config.load_incluster_config(settings)
                self.namespace = (TOKEN / "namespace").read_text().strip()
            else:
                file = environ.get("KUBECONFIG")  # None is the default place
                config.load_kube_config(file, client_configuration=settings)
                context = config.list_kube_config_contexts(file)[1]
                self.namespace = context["context"].get("namespace", "default")
        except (ConfigException, OSError) as error:
            raise UserError(
                f"no Kubernetes cluster to start nodes on: {_line(error)}; run in a cluster, or set KUBECONFIG"
            ) from None
        settings.retries = False  # tried again here, with a pause and an end
        self.server = settings.host
        api = client.ApiClient(settings)
        self._core = client.CoreV1Api(api)
        self._custom = client.CustomObjectsApi(api)

    def get(self, kind: Kind, namespace: str, name: str) -> dict[str, Any]:
        """The object. MissingError where there is none of that name."""
        return self._call("get", kind, namespace, name, self._custom.get_namespaced_custom_object)

    def create(self, kind: Kind, namespace: str, body: Mapping[str, Any]) -> bool:
        """Create the object; False where there is one of its name."""
        try:
            create = self._custom.create_namespaced_custom_object
            # An older server would drop a field that it does not know, and with it selectors or /dev/shm.
            self._call("create", kind, namespace, None, create, body=body, field_validation="Strict")
        except _ExistsError:
            return False
        return True

    def patch(self, kind: Kind, namespace: str, name: str, body: Mapping[str, Any]) -> None:
        """Merge `body` into the object."""
        self._call("patch", kind, namespace, name, self._custom.patch_namespaced_custom_object, body=body)

    def delete(self, kind: Kind, namespace: str, name: str) -> None:
        """Delete the object after all that it owns; nothing where there is none."""
        call = self._custom.delete_namespaced_custom_object
        try:
            self._call("delete", kind, namespace, name, call, propagation_policy="Foreground")
        except MissingError:
            return

    def events(self, kind: Kind, namespace: str, name: str, found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """What happens to the object after `found`. Ends after a while or with the connection: look and watch anew."""
        try:
            yield from Watch().stream(
                self._custom.list_namespaced_custom_object,
                kind.group,
                kind.version,
                namespace,
                kind.plural,
                field_selector=f"metadata.name={name}",
                resource_version=found["metadata"].get("resourceVersion", ""),
                timeout_seconds=WATCH,
                _request_timeout=(CALL[0], WATCH + CALL[1]),
            )
        except ApiException as error:
            if error.status not in (*PASSING, 410):  # 410: what happened since is forgotten
                raise refusal(self.server, "watch", f"{kind.plural}.{kind.group}", namespace, error) from None
            time.sleep(self.pause)
        except (HTTPError, json.JSONDecodeError):  # cut off, perhaps in the middle of a line
            time.sleep(self.pause)

    def pods(self, namespace: str, selector: str) -> list[dict[str, Any]]:
        """The pods that labels select."""
        listed = self._call(
            "list", "pods", namespace, None, self._core.list_namespaced_pod, namespace, label_selector=selector
        )
        return [self._core.api_client.sanitize_for_serialization(pod) for pod in listed.items]

    def pod(self, namespace: str, name: str) -> dict[str, Any]:
        """One pod."""
        found = self._call("get", "pods", namespace, name, self._core.read_namespaced_pod, name, namespace)
        return self._core.api_client.sanitize_for_serialization(found)

    def log(self, namespace: str, pod: str, container: str, since: str = "") -> Iterator[str]:
        """Lines of a container, each behind its time, from `since` (such a time) on. CutError where the line breaks."""
        options: dict[str, Any] = {}
        if since:  # the client knows no absolute time; one second more, since it counts whole ones
            passed = datetime.now(UTC) - datetime.fromisoformat(since[:19] + "+00:00")
            options["since_seconds"] = max(1, int(passed.total_seconds()) + 2)
        try:
            yield from Watch().stream(
                self._core.read_namespaced_pod_log,
                pod,
                namespace,
                container=container,
                timestamps=True,
                _request_timeout=(CALL[0], WATCH),
                **options,
            )
        except ApiException as error:
            if error.status not in (*PASSING, 400, 404):  # 400: the container has not started yet
                raise refusal(self.server, "get", "pods/log", namespace, error) from None
            raise CutError from None
        except HTTPError:
            raise CutError from None

    def _call(
        self,
        verb: str,
        kind: Kind | str,
        namespace: str,
        name: str | None,
        function: Callable[..., T],
        *arguments: Any,
        **options: Any,
    ) -> T:
        """One request, sent again while the server cannot be reached or is busy."""
        what = kind if isinstance(kind, str) else f"{kind.plural}.{kind.group}"
        if isinstance(kind, Kind):
            arguments = (kind.group, kind.version, namespace, kind.plural, *([name] if name else []))
        end, wait = time.monotonic() + self.patience, self.pause
        while True:
            try:
                return function(*arguments, **options, _request_timeout=CALL)
            except ApiException as error:
                details = _status(error).get("details") or {}
                if error.status == 404 and name and details.get("name") == name:
                    raise MissingError(name) from None
                if error.status == 404 and isinstance(kind, Kind) and not details:
                    raise _not_installed(self.server, kind) from None
                if error.status == 400 and isinstance(kind, Kind) and "unknown field" in str(error.body):
                    raise UserError(
                        f"cluster {self.server}: its {kind.name} is not the one of {kind.maker}: "
                        f"{_line(_status(error).get('message'))}; install {kind.maker} or newer"
                    ) from None
                if error.status == 409 and verb == "create":
                    raise _ExistsError from None
                if error.status not in PASSING or time.monotonic() > end:
                    raise refusal(self.server, verb, what, namespace, error) from None
            except HTTPError as error:
                if time.monotonic() > end:
                    raise UserError(
                        f"cluster {self.server}: not reachable for {self.patience:.0f} s: {_line(error)}; what runs "
                        "there goes on, so try again"
                    ) from None
            time.sleep(wait)
            wait = min(2 * wait, 30.0)


class _ExistsError(Exception):
    """There is one of that name."""


def here(cluster: Cluster) -> Place:
    """What the task's own pod says: the service account for its workers, and the run that they belong to.

    The owner is the run's Workflow, not the pod: a job outlives a pod that is lost, and goes with the run.
    """
    name = environ.get(POD)
    if not name:
        return Place(namespace=cluster.namespace)
    try:
        pod = cluster.pod(cluster.namespace, name)
    except MissingError:
        raise UserError(f"pod {name}: not in namespace {cluster.namespace}; unset {POD} outside a task") from None
    owners = [owner for owner in pod["metadata"].get("ownerReferences") or [] if owner["kind"] == "Workflow"]
    keys = ("apiVersion", "kind", "name", "uid")
    return Place(
        namespace=cluster.namespace,
        service_account=pod["spec"].get("serviceAccountName"),
        run=(pod["metadata"].get("labels") or {}).get("pipeline/runid"),
        owner={key: owners[0][key] for key in keys} if owners else None,
    )


def refusal(server: str, verb: str, what: str, namespace: str, error: ApiException) -> UserError:
    """One line for what the server will not do."""
    said = _line(_status(error).get("message") or error.reason or "no reason given")
    where = f"cluster {server}: may not {verb} {what} in namespace {namespace}"
    if error.status == 401:
        return UserError(f"{where}: not signed in ({said}); renew the token, or name a service account")
    if error.status == 403 and "denied the request" not in said:
        return UserError(f"{where}: {said}; give the task's service account the role that deploy/ has for it")
    return UserError(f"cluster {server}: did not {verb} {what} in namespace {namespace}: {said}; mend that, try again")


def _not_installed(server: str, kind: Kind) -> UserError:
    return UserError(
        f"cluster {server}: it has no {kind.name} of {kind.group}/{kind.version}; install {kind.maker}, or choose a "
        "profile with another launcher"
    )


def _status(error: ApiException) -> dict[str, Any]:
    """The Status that came with an error; empty where it is no JSON."""
    try:
        found = json.loads(error.body or "")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _line(text: object) -> str:
    return " ".join(str(text).split())
