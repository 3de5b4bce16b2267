"""What a stage's pod wrote: from the pipelines server where it reads logs, else from Kubernetes itself."""

from urllib.parse import quote

from mcm.errors import UserError
from pipelines.client import ApiError, Connection
from pipelines.stages import Row

# Not in the API's document: a plain HTTP route of the API server, which falls back to its archive where it keeps one.
PATH = "/apis/v1alpha1/runs/{run}/nodes/{pod}/log"
CONTAINER = "main"
NAMESPACE = "kubeflow"  # where a server for one user runs everything


def read(connection: Connection, run_id: str, row: Row, pod: str) -> str:
    """The log so far, empty when the container has not begun; UserError when the pod is gone."""
    try:
        return connection.get_text(PATH.format(run=quote(run_id, safe=""), pod=quote(pod, safe="")))
    except ApiError as error:
        if error.status == 404:  # this host forwards the API only
            return _from_kubernetes(connection, row, pod)
        if error.status < 500:
            raise
        return _absent(str(error), row, pod, error)


def _from_kubernetes(connection: Connection, row: Row, pod: str) -> str:
    from kubernetes import client, config

    try:
        config.load_config()
        text = client.CoreV1Api().read_namespaced_pod_log(
            pod, connection.namespace or NAMESPACE, container=CONTAINER, _preload_content=False
        )
        return str(text.data.decode(errors="replace"))
    except config.ConfigException:
        raise UserError(
            f"stage {row.name}: {connection.host} offers no logs and there is no kubeconfig to read them with; "
            f"kubectl logs {pod} -c {CONTAINER}"
        ) from None
    except client.ApiException as error:
        raise_as = UserError(f"stage {row.name}: Kubernetes gives no log of pod {pod}: {error.reason or error.status}")
        return _absent(f"{error.reason} {error.body}", row, pod, raise_as)


def _absent(said: str, row: Row, pod: str, error: Exception) -> str:
    lower = said.lower()
    if "waiting to start" in lower or "podinitializing" in lower or "containercreating" in lower:
        return ""
    if "not found" in lower or "notfound" in lower:
        raise UserError(
            f"stage {row.name}: its pod {pod} is gone and its log with it; "
            "`mcm pipeline status` shows what the server remembers of it"
        ) from None
    raise error


def choose(rows: list[Row], stage: str | None) -> list[Row]:
    """The rows of a stage by its name (`train-student cd-4`, `cd-4` or `train-student`); all that began, by default."""
    if stage is None:
        return [row for row in rows if row.pods]
    from mcm.config import suggest

    found = [row for row in rows if stage in (row.name, row.stage, row.student)]
    if not found:
        raise UserError(f"stage {stage}: this run has no such stage; {suggest(stage, [row.name for row in rows])}")
    begun = [row for row in found if row.pods]
    if not begun:
        states = ", ".join(sorted({row.state for row in found}))
        cached = any(row.cached for row in found)
        why = "taken from the cache, so nothing ran" if cached else f"{states}: it has no pod"
        raise UserError(f"stage {stage}: {why}; `mcm pipeline status` shows the others")
    return begun


def fresh(text: str, seen: str) -> str:
    """What of `text` was not seen; all of it where another container writes now."""
    return text[len(seen) :] if text.startswith(seen) else text
