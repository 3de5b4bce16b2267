"""A server that speaks Kubeflow Pipelines v2beta1 over HTTP, for the KFP client as it is.

Every request and every answer is held against the API's document (openapi.py); what does not fit is in `violations`,
and such a request is refused. Runs move when a test moves them. `fault` makes the next answers fail in a given way.
"""

import json
import re
import ssl
import threading
import urllib.parse
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from tests.pipelines import argo, native, openapi
from tests.serving import Quiet, Server

CODES = {400: 3, 401: 16, 403: 7, 404: 5, 409: 6, 500: 13, 501: 12, 503: 14}  # gRPC's, as its gateway maps them
OVER = ("SUCCEEDED", "FAILED", "SKIPPED", "CANCELED")
KINDS = {"STRUCT": dict, "LIST": list, "STRING": str, "NUMBER_DOUBLE": (int, float), "NUMBER_INTEGER": (int, float)}
KINDS["BOOLEAN"] = bool


class RefusedError(Exception):
    """An answer with an error status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


@dataclass
class Fault:
    """What goes wrong with a request: `lost` drops the connection, before it is done (`done` False) or after."""

    method: str
    path: str
    status: int = 0
    lost: bool = False
    done: bool = False
    body: str | None = None
    times: int = 1


@dataclass
class Seen:
    """A request as it came."""

    method: str
    path: str
    query: dict[str, str]
    token: str | None
    body: Any
    headers: dict[str, str] = field(default_factory=dict)


class KFPServer:
    """The server; `url` is its address while it is used as a context."""

    def __init__(self, certificate: Path | None = None, key: Path | None = None) -> None:
        self.experiments: dict[str, dict[str, Any]] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        self.recurring: dict[str, dict[str, Any]] = {}
        self.seen: list[Seen] = []
        self.violations: list[str] = []
        self.faults: list[Fault] = []
        self.tokens: set[str] | None = None  # None: everybody may come
        self.forbidden: set[str] = set()  # tokens of people who may come and may do nothing
        self.multi_user = False
        self.logs: dict[str, str] = {}
        self.serves_logs = True
        self.page: str | None = None  # an HTML page instead of everything
        self.tasks: dict[str, list[Any]] | None = None  # of each run, by the API to come; None: it has that API not
        self._lock = threading.RLock()
        self._clock = 0
        server = self

        class Handler(Quiet):
            def _handle(self) -> None:
                server.handle(self)

            do_GET = do_POST = do_DELETE = _handle

        self._http = Server(Handler)
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, key)
            self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        self.port = self._http.server_address[1]
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{self.port}"

    def __enter__(self) -> "KFPServer":
        self._http.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._http.__exit__(*exception)

    # What tests do

    def fault(self, method: str, path: str, **how: Any) -> Fault:
        """The next answers (`times`) to requests of `method` whose path begins with `path` fail."""
        made = Fault(method, path, **how)
        self.faults.append(made)
        return made

    def made(self) -> list[Seen]:
        """Requests that change something."""
        return [seen for seen in self.seen if seen.method != "GET"]

    def move(self, run_id: str, state: str, tasks: Mapping[Any, argo.State] | None = None, rounds: int = 0) -> None:
        """Put a run into a state of the API, with its tasks."""
        with self._lock:
            run = self.runs[run_id]
            self._enter(run, state)
            if tasks is not None:
                spec = run["pipeline_spec"]
                workflow = argo.Workflow(f"chain-{run_id[:5]}", spec.get("pipeline_spec", spec), tasks, rounds)
                run["run_details"] = {"task_details": workflow.details(run_id)}
            if state in OVER:
                run["finished_at"] = self._now()

    # The protocol

    def handle(self, http: Quiet) -> None:
        """One request."""
        size = int(http.headers.get("Content-Length") or 0)
        raw = http.rfile.read(size)
        parts = urllib.parse.urlsplit(http.path)
        parts = parts._replace(
            path=re.sub("^/api/v1/namespaces/kubeflow/services/ml-pipeline:http/proxy/", "", parts.path)
        )
        query = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
        token = (http.headers.get("authorization") or "").removeprefix("Bearer ") or None
        with self._lock:
            body = json.loads(raw) if raw else None
            seen = Seen(http.command, parts.path, query, token, body, dict(http.headers))
            self.seen.append(seen)
            fault = next((f for f in self.faults if f.method == seen.method and seen.path.startswith(f.path)), None)
            if fault:
                fault.times -= 1
                if fault.times <= 0:
                    self.faults.remove(fault)
                if fault.lost and not fault.done:
                    http.connection.close()
                    http.close_connection = True
                    return
            status, kind, text = self._answer(seen, fault)
        if fault and fault.lost:
            http.connection.close()
            http.close_connection = True
            return
        http.answer(status, text.encode(), kind)

    def _answer(self, seen: Seen, fault: Fault | None) -> tuple[int, str, str]:
        if self.page is not None:
            return 200, "text/html", self.page
        if fault and fault.status and not fault.done:
            return (
                fault.status,
                "application/json",
                fault.body if fault.body is not None else _error(fault.status, "overloaded"),
            )
        try:
            if self.tokens is not None and seen.token not in self.tokens:
                raise RefusedError(401, "Request header error: there is no user identity header.")
            if seen.token in self.forbidden:
                raise RefusedError(403, "User 'ada' is not authorized with reason: no role")
            if seen.path.startswith("/apis/v1alpha1/runs/"):
                return self._log(seen)
            answer = self._operate(seen)
        except RefusedError as refusal:
            return refusal.status, "application/json", _error(refusal.status, refusal.message)
        if fault and fault.status:
            return fault.status, "text/html", "<html>bad gateway</html>"
        return 200, "application/json", json.dumps(answer)

    def _operate(self, seen: Seen) -> Any:
        if self.tasks is not None and (match := re.fullmatch(r"/apis/v2beta1/runs/([^/:]+)/tasks", seen.path)):
            return self._tasks(match[1], seen)
        found = openapi.find(seen.method, seen.path)
        if not found:
            raise RefusedError(404, "Not Found")
        operation, path = found
        wrong = [f"no parameter '{name}'" for name in seen.query if name not in operation.query]
        numbers = {name: int(value) for name, value in seen.query.items() if operation.query.get(name) == "int"}
        for name, value in (seen.query | numbers).items():
            wrong += openapi.problems(value, operation.query.get(name, "str"), name)
        if seen.query.get("filter"):
            wrong += openapi.problems(json.loads(seen.query["filter"]), "V2beta1Filter", "filter")
        if (operation.body is None) != (seen.body is None):
            wrong.append(f"body {'missing' if seen.body is None else 'given'}")
        if operation.body and seen.body is not None:
            wrong += openapi.problems(seen.body, operation.body, "body")
        if wrong:
            self.violations.append(f"request {operation.name}: {'; '.join(wrong)}")
            raise RefusedError(400, "; ".join(wrong))
        answer = getattr(self, operation.name)(seen, **path)
        amiss = list(openapi.problems(answer, operation.response, "answer"))
        if amiss:
            self.violations.append(f"answer {operation.name}: {'; '.join(amiss)}")
        return answer

    def _tasks(self, run_id: str, seen: Seen) -> Any:
        self._run(run_id)
        listed = dict(enumerate((self.tasks or {}).get(run_id, [])))
        answer = self._page(listed, "tasks", seen)
        self.violations += [f"answer: {said}" for said in native.problems(answer, "ListTasksResponse", "answer")]
        return answer

    def _log(self, seen: Seen) -> tuple[int, str, str]:
        parts = seen.path.split("/")
        if not self.serves_logs:
            return 404, "text/plain", "404 page not found"
        self._run(parts[4])
        if parts[6] not in self.logs:
            said = f'Failed to read logs for run {parts[4]}: error in opening log stream: pods "{parts[6]}" not found'
            return 500, "application/json", json.dumps({"error_message": said, "error_details": said})
        return 200, "text/plain", self.logs[parts[6]]

    # Operations, by the names that the document gives them

    def healthz_service_get_healthz(self, seen: Seen) -> Any:
        return {"multi_user": self.multi_user, "pipeline_store": "database"}

    def experiment_service_list_experiments(self, seen: Seen) -> Any:
        self._namespace(seen.query.get("namespace"))
        return self._page(self.experiments, "experiments", seen)

    def experiment_service_create_experiment(self, seen: Seen) -> Any:
        self._namespace(seen.body.get("namespace"))
        if any(made["display_name"] == seen.body["display_name"] for made in self.experiments.values()):
            raise RefusedError(409, f"Experiment {seen.body['display_name']} already exists")
        key = str(uuid.uuid4())
        self.experiments[key] = {
            **seen.body,
            "experiment_id": key,
            "created_at": self._now(),
            "storage_state": "AVAILABLE",
        }
        return self.experiments[key]

    def run_service_create_run(self, seen: Seen) -> Any:
        body = seen.body
        self._experiment(body)
        self._runnable(body)
        key = str(uuid.uuid4())
        run = {**body, "run_id": key, "storage_state": "AVAILABLE", "created_at": self._now(), "state_history": []}
        run["finished_at"] = "1970-01-01T00:00:00Z"
        self.runs[key] = run
        self._enter(run, "PENDING")
        return run

    def run_service_get_run(self, seen: Seen, run_id: str) -> Any:
        return self._run(run_id)

    def run_service_list_runs(self, seen: Seen) -> Any:
        if not seen.query.get("experiment_id"):
            self._namespace(seen.query.get("namespace"))
        return self._page(self.runs, "runs", seen)

    def run_service_terminate_run(self, seen: Seen, run_id: str) -> Any:
        run = self._run(run_id)
        if run["state"] in OVER:
            raise RefusedError(400, f"Failed to terminate run {run_id}. Row not found")
        self._enter(run, "CANCELING")
        return {}

    def run_service_retry_run(self, seen: Seen, run_id: str) -> Any:
        run = self._run(run_id)
        if run["state"] != "FAILED":
            raise RefusedError(400, "Workflow must be Failed/Error to retry")
        run["finished_at"] = "1970-01-01T00:00:00Z"
        self._enter(run, "RUNNING")
        return {}

    def recurring_run_service_create_recurring_run(self, seen: Seen) -> Any:
        body = seen.body
        self._experiment(body)
        self._runnable(body)
        if not 1 <= int(body.get("max_concurrency", 0)) <= 10:
            raise RefusedError(400, "Max concurrency of a recurring run must be at least 1 and at most 10")
        cron = body.get("trigger", {}).get("cron_schedule", {}).get("cron")
        if cron is not None and len(cron.split()) != 6:
            raise RefusedError(400, "Schedule cron is not a supported format")
        key = str(uuid.uuid4())
        status = "ENABLED" if body.get("mode") == "ENABLE" else "DISABLED"
        self.recurring[key] = {**body, "recurring_run_id": key, "status": status, "created_at": self._now()}
        return self.recurring[key]

    def recurring_run_service_list_recurring_runs(self, seen: Seen) -> Any:
        self._namespace(seen.query.get("namespace"))
        return self._page(self.recurring, "recurringRuns", seen)

    def recurring_run_service_get_recurring_run(self, seen: Seen, recurring_run_id: str) -> Any:
        return self._schedule(recurring_run_id)

    def recurring_run_service_enable_recurring_run(self, seen: Seen, recurring_run_id: str) -> Any:
        self._schedule(recurring_run_id).update(status="ENABLED", mode="ENABLE")
        return {}

    def recurring_run_service_disable_recurring_run(self, seen: Seen, recurring_run_id: str) -> Any:
        self._schedule(recurring_run_id).update(status="DISABLED", mode="DISABLE")
        return {}

    def recurring_run_service_delete_recurring_run(self, seen: Seen, recurring_run_id: str) -> Any:
        del self.recurring[self._schedule(recurring_run_id)["recurring_run_id"]]
        return {}

    # What they share

    def _namespace(self, namespace: str | None) -> None:
        if self.multi_user and not namespace:
            raise RefusedError(400, "Invalid input error: In multi-user mode, the namespace must be given")

    def _experiment(self, body: dict[str, Any]) -> None:
        if body.get("experiment_id") not in self.experiments:
            raise RefusedError(404, f"ResourceNotFoundError: Experiment {body.get('experiment_id')} not found.")

    def _runnable(self, body: dict[str, Any]) -> None:
        """What the backend looks at before it makes a run: that the pipeline parses, and has values for its inputs."""
        spec = body["pipeline_spec"]
        try:
            parsed = json_format.ParseDict(spec.get("pipeline_spec", spec), pipeline_spec_pb2.PipelineSpec())
            json_format.ParseDict(spec.get("platform_spec", {}), pipeline_spec_pb2.PlatformSpec())
        except json_format.ParseError as error:
            raise RefusedError(400, f"Failed to parse the pipeline: {error}") from None
        given = body.get("runtime_config", {}).get("parameters", {})
        inputs = parsed.root.input_definitions.parameters
        for name in given:
            if name not in inputs:
                raise RefusedError(400, f"runtime parameter {name} is not an input of the pipeline")
        for name, about in inputs.items():
            kind = pipeline_spec_pb2.ParameterType.ParameterTypeEnum.Name(about.parameter_type)
            if name not in given:
                if not about.HasField("default_value") and not about.is_optional:
                    raise RefusedError(400, f"parameter {name} is missing")
            elif not isinstance(given[name], KINDS[kind]):
                raise RefusedError(400, f"parameter {name} is no {kind}")

    def _run(self, run_id: str) -> dict[str, Any]:
        if run_id not in self.runs:
            raise RefusedError(404, f"Failed to get a run: ResourceNotFoundError: Run {run_id} not found.")
        return self.runs[run_id]

    def _schedule(self, recurring_run_id: str) -> dict[str, Any]:
        if recurring_run_id not in self.recurring:
            raise RefusedError(404, f"ResourceNotFoundError: Job {recurring_run_id} not found.")
        return self.recurring[recurring_run_id]

    def _enter(self, run: dict[str, Any], state: str) -> None:
        if run.get("state") != state:
            run["state"] = state
            run["state_history"] = [*run["state_history"], {"update_time": self._now(), "state": state}]

    def _page(self, entries: dict[str, dict[str, Any]], name: str, seen: Seen) -> dict[str, Any]:
        found = list(entries.values())
        for predicate in json.loads(seen.query.get("filter") or "{}").get("predicates", []):
            assert predicate["operation"] in ("EQUALS", 1)
            found = [entry for entry in found if entry.get(predicate["key"]) == predicate["string_value"]]
        if seen.query.get("experiment_id"):
            found = [entry for entry in found if entry.get("experiment_id") == seen.query["experiment_id"]]
        if seen.query.get("sort_by", "").startswith("created_at"):
            found.sort(key=lambda entry: entry["created_at"], reverse=seen.query["sort_by"].endswith("desc"))
        size, start = int(seen.query.get("page_size") or 20), int(seen.query.get("page_token") or 0)
        token = {"next_page_token": str(start + size)} if len(found) > start + size else {}
        return {name: found[start : start + size], "total_size": len(found), **token}

    def _now(self) -> str:
        self._clock += 1
        return datetime.fromtimestamp(argo.BEGIN.timestamp() + self._clock, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _error(status: int, message: str) -> str:
    return json.dumps({"code": CODES.get(status, 2), "message": message, "details": []})
