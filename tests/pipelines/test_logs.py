"""What the pods wrote: through the pipelines server, or through Kubernetes where that has no logs."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from pipelines.stages import Row, rows
from tests.pipelines.argo import State
from tests.pipelines.conftest import Said, Verb
from tests.pipelines.kfp_server import KFPServer
from tests.serving import Quiet, serving

STATES = {
    "plan": State("Succeeded"),
    "prepare-data": State("Cached"),
    "train-teacher": State("Failed", 2),
    ("train-student", 1): State("Running"),
}


@pytest.fixture
def run(server: KFPServer, submit: Verb) -> str:
    assert submit("--name", "chain").status == 0
    run = next(iter(server.runs))
    server.move(run, "RUNNING", STATES, rounds=8)
    return run


@pytest.fixture
def pods(server: KFPServer, run: str) -> dict[str, list[str]]:
    """The pods of each stage, oldest first."""
    import json
    from types import SimpleNamespace

    import kfp_server_api

    client = kfp_server_api.ApiClient(kfp_server_api.Configuration())
    read = client.deserialize(SimpleNamespace(data=json.dumps(server.runs[run])), "V2beta1Run")
    found: list[Row] = rows(read)
    return {row.name: row.pods for row in found}


@pytest.fixture
def logs(server: KFPServer, verb: Verb) -> Callable[..., Said]:
    return lambda *arguments: verb("logs", "--host", server.url, *arguments)


def test_the_log_of_the_last_attempt(
    server: KFPServer, logs: Callable[..., Said], run: str, pods: dict[str, list[str]]
) -> None:
    first, last = pods["train-teacher"]
    server.logs = {first: "began\n", last: "began again\nerror: no memory\n"}
    assert logs(run, "train-teacher") == Said(0, "began again\nerror: no memory\n", "")
    assert logs(run, "train-teacher", "--attempt", 1).out == "began\n"
    said = logs(run, "train-teacher", "--attempt", 3)
    assert said.err == "error: stage train-teacher: has 2 attempts; --attempt takes 1 to 2\n"


@pytest.mark.parametrize("words", [("train-student", "cd-2"), ("cd-2",), ("train-student cd-2",)])
def test_a_student_by_its_name(
    server: KFPServer, logs: Callable[..., Said], run: str, pods: dict[str, list[str]], words: tuple[str, ...]
) -> None:
    server.logs = {pods["train-student cd-2"][0]: "2 steps\n"}
    assert logs(run, *words) == Said(0, "2 steps\n", "")


def test_all_stages_that_ran(
    server: KFPServer, logs: Callable[..., Said], run: str, pods: dict[str, list[str]]
) -> None:
    plan, student = pods["plan"][0], pods["train-student cd-2"][0]
    server.logs = {plan: "eight students", student: "2 steps\n"}
    said = logs(run)
    assert said.out == f"== plan ({plan})\neight students\n== train-student cd-2 ({student})\n2 steps\n"
    # The failed stage's pod was not kept.
    assert said.err == (
        f"warning: stage train-teacher: its pod {pods['train-teacher'][-1]} is gone and its log with it; "
        "`mcm pipeline status` shows what the server remembers of it\n"
    )
    assert [entry["stage"] for entry in logs(run, "--json").json] == ["plan", "train-student cd-2"]


def test_stages_without_a_log(
    server: KFPServer, logs: Callable[..., Said], run: str, pods: dict[str, list[str]]
) -> None:
    assert logs(run, "plan").err == (
        f"error: stage plan: its pod {pods['plan'][0]} is gone and its log with it; "
        "`mcm pipeline status` shows what the server remembers of it\n"
    )
    assert logs(run, "train-techer").err == (
        "error: stage train-techer: this run has no such stage; did you mean 'train-teacher'?\n"
    )
    assert logs(run, "report").err == (
        "error: stage report: WAITING: it has no pod; `mcm pipeline status` shows the others\n"
    )


def test_following_prints_what_is_new_until_the_stage_is_over(
    server: KFPServer, logs: Callable[..., Said], run: str, pods: dict[str, list[str]]
) -> None:
    (pod,) = pods["train-student cd-2"]
    server.logs = {pod: "step 1\n"}

    def go_on() -> None:
        time.sleep(0.3)
        server.logs[pod] += "step 2\n"
        time.sleep(0.3)
        server.logs[pod] += "step 3\n"
        server.move(run, "RUNNING", STATES | {("train-student", 1): State("Succeeded")}, rounds=8)

    thread = threading.Thread(target=go_on)
    thread.start()
    assert logs(run, "train-student", "cd-2", "--follow", "--interval", 0.05) == Said(0, "step 1\nstep 2\nstep 3\n", "")
    thread.join()


def test_following_all_stages_names_them(
    server: KFPServer, logs: Callable[..., Said], run: str, pods: dict[str, list[str]]
) -> None:
    server.logs = {pods["plan"][0]: "eight\nstudents\n"}
    server.move(run, "FAILED")
    said = logs(run, "--follow", "--interval", 0.05)
    assert said.out == "plan | eight\nplan | students\n"


class _Kubernetes(Quiet):
    def do_GET(self) -> None:
        pod = self.path.split("/")[6]
        known = self.path == f"/api/v1/namespaces/team/pods/{pod}/log?container=main" and "impl" in pod
        data = b"from Kubernetes\n" if known else b'{"reason": "NotFound", "message": "pods not found"}'
        self.answer(200 if known else 404, data)


@pytest.fixture
def kubernetes() -> Iterator[dict[str, object]]:
    """A kubeconfig of a Kubernetes that has the logs of the namespace `team`."""
    with serving(_Kubernetes) as url:
        parts = {"cluster": {"server": url}, "user": {}}
        listed = {f"{kind}s": [{"name": "own", kind: value}] for kind, value in parts.items()}
        context = [{"name": "own", "context": {"cluster": "own", "user": "own"}}]
        yield {**listed, "contexts": context, "current-context": "own"}


def test_kubernetes_is_asked_where_the_host_has_no_logs(
    server: KFPServer,
    logs: Callable[..., Said],
    run: str,
    pods: dict[str, list[str]],
    kubernetes: dict[str, object],
    tmp_path: Path,
) -> None:
    server.serves_logs = False
    said = logs(run, "plan", "--namespace", "team")
    assert said.err == (
        f"error: stage plan: {server.url} offers no logs and there is no kubeconfig to read them with; "
        f"kubectl logs {pods['plan'][0]} -c main\n"
    )
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(kubernetes))
    assert logs(run, "plan", "--namespace", "team") == Said(0, "from Kubernetes\n", "")
    said = logs(run, "plan", "--namespace", "other")
    assert said.err.startswith(f"error: stage plan: its pod {pods['plan'][0]} is gone and its log with it")
