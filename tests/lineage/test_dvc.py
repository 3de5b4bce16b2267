"""DVC's locks as records: the workspace, revisions and experiments, with git and without dvc."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.lineage.record import Record
from components.lineage.recorder import flat
from components.students import student_config
from mcm.artifacts import folder_md5
from mcm.errors import UserError
from pipelines.lineage.dvc.code import folder_md5 as md5_of_files
from pipelines.lineage.dvc.commandline import program
from pipelines.lineage.dvc.history import history, lock_records
from pipelines.lineage.dvc.lock import _Loader
from pipelines.lineage.graph import build
from pipelines.lineage.match import agrees
from tests.chain.programs import ROOT
from tests.lineage.builders import chain, md5
from tests.lineage.dvc_project import Project, lock_of


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A repository with the lock of one run of a small pipeline."""
    made = Project(tmp_path / "project")
    monkeypatch.chdir(made.folder)
    made.lock(lock_of(chain("r1")))
    made.commit("first")
    return made


def by_name(records: list[Record]) -> dict[str, Record]:
    return {record.name: record for record in records}


def test_a_lock_says_of_every_stage_what_its_record_says_as_far_as_it_knows(project: Project) -> None:
    full, partial = by_name(chain("r1")), by_name(lock_records("HEAD"))
    assert partial.keys() == full.keys()
    for name, record in partial.items():
        said = full[name]
        assert (record.stage, record.task) == (said.stage, said.task)
        assert sorted(record.inputs, key=lambda a: a.name) == sorted(said.inputs, key=lambda a: a.name), name
        assert record.outputs == said.outputs
        assert (record.parameters, record.seeds) == (said.parameters, said.seeds)
        assert (record.started, record.libraries, record.hardware, record.cost) == (None, None, None, None)
        assert record.run.id == project.git("rev-parse", "HEAD")


def test_workspace_and_revision_say_the_same_of_one_lock(project: Project) -> None:
    workspace, head = lock_records(), lock_records("HEAD")
    assert {r.run.id for r in workspace} == {"workspace"}
    assert [r.model_dump(exclude={"run"}) for r in workspace] == [r.model_dump(exclude={"run"}) for r in head]


def test_a_stage_that_did_not_run_again_keeps_its_id_and_one_that_did_gets_another(project: Project) -> None:
    first = by_name(lock_records("HEAD"))
    again = chain("r2", parameters={"students.learning_rate@train_student cd-1": 0.1}, earlier=chain("r1"))
    project.lock(lock_of([*(r for r in chain("r1") if r.name not in by_name(again)), *again]))
    project.commit("second")
    second = by_name(lock_records("main"))
    assert {name for name in first if first[name].id != second[name].id} == by_name(again).keys()


