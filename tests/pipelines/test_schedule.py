"""Recurring runs: made once, one at a time, without catching up; listed, enabled, disabled, deleted."""

from pathlib import Path

import pytest

from tests.chain.programs import ROOT
from tests.pipelines.conftest import Said, Verb
from tests.pipelines.kfp_server import KFPServer

RECURRING = "/apis/v2beta1/recurringruns"


@pytest.fixture
def schedule(verb: Verb, server: KFPServer, package: Path) -> Verb:
    common = ("--package", package, "--params", ROOT / "params.yaml", "--store", "/mnt/state", "--host", server.url)
    return lambda *arguments: verb("schedule", *common, *arguments)


@pytest.fixture
def change(verb: Verb, server: KFPServer) -> Verb:
    return lambda *arguments: verb("schedule", "--host", server.url, *arguments)


def failed(said: Said, line: str) -> None:
    assert (said.status, said.err, said.out) == (2, f"error: {line}\n", "")


def test_a_cron_schedule(server: KFPServer, schedule: Verb) -> None:
    said = schedule("--cron", "0 0 3 * * 1", "--name", "weekly", "-S", "teacher.seed=7", "--json")
    assert said.status == 0, said.err
    (made,) = server.recurring.values()
    assert said.json == {
        "recurring_run_id": made["recurring_run_id"],
        "name": "weekly",
        "status": "ENABLED",
        "cron": "0 0 3 * * 1",
        "every_seconds": None,
        "max_concurrency": 1,
        "catch_up": False,
    }
    assert (made["max_concurrency"], made["no_catchup"], made["mode"]) == ("1", True, "ENABLE")
    assert made["runtime_config"]["parameters"]["teacher"]["seed"] == 7
    assert server.runs == {}


def test_an_interval_that_waits_to_be_enabled(server: KFPServer, schedule: Verb, change: Verb) -> None:
    made = schedule("--every", "12h", "--name", "often", "--start-disabled", "--json").json
    assert (made["status"], made["every_seconds"]) == ("DISABLED", 43200)
    assert change("--enable", "often", "--json").json == {
        "recurring_run_id": made["recurring_run_id"],
        "done": "enabled",
    }
    assert change("--list", "--json").json[0]["status"] == "ENABLED"
    assert change("--disable", made["recurring_run_id"]).out == f"{made['recurring_run_id']}: disabled\n"
    assert change("--list").out.split()[1:] == ["DISABLED", "every", "43200", "s", "often"]
    assert change("--delete", "often").status == 0
    assert (server.recurring, change("--list").out) == ({}, "no schedules\n")


def test_more_schedules_than_one_answer_holds(server: KFPServer, schedule: Verb, change: Verb) -> None:
    assert schedule("--every", "7d").status == 0
    (made,) = server.recurring.values()
    for k in range(150):
        server.recurring[str(k)] = made | {"recurring_run_id": str(k)}
    assert len(change("--list", "--json").json) == 151


@pytest.mark.parametrize("done", [True, False])
def test_an_unclear_answer_makes_no_second_schedule(server: KFPServer, schedule: Verb, done: bool) -> None:
    server.fault("POST", RECURRING, lost=True, done=done)
    assert schedule("--every", "7d").status == 0
    assert len(server.recurring) == 1


def test_what_is_missing_makes_no_schedule(server: KFPServer, verb: Verb, package: Path) -> None:
    said = verb(
        "schedule", "--package", package, "--every", "7d", "--params", ROOT / "params.yaml", "--host", server.url
    )
    assert said.status == 2
    assert said.err.startswith("error: not ready, and nothing was sent: --store: not given; ")
    assert server.seen == []


@pytest.mark.parametrize(
    ("option", "value", "line"),
    [
        ("--cron", "0 3 * * 1", "--cron '0 3 * * 1': KFP has seconds in front; write '0 0 3 * * 1'"),
        (
            "--cron",
            "weekly",
            "--cron 'weekly': not six fields of seconds, minutes, hours, day, month, day of the week",
        ),
        ("--every", "a week", "--every a week: not a time; write for example 90min, 12h or 7d"),
        ("--every", "0h", "--every 0h: not a time; write for example 90min, 12h or 7d"),
    ],
)
def test_times_that_are_none(server: KFPServer, schedule: Verb, option: str, value: str, line: str) -> None:
    failed(schedule(option, value), line)
    assert server.seen == []


def test_a_schedule_that_does_not_exist(server: KFPServer, change: Verb, schedule: Verb) -> None:
    missing = "00000000-0000-4000-8000-000000000000"
    failed(
        change("--delete", missing), f"schedule {missing}: not at {server.url}; check its id, --namespace and --host"
    )
    failed(
        change("--disable", "never"),
        "schedule never: no schedule has that name; `mcm pipeline schedule --list` shows the ids",
    )
    for _ in range(2):
        assert schedule("--every", "7d", "--name", "twice").status == 0
    failed(
        change("--delete", "twice"),
        "schedule twice: several schedules have that name; `mcm pipeline schedule --list` shows the ids",
    )
    assert len(server.recurring) == 2
