"""`mcm pipeline submit --from REV`: what a local revision has is found by the tasks of the run; the rest is said."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import dsl

from components.kubeflow import task as tasks
from components.lineage.store import find
from components.storage import Objects
from components.storage.objects import place
from mcm.artifacts import folder_md5
from pipelines.lineage.home.adopt import Adoption
from pipelines.lineage.resolve import resolve
from pipelines.lineage.store.records import LineageStore
from tests.chain.programs import ROOT, run
from tests.lineage.homes import STUDENTS, commit, make_project, make_run
from tests.pipelines.conftest import IMAGE, Said, Verb, failed
from tests.pipelines.kfp_server import KFPServer

ALL = ["prepare_data", "train_teacher", "estimate_variance", "evaluate teacher"]
ALL += [f"{stage} {name}" for name in STUDENTS for stage in ("train_student", "evaluate")]
From = Callable[..., Said]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose HEAD has a dvc.lock, with all of it in DVC's cache."""
    folder = tmp_path_factory.mktemp("from")
    project = make_project(folder / "project")
    ran = make_run(folder / "store", project)
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(project)
        patched.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        stores = [LineageStore(ran.lineage)]
        attempt = Adoption(resolve(ran.id, stores), stores)
        attempt.apply(attempt.plan())
    commit(project, "ran")
    return project


@pytest.fixture
def project(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path / "project")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("pipelines.images.current", lambda reference: reference == IMAGE)
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


@pytest.fixture
def start(verb: Verb, server: KFPServer, package: Path, project: Path, tmp_path: Path) -> From:
    """`submit --from` to a store that is a folder here."""
    store = tmp_path / "store"
    store.mkdir()

    def run(*arguments: object, base: str = "HEAD", at: Path = store) -> Said:
        return verb("submit", "--from", base, "--package", package, "--store", at, "--host", server.url, *arguments)

    return run


def said_of(told: Said) -> dict[str, str]:
    """The reason of each stage that is made anew, empty where it is not."""
    assert told.status == 0, told.err
    stages = told.json["from"]["stages"]
    assert all(stage["reused"] == (not stage["reason"]) for stage in stages)
    return {f"{stage['stage']} {stage['task']}".strip(): stage["reason"] for stage in stages}


def test_all_of_a_revision_is_there(start: From, server: KFPServer, tmp_path: Path) -> None:
    assert said_of(start("--check", "--json")) == dict.fromkeys(ALL, "")
    shown = start("--check").out.splitlines()
    assert shown[:2] == ["ready: profile cpu; nothing was sent", "from HEAD: 8 of 8 stages are there already"]
    assert shown[2] == "  prepare_data             reused"
    assert server.seen == [] and list((tmp_path / "store").iterdir()) == []


def test_the_run_has_the_parameters_of_the_revision_and_the_changes(start: From, server: KFPServer) -> None:
    Path("params.yaml").write_text(Path("params.yaml").read_text().replace("preset: uvit_tiny", "preset: uvit_cpu32"))
    assert start("-S", "evaluation.samples=8").status == 0
    (made,) = server.runs.values()
    arguments = made["runtime_config"]["parameters"]
    then = yaml.safe_load(run("git", "show", "HEAD:params.yaml", cwd=Path.cwd()))
    assert arguments["network"] == then["network"] and arguments["evaluation"]["samples"] == 8
    found = said_of(start("--check", "--json", base="workspace"))
    assert found["train_teacher"] == "network.preset was 'uvit_tiny' at workspace and is 'uvit_cpu32' now"


def test_one_parameter_makes_anew_what_follows_from_it(start: From) -> None:
    found = said_of(start("--check", "--json", "-S", "students.cd-2.iterations=99"))
    assert {name: reason for name, reason in found.items() if reason} == {
        "train_student cd-2": "students.iterations was 16 at HEAD and is 99 now",
        "evaluate cd-2": "it reads students/cd-2, which is made anew",
    }
    found = said_of(start("--check", "--json", "-S", "teacher.batch_size=4"))
    assert found.pop("prepare_data") == ""
    assert found.pop("train_teacher") == "teacher.batch_size was 8 at HEAD and is 4 now"
    assert set(found.values()) == {
        f"it reads {p}, which is made anew" for p in ("teacher", "students/cd-1", "students/cd-2")
    }


def test_a_student_that_only_says_its_defaults_is_the_same(start: From) -> None:
    assert set(said_of(start("--check", "--json", "-S", "students.cd-2.guidance=0.0")).values()) == {""}


def test_a_student_that_was_not_there_is_made(start: From) -> None:
    found = said_of(start("--check", "--json", "-S", "students.steps=[1, 4]"))
    assert [name for name, reason in found.items() if reason] == ["train_student cd-4", "evaluate cd-4"]
    assert found["evaluate cd-4"] == "dvc.lock of HEAD has no such stage"
    assert "train_student cd-2" not in found


