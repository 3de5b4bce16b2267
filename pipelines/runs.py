"""Runs on a Kubeflow Pipelines server: made once, found, stopped, resumed. Nothing here prints."""

import copy
import json
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mcm.errors import UserError
from pipelines.client import ApiError, Connection, pauses, say_patiently

EXPERIMENT = "multistep-consistency"
KEY = "mcm submission"  # what a run's description says before the key
DONE = ("SUCCEEDED", "SKIPPED", "FAILED", "CANCELED")
LOOKS = 2  # a server that lost our connection may still be at work on the request


@dataclass(frozen=True)
class Submission:
    """What a run is made of: the compiled documents, the values of its parameters, its name, its pods' account."""

    pipeline: Mapping[str, Any]
    arguments: Mapping[str, Any]
    name: str
    experiment: str = EXPERIMENT
    service_account: str | None = None
    note: str = ""


def pipeline_body(documents: list[Any], cache: bool = True) -> dict[str, Any]:
    """The documents of a compiled file as the API wants them; without cache, every task of every DAG runs."""
    spec, *platform = [copy.deepcopy(document) for document in documents if document]
    if not cache:
        dags = [spec["root"], *spec.get("components", {}).values()]
        for task in (task for dag in dags for task in dag.get("dag", {}).get("tasks", {}).values()):
            task["cachingOptions"] = {}
    return {"pipeline_spec": spec, "platform_spec": platform[0]} if platform else spec


def experiment_id(connection: Connection, name: str, create: bool = True) -> str | None:
    """The id of the experiment of that name, made when it is not there."""
    import kfp_server_api

    api = connection.api.experiments
    end = time.monotonic() + connection.patience
    for pause in pauses():
        found = connection.call(
            api.experiment_service_list_experiments,
            filter=_filter("display_name", name),
            **_somewhere(connection),
        )
        if found.experiments:
            return str(found.experiments[0].experiment_id)
        if not create:
            return None
        body = kfp_server_api.V2beta1Experiment(display_name=name, namespace=connection.namespace)
        try:
            made = connection.once(api.experiment_service_create_experiment, experiment=body)
            return _identified(connection, made, "experiment_id")
        except ApiError as error:
            # It may be there all the same: an answer was lost (look again), or another was faster (409).
            if not (error.transient or error.status == 409) or time.monotonic() + pause > end:
                raise
        time.sleep(pause)
    raise AssertionError("pauses never ends")


def create(connection: Connection, submission: Submission) -> Any:
    """Make the run, once. Its description carries a key of this call: where the answer is lost, we look for the key
    before anything is sent again."""
    import kfp_server_api

    key = uuid.uuid4().hex
    experiment = experiment_id(connection, submission.experiment)
    body = kfp_server_api.V2beta1Run(
        display_name=submission.name,
        description=f"{submission.note} ({KEY} {key})".strip(),
        experiment_id=experiment,
        pipeline_spec=submission.pipeline,
        runtime_config=kfp_server_api.V2beta1RuntimeConfig(parameters=dict(submission.arguments)),
        service_account=submission.service_account,
    )
    made = _once(
        connection,
        lambda: connection.once(connection.api.runs.run_service_create_run, run=body),
        lambda: _with_key(_runs_named(connection, submission.name, experiment), key),
        f"the run '{submission.name}' (key {key})",
    )
    _identified(connection, made, "run_id")
    return made


def create_schedule(connection: Connection, submission: Submission, trigger: Any, enabled: bool = True) -> Any:
    """Make a recurring run, once, in the way of `create`: no catching up, one run at a time."""
    import kfp_server_api

    key = uuid.uuid4().hex
    experiment = experiment_id(connection, submission.experiment)
    mode = kfp_server_api.RecurringRunMode
    body = kfp_server_api.V2beta1RecurringRun(
        display_name=submission.name,
        description=f"{submission.note} ({KEY} {key})".strip(),
        experiment_id=experiment,
        pipeline_spec=submission.pipeline,
        runtime_config=kfp_server_api.V2beta1RuntimeConfig(parameters=dict(submission.arguments)),
        service_account=submission.service_account,
        trigger=trigger,
        mode=mode.ENABLE if enabled else mode.DISABLE,
        max_concurrency="1",
        no_catchup=True,
    )
    made = _once(
        connection,
        lambda: connection.once(connection.api.recurring_runs.recurring_run_service_create_recurring_run, body),
        lambda: _with_key(schedules(connection, submission.name), key),
        f"the schedule '{submission.name}' (key {key})",
    )
    _identified(connection, made, "recurring_run_id")
    return made


def _once(connection: Connection, send: Callable[[], Any], done: Callable[[], Any], what: str) -> Any:
    """What `send` gives. After an unclear answer `done` is asked, twice, before anything is sent again."""
    end = time.monotonic() + connection.patience
    for pause in pauses():
        try:
            return send()
        except ApiError as error:
            if not error.transient:
                raise
            failure = error
            say_patiently(error, pause)
        for _ in range(LOOKS if failure.reached else 0):
            time.sleep(pause)
            try:
                found = done()
            except ApiError as error:
                raise UserError(f"{error}; whether {what} was made is not known: look before you try again") from None
            if found:
                return found
        if time.monotonic() + pause > end:
            raise UserError(f"{failure}; {what} was not made")
        time.sleep(pause)
    raise AssertionError("pauses never ends")


