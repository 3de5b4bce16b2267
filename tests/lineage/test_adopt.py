"""`mcm lineage adopt`: what is refused, in one line and with nothing changed; params.yaml as the run was asked."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.lineage.record import Record
from components.storage.objects import place
from mcm.artifacts import folder_md5
from mcm.errors import UserError
from pipelines.lineage.commands import adopt
from pipelines.lineage.home.adopt import Adoption
from pipelines.lineage.home.paramsfile import written
from pipelines.lineage.resolve import resolve
from pipelines.lineage.store.records import LineageStore
from tests.chain.programs import ROOT, run
from tests.lineage.homes import COMMENT, Ran, make_project, make_run, replace, small_params


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A project, and a store with one run of it."""
    folder = tmp_path_factory.mktemp("adopt")
    project = make_project(folder / "project")
    make_run(folder / "store", project, students__common__learning_rate=0.004)
    return project, folder / "store"


@pytest.fixture
def home(origin: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ran:
    """A copy of both; the current folder is the project."""
    for path in origin:
        shutil.copytree(path, tmp_path / path.name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path / "project")
    store = LineageStore(tmp_path / "store" / "lineage")
    (name,) = store.runs()
    asked = store.asked(name)
    assert asked
    return Ran(name, store.records(name), asked, tmp_path / "store")


def adoption(ran: Ran, name: str | None = None) -> Adoption:
    stores = [LineageStore(ran.lineage)]
    return Adoption(resolve(ran.id, stores), stores, name)


def snapshot() -> dict[str, str]:
    files = {path.as_posix(): path for path in Path().rglob("*") if path.is_file() and ".git/" not in path.as_posix()}
    return {name: f"{path.stat().st_mtime_ns} {path.stat().st_size}" for name, path in files.items()}


def refused(ran: Ran, message: str, name: str | None = None) -> None:
    """The command says this one line, and no file of the project has changed."""
    before = snapshot()
    with pytest.raises(UserError) as raised:
        adoption(ran, name).plan()
    assert str(raised.value) == message
    assert snapshot() == before


def test_check_changes_nothing_and_says_what_would_be(home: Ran, capsys: pytest.CaptureFixture[str]) -> None:
    before = snapshot()
    adopt.main([home.id, "--store", str(home.lineage), "--check", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert (told["run"], told["experiment"], told["adopted"]) == (home.id, f"run-{home.id}", False)
    assert {row["path"] for row in told["outputs"]} >= {"artifacts/teacher", "artifacts/timings/cd-1.json"}
    assert len(told["outputs"]) == 12 and not any(row["here"] for row in told["outputs"])
    adopt.main([home.id, "--store", str(home.lineage), "--check"])
    assert capsys.readouterr().out == (
        f"run {home.id} can be adopted as experiment run-{home.id}: 12 artifacts, 12 of them brought (0.0 MB); "
        "nothing was changed\n"
    )
    assert snapshot() == before


def test_a_run_is_named_by_its_folder_or_that_of_its_store_too(home: Ran, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (home.lineage, home.lineage / home.id):
        adopt.main([str(name), "--check", "--json"])
        assert len(json.loads(capsys.readouterr().out)["outputs"]) == 12


def test_what_the_workspace_has_is_not_brought(home: Ran) -> None:
    (teacher,) = home.record("train_teacher").outputs
    plan = adoption(home).plan()
    adoption(home)._source(teacher.md5).pull(teacher.md5, Path("artifacts/teacher"))
    assert {o.path for o in plan.missing} - {o.path for o in adoption(home).plan().missing} == {
        Path("artifacts/teacher")
    }


@pytest.mark.parametrize("name", ["params.yaml", "dvc.lock"])
def test_uncommitted_changes_are_not_overwritten(home: Ran, name: str) -> None:
    Path(name).write_text(f"{Path(name).read_text() if Path(name).exists() else ''}# mine\n")
    refused(
        home,
        f"{name}: has changes that are not committed, and adopting writes it; commit them, or keep them as an "
        "experiment: `dvc exp save && git checkout params.yaml dvc.lock`",
    )


def test_other_code_is_named_with_its_file_and_commit(home: Ran) -> None:
    Path("mcm/steps.py").write_text("# other\n")
    image = home.record("prepare_data").image
    # Any of the run's stages has that file; the first of them is named.
    refused(
        home,
        f"mcm/steps.py: is not the code that prepare_data of run {home.id} ran, of image {image}; check out what the "
        "image was built from",
    )
    commit = "c" * 40
    replace(
        home,
        [r.model_copy(update={"code": r.code.model_copy(update={"commit": commit})}) for r in home.records if r.code],
        home.asked,
    )
    refused(
        home,
        f"mcm/steps.py: is not the code that prepare_data of run {home.id} ran, of commit {commit[:12]}; "
        f"`git checkout {commit[:12]}`",
    )
    Path("mcm/steps.py").unlink()
    with pytest.raises(UserError, match=r"^mcm/steps\.py: is not the code"):
        adoption(home).plan()


def test_a_missing_artifact_is_named(home: Ran) -> None:
    (teacher,) = home.record("train_teacher").outputs
    (home.store / place(teacher.md5)).unlink()
    refused(
        home,
        f"artifacts/teacher: {teacher.md5}, which train_teacher made, is not in {home.store}; name the run's lineage "
        "store with --store, or run it again",
    )


def test_a_part_of_an_artifact_that_is_missing_counts(home: Ran) -> None:
    (teacher,) = home.record("train_teacher").outputs
    listed = json.loads((home.store / place(teacher.md5)).read_text())
    (home.store / place(listed[0]["md5"])).unlink()
    with pytest.raises(UserError, match=r"^artifacts/teacher: .*, which train_teacher made, is not in "):
        adoption(home).plan()


def test_a_corrupted_artifact_is_found_before_the_workspace_changes(home: Ran) -> None:
    (teacher,) = home.record("train_teacher").outputs
    listed = json.loads((home.store / place(teacher.md5)).read_text())
    broken = home.store / place(listed[0]["md5"])
    broken.write_bytes(broken.read_bytes()[:-1] + b"?")
    before = {name: at for name, at in snapshot().items() if not name.startswith(".dvc/tmp")}
    attempt = adoption(home)
    plan = attempt.plan()
    with pytest.raises(UserError) as raised:
        attempt.apply(plan)
    assert str(raised.value) == (
        f"{broken}: corrupted, its bytes have another md5; delete it, and run the stage that makes it again, without "
        "cache"
    )
    assert {name: at for name, at in snapshot().items() if not name.startswith(".dvc/tmp")} == before
    assert not adoption(home).plan().resumed  # nothing was begun


def test_a_run_that_goes_on_is_refused(home: Ran) -> None:
    replace(home, [r for r in home.records if r.stage != "report"], home.asked)
    refused(home, f"run {home.id}: no report yet, so it has not come to its end; `mcm pipeline wait` waits for it")


def test_a_run_that_failed_is_refused(home: Ran) -> None:
    def ended(record: Record) -> Record:
        failed = record.name == "evaluate cd-2"
        return record.model_copy(update={"status": "failed", "outputs": ()}) if failed else record

    replace(home, [ended(record) for record in home.records], home.asked)
    refused(
        home,
        f"run {home.id}: evaluate cd-2 failed, so the run did not come to its end; `mcm pipeline resume` goes on "
        "with it",
    )


def test_a_run_without_its_request_is_refused(home: Ran) -> None:
    replace(home, home.records)
    refused(
        home,
        f"run {home.id}: nothing says what it was asked for (run.json beside its records); name the store that has it "
        "with --store, or the server with --host",
    )


def test_a_run_of_dvc_needs_no_adopting(home: Ran) -> None:
    replace(home, [r.model_copy(update={"run": r.run.model_copy(update={"by": "dvc"})}) for r in home.records])
    refused(home, f"{home.id}: not a pipeline run; what dvc ran here needs no adopting")


def test_stages_must_be_those_of_dvc_yaml(home: Ran) -> None:
    revision = "check out the revision that it was submitted from"
    params = home.asked.params
    more = {**params, "students": {**params["students"], "steps": [1, 2, 4], "cd-4": {}}}
    replace(home, home.records, home.asked.model_copy(update={"params": more}))
    with pytest.raises(UserError, match=rf"has no (train_student|evaluate) cd-4, as dvc\.yaml here has; {revision}"):
        adoption(home).plan()
    fewer = {**params, "students": {**params["students"], "steps": [1]}}
    replace(home, home.records, home.asked.model_copy(update={"params": fewer}))
    with pytest.raises(UserError, match=r"has (train_student|evaluate) cd-2, and dvc\.yaml here has no such stage; "):
        adoption(home).plan()


def test_a_stage_of_another_program_is_refused(home: Ran) -> None:
    stages = yaml.safe_load(Path("dvc.yaml").read_text())
    stages["stages"]["upload"] = {"cmd": "sh upload.sh"}
    Path("dvc.yaml").write_text(yaml.safe_dump(stages))
    refused(home, "dvc.yaml: stage upload is none of the pipeline's, so the run has nothing for it; remove it")


def test_a_dvc_yaml_that_dvc_cannot_read_is_one_line(home: Ran) -> None:
    text = Path("dvc.yaml").read_text().replace("${students.steps}", "${students.stepps}", 1)
    Path("dvc.yaml").write_text(text)
    with pytest.raises(UserError) as raised:
        adoption(home).plan()
    assert str(raised.value).startswith("dvc.yaml: DVC cannot read it with the run's parameters (")
    assert "\n" not in str(raised.value) and "stepps" in str(raised.value)


def test_a_given_teacher_of_other_parameters_is_refused(home: Ran) -> None:
    (teacher,) = [record for record in home.records if record.name == "train_teacher"]
    other = {**teacher.parameters, "teacher.learning_rate": 0.5}
    earlier = teacher.model_copy(
        update={"parameters": other, "run": teacher.run.model_copy(update={"id": "earlier"}), "id": "0" * 32}
    )
    replace(home, [*[r for r in home.records if r.stage != "train_teacher"], earlier], home.asked)
    refused(
        home,
        f"run {home.id}: its train_teacher is of run earlier, with teacher.learning_rate 0.5 and not 0.002; adopt that "
        "run, or submit without it",
    )


def test_results_that_are_nowhere_else_are_not_replaced(home: Ran) -> None:
    Path("artifacts/teacher").mkdir(parents=True)
    Path("artifacts/teacher/config.json").write_text("mine")
    refused(home, "artifacts/teacher: not in DVC's cache as it is, and adopting replaces it; `dvc commit`, or move it")


def test_a_full_disk_is_said_before_anything_is_brought(home: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 8, 2))
    refused(
        home,
        "0 MB are needed here and 0 MB are free; make room: `dvc gc --workspace` drops results of other runs",
    )


def test_names_of_experiments(home: Ran) -> None:
    refused(home, "--name a b: no name for an experiment; use letters, digits and -", "a b")
    head = run("git", "rev-parse", "HEAD").strip()
    run("git", "update-ref", f"refs/exps/{head[:2]}/{head[2:]}/mine", "HEAD", cwd=Path.cwd())
    refused(home, "--name mine: an experiment has that name already; choose another", "mine")


def test_no_git_no_commit_no_dvc_no_project(home: Ran, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shutil.move(".dvc", "dvc-away")
    refused(home, "no .dvc here; `dvc init` makes this a project of DVC")
    shutil.move("dvc-away", ".dvc")
    shutil.move(".git", "git-away")
    refused(home, "no git repository here, and experiments of DVC hang on a commit; `git init`, and commit")
    run("git", "init", "--quiet", cwd=Path.cwd())
    refused(home, "no commit here yet, and experiments of DVC hang on one; `git commit` the project first")
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    refused(home, "git: no such program here, and experiments of DVC need it; install it")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^dvc\.yaml: not in this folder; go to the folder of the project$"):
        adoption(home).plan()


def test_another_adoption_that_was_cut_off_is_named(home: Ran) -> None:
    attempt = adoption(home)
    attempt.scratch.begin("another", "")
    refused(
        home,
        "run another: its adoption was cut off; complete it with `mcm lineage adopt another`, or go back with "
        "`git checkout params.yaml dvc.lock && dvc checkout && rm -r .dvc/tmp/mcm-adopt`",
    )
    attempt.scratch.begin(home.id, "something")
    refused(
        home,
        f"params.yaml: changed since the adoption of run {home.id} was cut off; `git checkout params.yaml`, then the "
        "same command again",
    )


# Images of the user


def asked_for(ran: Ran, path: str) -> str:
    params = {**ran.asked.params, "data": {"source": "folder", "path": path, "resolution": 16}}
    values = {"data.source": "folder", "data.resolution": 16}
    (prepared,) = [record for record in ran.records if record.name == "prepare_data"]
    images = prepared.outputs[0].model_copy(update={"name": "images", "md5": folder_md5(Path("data/mine"))})
    told = prepared.model_copy(update={"parameters": values, "inputs": (images,)})
    replace(
        ran,
        [told if record.name == "prepare_data" else record for record in ran.records],
        ran.asked.model_copy(update={"params": params}),
    )
    return str(yaml.safe_load(adoption(ran).plan().params)["data"]["path"])


def test_images_that_are_here_keep_their_place(home: Ran) -> None:
    Path("data/mine").mkdir()
    Path("data/mine/a.png").write_bytes(b"a")
    params = {**small_params(), "data": {"source": "folder", "path": "data/mine", "resolution": 16}}
    Path("params.yaml").write_text(yaml.safe_dump(params))
    run("git", "commit", "--quiet", "--all", "-m", "mine", cwd=Path.cwd())
    assert asked_for(home, "gs://bucket/data/0123/mine") == "data/mine"
    assert asked_for(home, str(Path("data/mine").absolute())) == "data/mine"


def test_images_that_are_not_here_are_named_as_the_run_had_them(home: Ran) -> None:
    Path("data/mine").mkdir()
    Path("data/mine/a.png").write_bytes(b"a")
    assert asked_for(home, "gs://bucket/data/0123/mine") == "gs://bucket/data/0123/mine"
    assert asked_for(home, str(Path("data/mine").absolute())) == "data/mine"


# params.yaml


CHANGES: list[dict[str, Any]] = [
    {"teacher": {"learning_rate": 0.5}},
    {"teacher": {"emas": [0.9, 0.99]}},
    {"students": {"cd-1": {"iterations": 7}, "cd-16": {"iterations": 3}}},
    {"students": {"methods": ["ct"], "steps": [1]}},
    {"evaluation": {"teacher_samplers": [{"name": "heun", "steps": 3, "clip": False}]}},
    {"teacher": {"seed": None}},
    {"schedule": {}},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_parameters_become_what_was_asked_and_comments_stay(change: dict[str, Any]) -> None:
    text = (ROOT / "params.yaml").read_text()
    asked = yaml.safe_load(text)
    for section, values in change.items():
        asked[section] = {**asked[section], **values} if values else {}
    made = written(text, asked)
    assert yaml.safe_load(made) == asked
    comments = [line.strip() for line in text.splitlines() if line.strip().startswith("#")]
    assert [line.strip() for line in made.splitlines() if line.strip().startswith("#")] == comments
    lost = [line for line in text.splitlines() if line not in made.splitlines()]
    assert len(lost) <= 6, lost  # the other lines stay as they are


def test_equal_parameters_leave_the_file_as_it_is() -> None:
    text = (ROOT / "params.yaml").read_text()
    asked = yaml.safe_load(text)
    asked["students"]["cd"]["x_var_frac"] = 0  # a Struct knows no integers, and whole floats come back as such
    assert written(text, dict(reversed(asked.items()))) == text
    assert written(text, {**asked, "network": asked["network"]}) == text


def test_keys_that_the_run_had_not_go() -> None:
    asked = {"teacher": {"seed": 0}}
    assert yaml.safe_load(written("teacher:\n  seed: 0\n  old: 1  # why\nvariance: {}\n", asked)) == asked


@pytest.mark.parametrize("text", ["a: [", "- 1\n", ""])
def test_a_params_file_that_is_none_is_one_line(text: str) -> None:
    with pytest.raises(UserError, match=r"^params\.yaml: .*git checkout params\.yaml") as raised:
        written(text, {"teacher": {}})
    assert "\n" not in str(raised.value)


def test_true_is_not_one() -> None:
    assert written("a:\n  b: 1\n", {"a": {"b": True}}) == "a:\n  b: true\n"


def test_the_comment_at_the_top_survives_the_plan(home: Ran) -> None:
    text = adoption(home).plan().params
    assert text.startswith(COMMENT) and yaml.safe_load(text)["students"]["common"]["learning_rate"] == 0.004
    assert not os.path.lexists("dvc.lock")
