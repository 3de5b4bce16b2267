"""`mcm pipeline submit`: one run on the server, made from what was checked; and nothing where something is missing."""

import threading
from pathlib import Path

import pytest
import yaml

from pipelines.compiler import compile_pipeline
from pipelines.parameters import load
from pipelines.pipeline import Given
from pipelines.profile import load_profile, profiles
from tests.chain.programs import ROOT
from tests.pipelines.conftest import IMAGE, Verb
from tests.pipelines.kfp_server import KFPServer

RUNS = "/apis/v2beta1/runs"


def test_one_run_is_made_of_the_parameters(server: KFPServer, submit: Verb) -> None:
    said = submit("-S", "teacher.iterations=10", "--name", "first", "--experiment", "tries", "--json")
    assert said.status == 0, said.err
    (run,) = server.runs.values()
    assert said.json == {
        "run_id": run["run_id"],
        "name": "first",
        "link": f"{server.url}/#/runs/details/{run['run_id']}",
    }
    arguments = run["runtime_config"]["parameters"]
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    assert arguments["teacher"] == params["teacher"] | {"iterations": 10}
    assert arguments["students"] == params["students"]
    assert (arguments["store"], arguments["data_version"]) == ("/mnt/state", "")
    assert set(arguments) == {*params, "store", "data_version"}
    (experiment,) = server.experiments.values()
    assert (run["experiment_id"], experiment["display_name"]) == (experiment["experiment_id"], "tries")


def test_the_run_holds_pipeline_and_platform_as_compiled(server: KFPServer, submit: Verb, package: Path) -> None:
    assert submit().status == 0
    (run,) = server.runs.values()
    spec, platform = yaml.safe_load_all(package.read_text())
    assert run["pipeline_spec"] == {"pipeline_spec": spec, "platform_spec": platform}


def test_without_cache_no_task_of_any_dag_is_cached(server: KFPServer, submit: Verb) -> None:
    assert submit("--no-cache").status == 0
    (run,) = server.runs.values()
    spec = run["pipeline_spec"]["pipeline_spec"]
    dags = [spec["root"]["dag"], *(c["dag"] for c in spec["components"].values() if "dag" in c)]
    assert len(dags) > 2
    assert [task for dag in dags for task in dag["tasks"].values() if task["cachingOptions"].get("enableCache")] == []


def test_an_experiment_is_used_again(server: KFPServer, submit: Verb) -> None:
    assert submit().status == submit().status == 0
    assert (len(server.experiments), len(server.runs)) == (1, 2)


def test_runs_of_one_moment_have_different_names(server: KFPServer, submit: Verb) -> None:
    assert submit().status == submit().status == 0
    assert len({run["display_name"] for run in server.runs.values()}) == 2


@pytest.mark.parametrize("done", [True, False], ids=["after it was made", "before it was made"])
@pytest.mark.parametrize("how", [{"lost": True}, {"status": 502}], ids=["connection lost", "bad gateway"])
def test_an_unclear_answer_makes_no_second_run(
    server: KFPServer, submit: Verb, how: dict[str, int], done: bool
) -> None:
    server.fault("POST", RUNS, done=done, **how)
    said = submit("--name", "once", "--json")
    assert said.status == 0, said.err
    (run,) = server.runs.values()
    assert said.json["run_id"] == run["run_id"]


def test_an_experiment_whose_answer_was_lost_is_not_made_twice(server: KFPServer, submit: Verb) -> None:
    server.fault("POST", "/apis/v2beta1/experiments", lost=True, done=True)
    assert submit().status == 0
    assert (len(server.experiments), len(server.runs)) == (1, 1)


def test_another_run_of_that_name_is_not_taken_for_ours(server: KFPServer, submit: Verb) -> None:
    assert submit("--name", "same").status == 0
    server.fault("POST", RUNS, lost=True)
    assert submit("--name", "same").status == 0
    assert len(server.runs) == 2


def test_a_server_that_stays_lost_is_given_up_and_said_so(server: KFPServer, submit: Verb) -> None:
    server.fault("POST", RUNS, status=503, times=10_000)
    said = submit("--name", "vain", "--patience", 0.2)
    assert said.status == 2
    assert said.err.startswith(f"error: {server.url}: the server failed with status 503: overloaded; try again later; ")
    assert said.err.endswith(" was not made\n")
    assert server.runs == {}


def test_where_nothing_is_known_that_is_said(server: KFPServer, submit: Verb) -> None:
    server.fault("POST", RUNS, lost=True, done=True)
    server.fault("GET", RUNS, lost=True, times=10_000)
    said = submit("--name", "unclear", "--patience", 0.2)
    assert said.status == 2
    assert said.err.startswith(f"error: {server.url}: the connection was lost; whether the run 'unclear' (key ")
    assert said.err.endswith(") was made is not known: look before you try again\n")


def test_a_login_page_for_an_answer_is_no_run(server: KFPServer, submit: Verb) -> None:
    server.fault("POST", RUNS, status=200, body="<html>log in</html>")
    said = submit()
    assert said.status == 2
    assert said.err.startswith(f"error: {server.url}: answers, but not as Kubeflow Pipelines (no id in the answer); ")


def test_waiting_ends_with_the_status_of_the_run(server: KFPServer, submit: Verb) -> None:
    def fail() -> None:
        while not server.runs:
            pass
        server.move(next(iter(server.runs)), "FAILED")

    mover = threading.Thread(target=fail)
    mover.start()
    assert submit("--wait", "--interval", 0.05).status == 1
    mover.join()


# What is found before anything is sent


def findings(said: object) -> list[str]:
    return said.json["findings"]  # type: ignore[attr-defined]