def _identified(connection: Connection, made: Any, name: str) -> str:
    """The id of what was made. A login page in place of the answer leaves it empty."""
    found = getattr(made, name)
    if not found:
        raise connection.not_kfp("no id in the answer")
    return str(found)


def _with_key(found: list[Any], key: str) -> Any | None:
    return next((entry for entry in found if key in (entry.description or "")), None)


def _runs_named(connection: Connection, name: str, experiment: str | None = None) -> list[Any]:
    """Runs of that name, newest first."""
    where = {"experiment_id": experiment} if experiment else _somewhere(connection)
    listed = connection.call(
        connection.api.runs.run_service_list_runs,
        filter=_filter("display_name", name),
        sort_by="created_at desc",
        page_size=100,
        **where,
    )
    return list(listed.runs or [])


def find(connection: Connection, run: str) -> str:
    """A run's id from the id itself, a name (the newest of that name) or `latest` (the newest of all)."""
    if _is_id(run):
        return run
    if run == "latest":
        listed = connection.call(
            connection.api.runs.run_service_list_runs, sort_by="created_at desc", page_size=1, **_somewhere(connection)
        )
        if not listed.runs:
            raise UserError(f"{connection.host}: has no runs; `mcm pipeline submit` makes one")
        return str(listed.runs[0].run_id)
    named = _runs_named(connection, run)
    if not named:
        raise UserError(f"run {run}: no run has that id or name at {connection.host}; check --namespace and --host")
    return str(named[0].run_id)


def get(connection: Connection, run_id: str, patient: bool = True) -> Any:
    """The run, with its tasks. `patient` False: one attempt."""
    send = connection.call if patient else connection.once
    try:
        run = send(connection.api.runs.run_service_get_run, run_id)
    except ApiError as error:
        raise _missing(error, f"run {run_id}", connection) from None
    _identified(connection, run, "run_id")
    return run


def outcome(run: Any) -> str:
    """SUCCEEDED, FAILED or CANCELED of a finished run, else its state.

    A terminated workflow ends as failed; that it was to be cancelled is left in the history of states alone.
    """
    state = str(run.state or "PENDING")
    if state == "FAILED":
        for entry in reversed(run.state_history or []):
            if str(entry.state) in ("CANCELING", "CANCELED"):
                return "CANCELED"
            if str(entry.state) in ("PENDING", "RUNNING"):  # resumed since, and then it did fail
                break
    return state


def cancel(connection: Connection, run_id: str) -> None:
    """Ask the server to stop a run."""
    try:
        connection.call(connection.api.runs.run_service_terminate_run, run_id)
    except ApiError as error:
        raise _missing(error, f"run {run_id}", connection) from None


def resume(connection: Connection, run_id: str) -> None:
    """Let the server run again what failed or was cancelled; training goes on from its checkpoints."""
    try:
        _once(
            connection,
            lambda: connection.once(connection.api.runs.run_service_retry_run, run_id),
            lambda: outcome(get(connection, run_id)) not in DONE,
            f"the resumption of run {run_id}",
        )
    except ApiError as error:
        raise _missing(error, f"run {run_id}", connection) from None


def schedules(connection: Connection, name: str | None = None) -> list[Any]:
    """Recurring runs, newest first; of one name, or all."""
    found: list[Any] = []
    token = ""
    while True:
        page = connection.call(
            connection.api.recurring_runs.recurring_run_service_list_recurring_runs,
            sort_by="created_at desc",
            page_size=100,
            page_token=token,
            **({"filter": _filter("display_name", name)} if name else {}),
            **_somewhere(connection),
        )
        found += page.recurring_runs or []
        token = page.next_page_token or ""
        if not token:
            return found


def find_schedule(connection: Connection, schedule: str) -> str:
    """A recurring run's id from the id itself or a name that only one has."""
    if _is_id(schedule):
        return schedule
    named = schedules(connection, schedule)
    if len(named) != 1:
        what = "several schedules have" if named else "no schedule has"
        raise UserError(f"schedule {schedule}: {what} that name; `mcm pipeline schedule --list` shows the ids")
    return str(named[0].recurring_run_id)


def change_schedule(connection: Connection, schedule_id: str, verb: str) -> None:
    """`enable`, `disable` or `delete` a recurring run."""
    method = getattr(connection.api.recurring_runs, f"recurring_run_service_{verb}_recurring_run")
    try:
        connection.call(method, schedule_id)
    except ApiError as error:
        raise _missing(error, f"schedule {schedule_id}", connection) from None


def _missing(error: ApiError, what: str, connection: Connection) -> UserError:
    if error.status == 404:
        return UserError(f"{what}: not at {connection.host}; check its id, --namespace and --host")
    return error


def _is_id(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False


def _somewhere(connection: Connection) -> dict[str, str]:
    return {"namespace": connection.namespace} if connection.namespace else {}


def _filter(key: str, value: str) -> str:
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": key, "string_value": value}]})