def test_the_lock_of_this_project_is_one_graph_whose_edges_are_those_of_its_dvc_yaml(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    stages = yaml.safe_load(Path("dvc.lock").read_text())["stages"]
    records = lock_records()
    assert len(records) == len(stages)
    graph = build("workspace", "dvc", "workspace", [(record, False) for record in records])
    assert graph.sources == ()
    drawn = {(m, r) for m, made in stages.items() for r, read in stages.items() if reads(made, read)}
    names = dict(zip(stages, (record.name for record in records), strict=True))
    assert {(edge.maker, edge.reader) for edge in graph.edges} == {(names[m], names[r]) for m, r in drawn}
    assert set(yaml.safe_load(Path("dvc.yaml").read_text())["stages"]) == {name.partition("@")[0] for name in stages}
    for edge in graph.edges:
        assert edge.artifact.path in {a.path for a in graph.nodes[edge.maker].record.outputs}


def reads(made: dict[str, Any], read: dict[str, Any]) -> bool:
    """Whether a stage depends on an output of another, or on a folder around it: what DVC makes an edge of."""
    return any(f"{out['path']}/".startswith(f"{dep['path']}/") for out in made["outs"] for dep in read["deps"])


def test_students_are_merged_as_their_stage_merges_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    stages = yaml.safe_load(Path("dvc.lock").read_text())["stages"]
    checked = 0
    for record in lock_records():
        if record.stage != "train_student":
            continue
        sections = stages[f"train_student@{record.task}"]["params"]["params.yaml"]
        students = {name.removeprefix("students."): values for name, values in sections.items()}
        method, steps = record.parameters["students.method"], record.parameters["students.student_steps"]
        resolved = student_config({"students": students}, str(method), int(str(steps))).resolved()
        for name, value in record.parameters.items():
            *above, last = name.removeprefix("students.").split(".")
            at = {**resolved, "method": method, "student_steps": steps}
            for key in above:
                at = at[key]
            assert agrees(value, at[last]), name
            checked += 1
    assert checked > 50


def test_a_students_own_section_wins_over_its_methods_and_that_over_common(project: Project) -> None:
    students = {
        "common": {
            "seed": 1,
            "iterations": 10,
            "warmup": 2,
            "batch_size": 8,
            "learning_rate": 0.1,
            "teacher_steps": {"first": 64, "last": 1280},
        },
        "cd": {"iterations": 20, "warmup": 3, "teacher_steps": {"last": 16}},
        "cd-1": {"iterations": 30, "teacher_steps": {"iterations": 5}},
    }
    stages = lock_of(chain("r1"))
    sections = {f"students.{name}": values for name, values in students.items()}
    stages["train_student@cd-1"]["params"]["params.yaml"] = sections
    project.lock(stages)
    merged = by_name(lock_records())["train_student cd-1"].parameters
    expected = dict(flat({"students": student_config({"students": students}, "cd", 1).resolved()}))
    assert {name: merged[name] for name in expected if name in merged} | expected == expected
    assert (merged["students.iterations"], merged["students.warmup"], merged["students.seed"]) == (30, 3, 1)
    steps = {name.rpartition(".")[2]: value for name, value in merged.items() if "teacher_steps" in name}
    assert steps == {"first": 64, "last": 16, "iterations": 5}


def test_durations_that_a_stage_reads_are_measured(project: Project) -> None:
    stages = lock_of(chain("r1"))
    (timing,) = [out for out in stages["evaluate@cd-1"]["outs"] if out["path"].endswith(".json")]
    stages["report"]["deps"] = [timing, stages["evaluate@cd-1"]["outs"][0]]
    project.lock(stages)
    read = {a.name: a.measured for a in by_name(lock_records())["report"].inputs}
    assert read == {"timings/cd-1": True, "evaluations/cd-1": False}


# Folders of code


@pytest.fixture
def coded(project: Project) -> Project:
    """Its teacher depends on a folder of code, in which DVC ignores a file."""
    project.write(".dvcignore", "*.md\n")
    project.write(".gitignore", "__pycache__/\n")
    for name in ("uvit", "mlp"):
        project.write(f"mcm/networks/{name}.py", f"# {name}\n")
    relock(project)
    project.write("mcm/networks/README.md", "about\n")
    project.commit("code")
    return project


def relock(project: Project) -> None:
    """As if dvc had run the teacher with the code as it is."""
    stages = lock_of(chain("r1"))
    hidden = list((project.folder / "mcm/networks").glob("*.md"))
    for file in hidden:
        file.rename(project.folder / file.name)
    stages["train_teacher"]["deps"].append(project.folder_dep("mcm/networks"))
    for file in hidden:
        (project.folder / file.name).rename(file)
    project.lock(stages)


def networks(revision: str | None) -> dict[str, str]:
    code = by_name(lock_records(revision))["train_teacher"].code
    assert code and code.files
    return {name: found for name, found in code.files.items() if name.startswith("mcm/networks")}


@pytest.mark.parametrize("revision", ["HEAD", None])
def test_a_folder_of_code_is_named_file_by_file(coded: Project, revision: str | None) -> None:
    names = ("mcm/networks/mlp.py", "mcm/networks/uvit.py")
    assert networks(revision) == {name: coded.write(name, (coded.folder / name).read_text()) for name in names}


@pytest.mark.parametrize("revision", ["HEAD", None])
def test_code_that_changed_after_the_lock_is_found_as_it_was(coded: Project, revision: str | None) -> None:
    before = networks("HEAD")
    coded.write("mcm/networks/mlp.py", "# another\n")
    coded.commit("the code alone")
    assert networks(revision) == before


def test_folders_whose_names_begin_alike_are_two(coded: Project) -> None:
    before = networks("HEAD")
    coded.write("mcm/networks_more/other.py", "# other\n")
    stages = yaml.safe_load((coded.folder / "dvc.lock").read_text())["stages"]
    stages["train_teacher"]["deps"].append(coded.folder_dep("mcm/networks_more"))
    coded.lock(stages)
    coded.commit("another folder")
    assert networks("HEAD").keys() == {*before, "mcm/networks_more/other.py"}


def test_code_that_was_never_committed_is_named_as_a_folder(coded: Project) -> None:
    coded.write("mcm/networks/mlp.py", "# never seen\n")
    relock(coded)
    coded.git("checkout", "--quiet", "HEAD", "--", "mcm")
    (found,) = networks(None).items()
    assert found[0] == "mcm/networks" and found[1].endswith(".dir")


def test_changed_code_shows_in_the_file_that_changed(coded: Project) -> None:
    before = networks("HEAD")
    coded.write("mcm/networks/mlp.py", "# another\n")
    relock(coded)
    coded.commit("code and lock")
    after = networks("HEAD")
    assert {name for name in before if before[name] != after[name]} == {"mcm/networks/mlp.py"}
    assert networks("HEAD~1") == before


# Data, folders of outputs


def given(project: Project, path: str, dep: str = "data") -> list[tuple[str, str]]:
    """Inputs of prepare_data whose parameters name `path` and whose entry depends on the folder `dep`."""
    stages = lock_of(chain("r1"))
    stages["prepare_data"]["deps"].append({"path": dep, "md5": "d" * 32 + ".dir", "nfiles": 2})
    stages["prepare_data"]["params"]["params.yaml"]["data"]["path"] = path
    project.lock(stages)
    return [(a.name, a.md5) for a in by_name(lock_records())["prepare_data"].inputs]


def test_given_pictures_are_an_input_only_where_the_parameters_name_them(project: Project) -> None:
    md5 = "d" * 32 + ".dir"
    assert given(project, "data") == [("images", md5)]
    assert given(project, "./data/") == [("images", md5)]
    assert given(project, "data/mine") == [("data", md5)]  # the lock knows the folder around them
    assert given(project, "elsewhere") == []
    assert given(project, "") == []


def test_pictures_in_git_are_data_all_the_same(project: Project) -> None:
    project.write("data/a.png", "picture")
    project.commit("pictures")
    assert [name for name, _ in given(project, "data")] == ["images"]


def test_a_stage_that_has_not_run_since_reads_what_it_read_then(project: Project) -> None:
    stages = lock_of(chain("r1"))
    stages["train_teacher"] = lock_of(chain("r2", parameters={"teacher.seed": 7}))["train_teacher"]
    project.lock(stages)  # as after `dvc repro train_teacher`
    graph = build("workspace", "dvc", "workspace", [(record, False) for record in lock_records()])
    assert not list(graph.downstream("train_teacher"))
    before = by_name(chain("r1"))["train_teacher"].outputs[0].md5
    assert {source.artifact.md5 for source in graph.sources} == {before}


def cached(project: Project, artifact_md5: str, files: dict[str, str]) -> None:
    """An entry of DVC's cache: a folder of that md5 with these files."""
    text = json.dumps([{"md5": m, "relpath": name} for name, m in sorted(files.items())])
    project.write(f".dvc/cache/files/md5/{artifact_md5[:2]}/{artifact_md5[2:]}", text)


def test_a_folder_of_students_that_the_report_read_before_they_changed_is_not_taken_for_them(project: Project) -> None:
    records = by_name(chain("r1"))
    stages = lock_of(records.values())
    for name in ("cd-1", "cd-2"):
        whole = records[f"train_student {name}"].outputs[0].md5
        cached(project, whole, {"weights": md5(name, folder=False)})
    read = [a.name for a in by_name(lock_records())["report"].inputs]
    assert "students" in read and "students/cd-1" not in read  # the lock's md5 of the folder is another
    files = {f"artifacts/students/{name}/weights": md5(name, folder=False) for name in ("cd-1", "cd-2")}
    (dep,) = [dep for dep in stages["report"]["deps"] if dep["path"] == "artifacts/students"]
    dep["md5"] = md5_of_files(files, "artifacts/students")
    project.lock(stages)
    read = [a.name for a in by_name(lock_records())["report"].inputs]
    assert "students" not in read and {"students/cd-1", "students/cd-2"} <= set(read)


def test_figures_come_from_the_cache_where_it_has_them(project: Project) -> None:
    out = by_name(chain("r1"))["evaluate cd-1"].outputs[0].md5
    text = json.dumps({"ddim-1": {"fid": 12.5, "samples": 16, "guidance": 0.0, "reference": "x"}})
    figures = project.write("metrics.json", text)
    project.write(f".dvc/cache/files/md5/{figures[:2]}/{figures[2:]}", text)
    cached(project, out, {"metrics.json": figures, "samples.npy": "e" * 32})
    metrics = {record.name: record.metrics for record in lock_records() if record.metrics}
    assert metrics == {"evaluate cd-1": {"ddim-1.fid": 12.5}}


# Commands


@pytest.mark.parametrize(
    ("command", "stage", "task"),
    [
        (
            "python -m components.train_student --method cd --student-steps 4 --out a/students/x",
            "train_student",
            "cd-4",
        ),
        ("python -m components.evaluate --model a/teacher --out a/evaluations/ct-2 --timing t", "evaluate", "ct-2"),
        ("python -m components.evaluate --out=a/evaluations/ct-2 --name=mine", "evaluate", "mine"),
        ("torchrun --nproc-per-node 2 -m components.train_teacher --out a/teacher", "train_teacher", ""),
        ("mcm train student --method ct --student-steps 1 --out s", "train_student", "ct-1"),
        ("set -e; mcm prepare --out a/dataset && echo --out b", "prepare_data", ""),
        (["echo start", "python -m components.report --artifacts a --out a/report"], "report", ""),
    ],
)
def test_our_programs_are_known_by_their_command(command: object, stage: str, task: str) -> None:
    found = program(command)
    assert found and (found.stage, found.task) == (stage, task)


def test_options_end_where_another_command_begins() -> None:
    found = program("mcm prepare --out a/dataset && echo --out b")
    assert found and (found.options, found.root) == ({"out": "a/dataset"}, "a")


@pytest.mark.parametrize("command", ["python train.py --out x", "mcm nonsense", "echo 'unclosed", None, "", 3])
def test_other_commands_are_not_ours(command: object) -> None:
    assert program(command) is None


def test_the_lock_of_another_pipeline_is_a_graph_too(project: Project) -> None:
    source, script = project.write("raw.csv", "1,2\n"), project.write("src/train.py", "print(1)\n")
    project.write(".gitignore", "raw.csv\nmodel\n")
    project.lock(
        {
            "prepare": {
                "cmd": "python src/train.py --prepare",
                "deps": [{"path": "raw.csv", "md5": source}, {"path": "src/train.py", "md5": script}],
                "outs": [{"path": "prepared", "md5": "1" * 32 + ".dir"}],
            },
            "train@small": {
                "cmd": "python src/train.py",
                "deps": [{"path": "prepared", "md5": "1" * 32 + ".dir"}, {"path": "s3://b/k", "etag": "abc"}],
                "params": {"params.yaml": {"train.lr": 0.1}, "other.json": {"depth": {"max": 3}}},
                "outs": [{"path": "model", "md5": "2" * 32}],
            },
        }
    )
    project.commit("foreign")
    first, second = lock_records("HEAD")
    assert [(a.name, a.md5) for a in first.inputs] == [("raw.csv", source)]
    assert first.code and first.code.files == {"src/train.py": script}
    assert (second.stage, second.task) == ("train", "small")
    expected = {"cmd": "python src/train.py", "other.json:depth.max": 3, "train.lr": 0.1}
    assert second.parameters == expected
    graph = build("HEAD", "dvc", "HEAD", [(first, False), (second, False)])
    assert [(e.maker, e.reader, e.input) for e in graph.edges] == [("prepare", "train small", "prepared")]
    assert [s.artifact.name for s in graph.sources] == ["raw.csv"]


def test_a_project_in_a_folder_of_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = Project(tmp_path / "repository")
    inner = Project.__new__(Project)
    inner.folder, inner.clock = repository.folder / "inner", repository.clock
    inner.folder.mkdir()
    code = inner.write("mcm/steps.py", "pass\n")
    stages = lock_of(chain("r1"))
    stages["train_teacher"]["deps"] = [inner.folder_dep("mcm"), *stages["train_teacher"]["deps"][:1]]
    shared = repository.write("shared/common.py", "pass # both\n")
    stages["train_teacher"]["deps"].append({"path": "../shared", "md5": folder_md5(repository.folder / "shared")})
    inner.lock(stages)
    repository.commit("all")
    monkeypatch.chdir(inner.folder)
    for revision in ("HEAD", None):
        teacher = by_name(lock_records(revision))["train_teacher"]
        assert teacher.code and teacher.code.files == {"mcm/steps.py": code, "../shared/common.py": shared}
    monkeypatch.chdir(repository.folder)
    with pytest.raises(UserError, match=r"^HEAD \(\w{7}\): no dvc.lock in this folder; `mcm lineage log` lists"):
        lock_records("HEAD")


def test_without_a_repository_the_workspace_is_read_all_the_same(project: Project) -> None:
    project.write("mcm/networks/uvit.py", "# uvit\n")
    relock(project)
    with_git = lock_records()
    shutil.rmtree(project.folder / ".git")
    assert lock_records() == with_git
    assert networks(None).keys() == {"mcm/networks/uvit.py"}
    assert list(history()) == []
    with pytest.raises(UserError, match=r"^project: no git repository; go to the project's folder$"):
        lock_records("HEAD")


# YAML


def test_a_lock_is_read_as_dvc_wrote_it(tmp_path: Path) -> None:
    from dvc.utils.serialize import dump_yaml

    values: dict[str, Any] = {
        "numbers": [1e-05, 0.1, 1e20, -3, 0, 12, 1.0, float("inf")],
        "words": [
            "no",
            "yes",
            "on",
            "off",
            "1e-05",
            "0123",
            "089",
            "2026-01-02",
            "12:30:45",
            "~",
            "null",
            "1_000",
            "0x1f",
        ],
        "hashes": [
            "12345678901234567890123456789012",
            "1234567890123456789012345678901e",
            "0e123456789012345678901234567890",
        ],
        "others": [None, True, False, [], {}, "", "a: b", "ü"],
    }
    dump_yaml(tmp_path / "dvc.lock", values)
    assert yaml.load((tmp_path / "dvc.lock").read_bytes(), _Loader) == values


# History and experiments


def test_history_names_what_changed_the_lock_newest_first_and_experiments(project: Project) -> None:
    project.write("README.md", "more\n")
    project.commit("no change of the lock")
    other = lock_of(chain("r2", parameters={"teacher.learning_rate": 0.1}))
    experiment = project.experiment("swift-fox", other)
    project.lock(other)
    second = project.commit("second")
    found = list(history())
    assert [revision.name for revision in found] == [second[:7], "swift-fox", found[2].commit.id[:7]]
    assert [revision.commit.subject for revision in found] == ["second", "dvc: commit experiment swift-fox", "first"]
    assert found[1].commit.id == experiment
    assert {record.run.experiment for record in found[1].records} == {"swift-fox"}
    assert [record.id for record in found[0].records] == [record.id for record in found[1].records]
    assert [revision.name for revision in history(limit=1)] == [second[:7], "swift-fox"]
    teacher = by_name(list(found[0].records))["train_teacher"]
    known = [revision.name for revision in history(containing=teacher.outputs[0].md5)]
    assert known == [second[:7], "swift-fox"]


def test_a_broken_lock_in_history_does_not_hide_the_others(project: Project) -> None:
    project.write("dvc.lock", "<<<<<<< HEAD\n")
    project.commit("a merge gone wrong")
    assert [revision.commit.subject for revision in history()] == ["first"]


def test_a_repository_without_commits_has_no_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Project(tmp_path / "empty").folder)
    assert list(history()) == []