def test_everything_that_is_missing_is_said_at_once(server: KFPServer, verb: Verb, tmp_path: Path) -> None:
    said = verb(
        "submit", "--profile", "gke-l5", "--params", ROOT / "params.yaml", "-S", "teacher.iteratoins=3",
        "--data", tmp_path / "none", "--teacher", "teacher", "--host", server.url, "--json",
    )  # fmt: skip
    assert said.status == 2
    parameters, profile, store, data, teacher = findings(said)
    assert parameters == "parameters, section 'teacher': unknown key 'iteratoins'; did you mean 'iterations'?"
    assert profile.startswith("profile 'gke-l5': there is none of that name; ")
    assert store.startswith("--store: not given; name a prefix such as gs://bucket/mcm")
    assert data == f"{tmp_path}/none: no such images here; --data takes a folder, an archive or a gs:// URI"
    assert teacher == "--teacher teacher: pods cannot read it; give a gs:// URI"
    listed = "".join(f"  - {finding}\n" for finding in findings(said))
    assert said.err == f"{listed}error: not ready, and nothing was sent: 5 things, listed above\n"
    assert server.seen == []


def test_check_sends_nothing(server: KFPServer, submit: Verb) -> None:
    said = submit("--check", "--json")
    assert said.status == 0
    assert said.json == {"ready": True, "findings": [], "profile": "cpu", "data": None}
    assert server.seen == []


def edited(package: Path, to: Path, old: str, new: str) -> Path:
    text = package.read_text()
    assert old in text
    to.write_text(text.replace(old, new))
    return to


def refused(verb: Verb, server: KFPServer, package: Path, *more: object) -> list[str]:
    params = ROOT / "params.yaml"
    common = ("--params", params, "--store", "/mnt/state", "--host", server.url, "--json")
    said = verb("submit", "--package", package, *common, *more)
    assert said.status == 2
    assert server.seen == []
    return findings(said)


def test_a_file_of_another_version_is_refused(server: KFPServer, verb: Verb, package: Path, tmp_path: Path) -> None:
    version = package.read_text().split()[2].rstrip(",")
    old = edited(package, tmp_path / "old.yaml", f"multistep-consistency {version}", "multistep-consistency 0.0.7")
    (finding,) = refused(verb, server, old)
    assert finding == f"{old}: compiled by version 0.0.7, and this is {version}; compile it again: mcm pipeline compile"


def test_an_image_without_digest_is_refused_unless_allowed(
    server: KFPServer, verb: Verb, package: Path, tmp_path: Path
) -> None:
    tagged = edited(package, tmp_path / "tagged.yaml", IMAGE, "registry.example/mcm-cpu:latest")
    (finding,) = refused(verb, server, tagged)
    assert f"{tagged}: image registry.example/mcm-cpu:latest is not by digest" in finding
    common = ("--params", ROOT / "params.yaml", "--store", "/mnt/state", "--host", server.url)
    assert verb("submit", "--package", tagged, *common, "--allow-unpinned").status == 0


def test_an_image_that_no_cluster_can_pull_is_refused(
    server: KFPServer, verb: Verb, package: Path, tmp_path: Path
) -> None:
    local = edited(package, tmp_path / "local.yaml", IMAGE, IMAGE.replace("registry.example", "localhost"))
    (finding,) = refused(verb, server, local)
    assert "names no registry that a cluster can pull from" in finding


@pytest.mark.parametrize(("profile", "chips"), [("tpu-v5e-2x4", 8), ("tpu-v6e-2x4", 8)])
def test_tpu_chips_are_not_paid_for_while_stages_cannot_use_them(verb: Verb, profile: str, chips: int) -> None:
    """Held by a task of its own (v6e) and by a job on two nodes (v5e); refused compiled, too."""
    params = ROOT / "params.yaml"
    said = verb("submit", "--profile", profile, "--image", IMAGE, "--params", params, "--check", "--json")
    assert said.status == 2
    (finding,) = [finding for finding in findings(said) if "TPU" in finding]
    assert finding.startswith(f"profile {profile}: train-")
    assert finding.endswith(
        f"would hold {chips} TPU chips and use one, at the price of all: a chip takes a process of its own, and a TPU "
        "host's program is started as one process as yet; choose a profile of one chip a stage, such as tpu-v6e-1"
    )


def test_one_tpu_chip_a_stage_is_sent(server: KFPServer, verb: Verb) -> None:
    common = ("--params", ROOT / "params.yaml", "--store", "/mnt/state", "--host", server.url)
    assert verb("submit", "--profile", "tpu-v6e-1", "--image", IMAGE, *common, "--check").status == 0


def test_what_is_given_fits_what_was_compiled(server: KFPServer, verb: Verb, package: Path, tmp_path: Path) -> None:
    wants = tmp_path / "given.yaml"
    params = load(ROOT / "params.yaml")
    wants.write_text(compile_pipeline(load_profile("cpu"), IMAGE, params, Given(teacher=True)))
    assert refused(verb, server, wants) == [f"{wants}: compiled for a given teacher; name it with --teacher"]
    first, *_ = refused(verb, server, package, "--teacher", "gs://nowhere/teacher")
    assert first.startswith(f"{package}: compiled without a given teacher; compile it with --given-teacher")


def test_a_store_beside_the_volume_is_refused(server: KFPServer, verb: Verb) -> None:
    profile = next(profile for profile in profiles().values() if profile.volume)
    mount = profile.volume.mount if profile.volume else ""
    options = ("--profile", profile.name, "--image", IMAGE, "--params", ROOT / "params.yaml", "--host", server.url)
    said = verb("submit", *options, "--json", "--store", "/elsewhere")
    assert findings(said) == [f"--store /elsewhere: not on the volume of profile {profile.name}, mounted at {mount}"]
    assert verb("submit", *options, "--store", f"{mount}/runs").status == 0
