"""Looking at a run, waiting for it, stopping it and letting it go on."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.pipelines.argo import State
from tests.pipelines.conftest import Said, Verb
from tests.pipelines.kfp_server import KFPServer

RUNS = "/apis/v2beta1/runs"
QUICK = ("--interval", 0.05)
DONE = {name: State("Succeeded") for name in ("plan", "prepare-data")}


@pytest.fixture
def run(server: KFPServer, submit: Verb) -> str:
    """A run that was submitted, by its id."""
    assert submit("--name", "chain").status == 0
    server.seen.clear()
    return next(iter(server.runs))


@pytest.fixture
def at(server: KFPServer, verb: Verb) -> Verb:
    """A verb at the server."""
    return lambda name, *arguments: verb(name, "--host", server.url, *arguments)


@pytest.fixture
def later(server: KFPServer, run: str) -> Iterator[Callable[..., None]]:
    """Do things one after the other while a verb looks on, each once it has looked at what was before."""
    threads: list[threading.Thread] = []
    over = threading.Event()

    def looks() -> int:
        return sum(seen.path == f"{RUNS}/{run}" for seen in server.seen)

    def start(*steps: Callable[[], Any]) -> None:
        def go() -> None:
            for step in steps:
                before = looks()
                while looks() < before + 2 and not over.wait(0.01):
                    pass
                step()

        threads.append(threading.Thread(target=go))
        threads[-1].start()

    yield start
    over.set()
    for thread in threads:
        thread.join()


def failed(said: Said, line: str) -> None:
    assert (said.status, said.err, said.out) == (2, f"error: {line}\n", "")


# status


def test_status_is_a_table_of_the_stages(server: KFPServer, at: Verb, run: str) -> None:
    server.move(run, "RUNNING", DONE | {"prepare-data": State("Cached"), "train-teacher": State("Running", 2)})
    said = at("status", run)
    assert said.status == 0
    title, header, *lines = said.out.splitlines()
    assert title.startswith(f"chain ({run}): RUNNING, ")
    assert header.split() == ["stage", "state", "started", "took", "tries", "pod"]
    table = {line.split()[0]: line.split()[1:] for line in lines if not line.startswith(("train-st", "evaluate-st"))}
    assert table["plan"][0] == "SUCCEEDED" and table["plan"][3:6] == ["60", "s", "1/3"]
    assert table["prepare-data"][0] == "CACHED"
    assert table["train-teacher"][0] == "RUNNING" and "2/11" in table["train-teacher"]
    assert table["report"] == ["WAITING"]
    assert [line.split()[1] for line in lines if line.startswith("train-student")] == [
        f"{method}-{steps}" for method in ("cd", "ct") for steps in (1, 2, 4, 8)
    ]


def test_status_for_machines(server: KFPServer, at: Verb, run: str) -> None:
    server.move(run, "FAILED", DONE | {"train-teacher": State("Failed", 3, "the loss is not finite")})
    told = at("status", "chain", "--json").json
    assert (told["run_id"], told["name"], told["state"]) == (run, "chain", "FAILED")
    stages = {stage["name"]: stage for stage in told["stages"]}
    assert stages["train-teacher"] | {"pod": "", "started": "", "finished": ""} == {
        "name": "train-teacher",
        "stage": "train-teacher",
        "student": None,
        "state": "FAILED",
        "started": "",
        "finished": "",
        "seconds": 180.0,
        "attempts": 3,
        "attempts_allowed": 11,
        "cached": False,
        "message": "the loss is not finite",
        "pod": "",
    }
    assert stages["train-student cd-4"]["state"] == "NOT RUN"


def test_following_prints_one_document_for_every_change(
    server: KFPServer, at: Verb, run: str, later: Callable[..., None]
) -> None:
    later(
        lambda: server.move(run, "RUNNING", {"plan": State("Running")}),
        lambda: server.move(run, "SUCCEEDED", {"plan": State("Succeeded")}),
    )
    said = at("status", run, "--follow", "--json", *QUICK)
    assert said.status == 0
    states = [(told["state"], told["stages"][0]["state"]) for told in map(json.loads, said.out.splitlines())]
    assert states == [("PENDING", "WAITING"), ("RUNNING", "RUNNING"), ("SUCCEEDED", "SUCCEEDED")]


def test_a_terminal_gets_a_table_that_is_redrawn(
    server: KFPServer, at: Verb, run: str, later: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    later(lambda: server.move(run, "RUNNING", {"plan": State("Running")}), lambda: server.move(run, "SUCCEEDED"))
    said = at("status", run, *QUICK)
    assert said.status == 0
    assert "PENDING" in said.out and "RUNNING" in said.out and "SUCCEEDED" in said.out
    assert "\x1b[" in said.out


@pytest.mark.parametrize("verb_name", ["status", "wait", "logs", "cancel", "resume"])
def test_a_run_that_does_not_exist(server: KFPServer, at: Verb, verb_name: str) -> None:
    missing = "00000000-0000-4000-8000-000000000000"
    failed(at(verb_name, missing), f"run {missing}: not at {server.url}; check its id, --namespace and --host")
    failed(
        at(verb_name, "no-such"),
        f"run no-such: no run has that id or name at {server.url}; check --namespace and --host",
    )
    assert server.made() == []


def test_the_newest_run_of_a_name_is_meant(server: KFPServer, at: Verb, submit: Verb, run: str) -> None:
    newer = submit("--name", "chain", "--json").json["run_id"]
    for name in ("chain", "latest"):
        assert at("status", name, "--json").json["run_id"] == newer != run


# wait


@pytest.mark.parametrize(("state", "status"), [("SUCCEEDED", 0), ("FAILED", 1), ("CANCELED", 3)])
def test_waiting_ends_as_the_run_does(server: KFPServer, at: Verb, run: str, state: str, status: int) -> None:
    server.move(run, state)
    said = at("wait", run, *QUICK, "--json")
    assert (said.status, said.json["state"]) == (status, state)


def test_a_cancelled_workflow_ends_as_failed_and_is_told_as_cancelled(server: KFPServer, at: Verb, run: str) -> None:
    for state in ("RUNNING", "CANCELING", "FAILED"):
        server.move(run, state)
    assert at("wait", run, *QUICK).status == 3
    for state in ("RUNNING", "FAILED"):  # resumed, and then it did fail
        server.move(run, state)
    assert at("wait", run, *QUICK).status == 1


def test_waiting_tells_every_change(server: KFPServer, at: Verb, run: str, later: Callable[..., None]) -> None:
    states = {"plan": State("Succeeded"), ("train-student", 1): State("Failed", 1, "out of memory")}
    later(lambda: server.move(run, "RUNNING", states, 8), lambda: server.move(run, "FAILED", states, 8))
    said = at("wait", run, *QUICK)
    assert said.status == 1
    assert "plan: SUCCEEDED\n" in said.err and "train-student cd-2: FAILED: out of memory\n" in said.err
    assert said.err.count("plan: SUCCEEDED") == 1
    assert said.out.startswith(f"chain ({run}): FAILED, ")


def test_a_run_that_takes_longer_than_we_wait_goes_on(server: KFPServer, at: Verb, run: str) -> None:
    said = at("wait", run, "--timeout", 0.2, *QUICK)
    assert said.status == 4
    line = said.err.splitlines()[-1]
    assert line == f"error: run {run}: PENDING after 0 s; the run goes on, and `mcm pipeline wait {run}` looks again"
    assert server.made() == []


def test_a_connection_lost_while_we_wait(server: KFPServer, at: Verb, run: str, later: Callable[..., None]) -> None:
    later(
        lambda: server.fault("GET", RUNS, lost=True, times=10),
        lambda: server.fault("GET", RUNS, status=503, times=2),
        lambda: server.move(run, "SUCCEEDED"),
    )
    said = at("wait", run, *QUICK)
    assert said.status == 0
    assert f"{server.url}: the connection was lost; trying again\n" in said.err
    assert f"{server.url}: the server failed with status 503: overloaded; try again later; trying again" in said.err


def test_patience_begins_anew_with_every_answer(
    server: KFPServer, at: Verb, run: str, later: Callable[..., None]
) -> None:
    later(
        lambda: time.sleep(1.5),
        lambda: server.fault("GET", RUNS, status=503, times=2),
        lambda: server.move(run, "SUCCEEDED"),
    )
    assert at("wait", run, *QUICK, "--patience", 1.5).status == 0


def test_a_server_that_does_not_come_back(server: KFPServer, at: Verb, run: str, later: Callable[..., None]) -> None:
    later(lambda: server.fault("GET", RUNS, lost=True, times=100_000))
    said = at("wait", run, *QUICK, "--patience", 0.3)
    assert said.status == 4
    goes_on = f"the run goes on, and `mcm pipeline wait {run}` looks again"
    assert said.err.splitlines()[-1] == f"error: {server.url}: the connection was lost; {goes_on}"


def test_a_token_that_expires_while_we_wait_and_is_rotated(
    server: KFPServer, at: Verb, run: str, tmp_path: Path, later: Callable[..., None]
) -> None:
    file = tmp_path / "token"
    file.write_text("first")
    server.tokens = {"first"}

    def expire() -> None:
        server.tokens = {"second"}

    later(expire, lambda: file.write_text("second"), lambda: server.move(run, "SUCCEEDED"))
    said = at("wait", run, *QUICK, "--token-file", file)
    assert said.status == 0
    assert f"{server.url}: refuses the token in {file}; write a new one there; trying again\n" in said.err
    assert "first" not in said.err + said.out and "second" not in said.err + said.out


def test_a_token_that_expires_in_the_environment_ends_the_waiting(
    server: KFPServer, at: Verb, run: str, later: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KFP_TOKEN", "first")
    server.tokens = {"first"}
    later(lambda: server.tokens.clear())  # type: ignore[union-attr]
    said = at("wait", run, *QUICK)
    assert said.status == 2
    assert said.err.splitlines()[-1] == (
        f"error: {server.url}: refuses the token in $KFP_TOKEN; put a new one into KFP_TOKEN"
    )


# cancel and resume


def test_cancelling(server: KFPServer, at: Verb, run: str) -> None:
    server.move(run, "RUNNING")
    said = at("cancel", run, "--json")
    assert (said.status, said.json) == (0, {"run_id": run, "state": "CANCELING"})
    server.move(run, "FAILED")
    failed(at("cancel", run), f"run {run}: is over (CANCELED), and there is nothing to cancel")


def test_resuming_goes_on_under_the_same_id(server: KFPServer, at: Verb, run: str) -> None:
    server.move(run, "FAILED")
    said = at("resume", run, "--json")
    assert said.status == 0
    assert said.json == {"run_id": run, "state": "RUNNING", "link": f"{server.url}/#/runs/details/{run}"}
    assert len(server.runs) == 1
    failed(at("resume", run), f"run {run}: is RUNNING; only a run that failed or was cancelled is resumed")


def test_resuming_and_waiting(server: KFPServer, at: Verb, run: str, later: Callable[..., None]) -> None:
    server.move(run, "FAILED")
    later(lambda: server.move(run, "SUCCEEDED"))
    assert at("resume", run, "--wait", *QUICK).status == 0


@pytest.mark.parametrize("done", [True, False], ids=["after it was done", "before it was done"])
@pytest.mark.parametrize(("name", "state"), [("cancel", "RUNNING"), ("resume", "FAILED")])
def test_an_answer_lost_in_the_middle(server: KFPServer, at: Verb, run: str, name: str, state: str, done: bool) -> None:
    server.move(run, state)
    server.fault("POST", RUNS, lost=True, done=done)
    said = at(name, run)
    assert said.status == 0, said.err
    assert server.runs[run]["state"] == {"cancel": "CANCELING", "resume": "RUNNING"}[name]