# Errors


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stages: [", "workspace: dvc.lock is not a lock of DVC ("),
        ("- 1\n", "workspace: dvc.lock is not a lock of DVC ("),
        ("schema: '2.0'\nstages:\n  a: 3\n", "workspace: dvc.lock is not a lock of DVC ("),
        (
            "schema: '2.0'\nstages:\n  a: {cmd: x, outs: [{path: y, md5: z}]}\n",
            "workspace: dvc.lock is not a lock of DVC (",
        ),
        (
            "schema: '2.0'\nstages:\n  a: {cmd: x, params: {params.yaml: [1]}}\n",
            "workspace: dvc.lock is not a lock of DVC (",
        ),
        ("", "workspace: dvc.lock is not a lock of DVC ("),
    ],
)
def test_a_lock_that_is_none_is_one_line(project: Project, text: str, said: str) -> None:
    project.write("dvc.lock", text)
    with pytest.raises(UserError) as error:
        lock_records()
    assert str(error.value).startswith(said) and str(error.value).endswith("`dvc repro` writes it anew")
    assert "\n" not in str(error.value)


def test_unknown_revision_and_missing_lock_are_one_line(project: Project) -> None:
    with pytest.raises(UserError) as error:
        lock_records("nosuch")
    assert str(error.value) == "nosuch: git knows no such revision; `mcm lineage log` lists those with a dvc.lock"
    (project.folder / "dvc.lock").unlink()
    with pytest.raises(UserError) as error:
        lock_records()
    assert str(error.value) == (
        "workspace: no dvc.lock in this folder; run `dvc repro`, or go to the folder of dvc.yaml"
    )


def test_options_of_git_are_no_revisions(project: Project) -> None:
    for name in ("--all", "-h", ":/nosuch", "HEAD^{tree}", ""):
        with pytest.raises(UserError, match="git knows no such revision"):
            lock_records(name)