def test_other_code_is_named(start: From, monkeypatch: pytest.MonkeyPatch, project: Path) -> None:
    monkeypatch.setattr("pipelines.lineage.home.seed.ROOT", project)
    Path("mcm/variance.py").write_text("# other\n")
    found = said_of(start("--check", "--json"))
    assert {name: reason for name, reason in found.items() if reason} == {
        "estimate_variance": "mcm/variance.py is not what it was at HEAD",
        "evaluate teacher": "it reads variance, which is made anew",
    }


def test_what_the_cache_has_lost_is_made_anew(start: From) -> None:
    md5 = folder_md5(Path("artifacts/students/cd-1"))
    listed = json.loads((Path(".dvc/cache") / place(md5)).read_text())
    (Path(".dvc/cache") / place(listed[0]["md5"])).unlink()
    found = said_of(start("--check", "--json"))
    assert {name: reason for name, reason in found.items() if reason} == {
        "train_student cd-1": f"its out ({md5}) is not in DVC's cache; `dvc fetch --all-commits` brings it",
        "evaluate cd-1": "it reads students/cd-1, which is made anew",
    }


def test_a_corrupted_cache_is_one_line_and_no_run(start: From, server: KFPServer) -> None:
    md5 = folder_md5(Path("artifacts/students/cd-1"))
    listed = json.loads((Path(".dvc/cache") / place(md5)).read_text())
    broken = Path(".dvc/cache") / place(listed[0]["md5"])
    broken.chmod(0o644)
    broken.write_bytes(b"?")
    said = start()
    assert said.status == 2 and "corrupted, its bytes have another md5" in said.err.splitlines()[-1]
    assert server.runs == {}


def test_what_is_sent_is_sent_once_and_records_come_with_it(start: From, server: KFPServer, tmp_path: Path) -> None:
    store = tmp_path / "store"
    assert start().status == 0
    files = {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()}
    assert len(list((store / "memo").rglob("*.json"))) == 8
    md5s = {
        md5 for memo in (store / "memo").rglob("*.json") for md5 in json.loads(memo.read_text())["outputs"].values()
    }
    assert len(md5s) == 11 and all(Objects(store).has(md5) for md5 in md5s)
    home = LineageStore("artifacts/lineage")
    for memo in (store / "memo").rglob("*.json"):
        name = json.loads(memo.read_text())["record"]
        (record,) = [r for r in home.records(name.partition("/")[0]) if name.endswith(f"-{r.id[:12]}.json")]
        assert find(store / "lineage", record.run.id, record.id) == name
    assert start().status == 0
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()} == files
    assert len(server.runs) == 2


@pytest.mark.parametrize("stage", ["prepare_data", "train_teacher", "estimate_variance", "train_student"])
def test_the_task_of_the_run_finds_it(
    start: From, server: KFPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """The component itself is called, with parameters as a protobuf Struct hands them over: nothing is launched."""
    from pipelines.pipeline import COMPONENTS

    assert start().status == 0
    (made,) = server.runs.values()
    sent = struct(made["runtime_config"]["parameters"])
    monkeypatch.setenv("MCM_IMAGE", IMAGE)
    monkeypatch.setenv("MCM_RUN", "the-run")
    monkeypatch.setattr(tasks, "launch", lambda *_, **__: pytest.fail("the stage was run"))
    out = dsl.Artifact(uri=str(tmp_path / "out"))
    given = {name: dsl.Artifact(uri=str(Path("artifacts", name).absolute())) for name in ("dataset", "teacher")}
    plan = {"data": sent["data"], "data_version": "", "store": sent["store"], "out": out}
    if stage == "train_teacher":
        plan = {"dataset": given["dataset"], "out": out, "store": sent["store"]}
        plan |= {name: sent[name] for name in ("network", "schedule", "teacher")}
    elif stage == "estimate_variance":
        plan = {**given, "out": out, "variance": sent["variance"], "store": sent["store"]}
    elif stage == "train_student":
        names = ("data", "network", "schedule", "teacher", "variance", "students", "evaluation")
        students = COMPONENTS["plan"].python_func(**{name: sent[name] for name in names})
        plan = {**given, "out": out, "student": struct(students[1]), "store": sent["store"]}
    COMPONENTS[stage].python_func(**plan)
    place_here = {"prepare_data": "dataset", "train_teacher": "teacher", "estimate_variance": "variance"}
    home = Path("artifacts") / place_here.get(stage, "students/cd-2")
    assert out.metadata["md5"] == folder_md5(home) == folder_md5(tmp_path / "out")
    (taken,) = LineageStore(tmp_path / "store" / "lineage").records("the-run")
    assert taken.cached_from and taken.cached_from.run != "the-run" and taken.stage == stage


def struct(value: Any) -> Any:
    """A value as it comes out of a Struct: every number is a float."""
    if isinstance(value, dict):
        return {key: struct(item) for key, item in value.items()}
    if isinstance(value, list):
        return [struct(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


# Images of the user


def with_images(start: From, monkeypatch: pytest.MonkeyPatch, *more: object, tracked: str = "data") -> str:
    """What is said of prepare_data where the lock was made from images in `data/mine`."""
    monkeypatch.setattr("pipelines.preflight.is_remote", lambda uri: True)
    monkeypatch.setattr("pipelines.preflight.exists", lambda uri: True)
    Path("data/mine").mkdir(exist_ok=True)
    Path("data/mine/a.png").write_bytes(b"a")
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["data"] = {"source": "folder", "path": "data/mine", "resolution": 16}
    Path("params.yaml").write_text(yaml.safe_dump(params))
    stages = yaml.safe_load(Path("dvc.yaml").read_text())
    listed = stages["stages"]["prepare_data"]["deps"]
    kept = [name for name in listed if not name.startswith("data")]
    stages["stages"]["prepare_data"]["deps"] = [*kept, *([tracked] if tracked else [])]
    Path("dvc.yaml").write_text(yaml.safe_dump(stages, sort_keys=False))
    run("dvc", "commit", "--force", cwd=Path.cwd())
    if "changed" in more:
        Path("data/mine/b.png").write_bytes(b"b")
    options = [word for word in more if word != "changed"]
    return said_of(start("--check", "--json", *options, base="workspace"))["prepare_data"]


@pytest.mark.slow
@pytest.mark.parametrize("tracked", ["data", "data/mine"])
def test_the_same_images_are_known_by_the_folder_that_dvc_tracks(
    start: From, monkeypatch: pytest.MonkeyPatch, tracked: str
) -> None:
    monkeypatch.setattr("pipelines.preflight.listing_version", lambda place: "0123")
    assert with_images(start, monkeypatch, tracked=tracked) == ""
    said = with_images(start, monkeypatch, "changed", tracked=tracked)
    assert said == f"the images in {tracked} are not those of workspace"


@pytest.mark.slow
def test_images_that_dvc_does_not_track_are_made_anew(start: From, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.preflight.listing_version", lambda place: "0123")
    assert with_images(start, monkeypatch, tracked="") == (
        "its images, data/mine, are no dependency in dvc.lock, so that nobody knows whether they are the same"
    )


# Refused


def test_what_is_no_revision_is_one_line(start: From, server: KFPServer) -> None:
    failed(
        start(base="nowhere"),
        "not ready, and nothing was sent: --from nowhere: no git revision and no DVC experiment has that name; "
        "`git log` and `dvc exp list` show them",
    )
    failed(
        start(base="HEAD~1"),
        "not ready, and nothing was sent: --from HEAD~1: no dvc.lock in this folder; `mcm lineage log` lists the "
        "revisions that have one",
    )
    run("git", "rm", "--quiet", "params.yaml", cwd=Path.cwd())
    commit(Path.cwd(), "none")
    failed(
        start(),
        "not ready, and nothing was sent: --from HEAD: it has no params.yaml here; name a revision of this project",
    )
    assert server.seen == []


def test_an_experiment_is_a_revision(start: From) -> None:
    assert set(said_of(start("--check", "--json", base="run-20261121-120000")).values()) == {""}


def test_parameters_come_from_one_place(start: From, server: KFPServer) -> None:
    failed(
        start("--params", ROOT / "params.yaml"),
        f"--from and --params {ROOT / 'params.yaml'}: HEAD has its own parameters; change them with -S",
    )
    assert server.seen == []


def test_a_store_that_is_not_mounted_here_is_refused(start: From, server: KFPServer) -> None:
    failed(
        start(at=Path("/mnt/nowhere")),
        "not ready, and nothing was sent: --from, --store /mnt/nowhere: it is not mounted here; mount it, or give a "
        "store gs://...",
    )
    assert server.seen == []


def test_an_image_of_other_code_is_refused(start: From, monkeypatch: pytest.MonkeyPatch, server: KFPServer) -> None:
    monkeypatch.setattr("pipelines.images.current", lambda reference: False)
    failed(
        start(),
        f"not ready, and nothing was sent: --from HEAD: image {IMAGE} is not in images.lock.json as built from this "
        "source, so no task would find what was made here; submit the locked image (mcm pipeline images), or without "
        "--from",
    )
    assert server.seen == []
    assert set(said_of(start("--check", "--json", "--allow-unpinned")).values()) == {""}


def test_a_misspelt_parameter_of_the_revision_is_one_line(start: From) -> None:
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(f"{text}teachr: {{}}\n")
    commit(Path.cwd(), "misspelt")
    failed(
        start(),
        "not ready, and nothing was sent: --from HEAD: params.yaml: unknown section 'teachr'; did you mean 'teacher'?",
    )
