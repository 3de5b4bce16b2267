"""`mcm lineage export`: what it writes where, from which bytes, and its errors."""

import base64
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption
from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement

from components.lineage.record import Artifact
from components.storage import Objects
from mcm.artifacts import file_md5, folder_md5
from pipelines.lineage.commands import export
from pipelines.lineage.export.slsa import statement
from tests.lineage.builders import chain, graph, md5, record, write
from tests.lineage.checkpoints import FILES, MAKE, RUN, Project, make_project, private_pem, refusal


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    return make_project(tmp_path, monkeypatch)


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    return partial(refusal, capsys)


def provenance(project: Project, stage: str = "train_student cd-4", run: str = RUN) -> dict[str, Any]:
    out = project.root / "out.json"
    project.export(run, "--format", "slsa", "--stage", stage, "--out", out)
    return json.loads(out.read_text())


@pytest.mark.parametrize("form", ["openlineage", "prov"])
def test_a_run_goes_to_standard_output_or_to_a_file(
    project: Project, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    project.export(RUN, "--format", form)
    printed = capsys.readouterr().out
    project.export(RUN, "--format", form, "--out", "sub/out.json")
    assert Path("sub/out.json").read_text() == printed
    assert "cd-4" in printed
    assert str(project.root) not in printed
    project.export(RUN, "--format", form, "--stage", "train_teacher")
    assert "cd-4" not in capsys.readouterr().out


def test_prov_comes_as_prov_n_too(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.export(RUN, "--format", "prov", "--prov-format", "provn")
    assert capsys.readouterr().out.startswith("document\n")


def test_the_statement_is_one_by_the_definitions_of_in_toto_and_slsa(project: Project) -> None:
    values = provenance(project)
    parsed = json_format.ParseDict(values, statement_pb2.Statement())  # refuses fields that it does not know
    Statement.copy_from_pb(parsed).validate()
    json_format.ParseDict(values["predicate"], provenance_pb2.Provenance())
    assert (values["_type"], values["predicateType"]) == (
        "https://in-toto.io/Statement/v1",
        "https://slsa.dev/provenance/v1",
    )


def test_the_subjects_are_the_files_and_the_folder_as_dvc_names_it(project: Project) -> None:
    subjects = {row["name"]: row["digest"] for row in provenance(project)["subject"]}
    assert set(subjects) == {*FILES, "weights.safetensors", "students/cd-4"}
    assert subjects["loss.csv"]["md5"] == file_md5(project.student / "loss.csv")
    assert subjects["students/cd-4"] == {"dvcDirMd5": folder_md5(project.student).removesuffix(".dir")}


def test_the_provenance_names_parameters_inputs_code_image_and_packages(project: Project) -> None:
    predicate = provenance(project)["predicate"]
    definition, details = predicate["buildDefinition"], predicate["runDetails"]
    assert definition["externalParameters"] == {
        "stage": "train_student",
        "task": "cd-4",
        "parameters": {"students.method": "cd", "students.seed": 2**60 + 1, "students.emas": [0.9]},
    }
    by_name = {row["name"]: row for row in definition["resolvedDependencies"] if "name" in row}
    assert by_name["teacher"]["annotations"]["madeBy"] == "train_teacher"
    assert by_name["dataset"]["digest"] == {"dvcDirMd5": md5("data").removesuffix(".dir")}
    assert by_name["images"]["annotations"]["readBy"] == "prepare_data"  # behind the data set
    assert by_name["commit"] == {"name": "commit", "uri": "swh:1:rev:" + "c" * 40, "digest": {"gitCommit": "c" * 40}}
    assert by_name["image"]["digest"] == {"sha256": "1" * 64}
    assert by_name["source/mcm/steps.py"]["digest"] == {"md5": "a" * 32}
    assert {"uri": "pkg:pypi/torch@2.11.0"} in definition["resolvedDependencies"]
    assert details["builder"]["id"] == "urn:multistep-consistency:builder:kubeflow"
    assert details["metadata"]["invocationId"].startswith(f"{RUN}/")
    assert details["metadata"]["startedOn"] == "2026-03-01T12:03:20Z"
    assert {"name": "metrics", "annotations": {"loss": 0.25}} in details["byproducts"]


def test_times_are_those_of_utc(project: Project) -> None:
    east = timezone(timedelta(hours=2))
    one = record("train_teacher", started=datetime(2026, 3, 1, 1, 30, tzinfo=east))
    out = Artifact(name="out", md5=folder_md5(project.student))
    values = statement(graph([one]), "train_teacher", out, project.student)
    assert values["predicate"]["runDetails"]["metadata"]["startedOn"] == "2026-02-28T23:30:00Z"


def test_no_path_of_this_machine_is_in_a_statement(project: Project) -> None:
    project.export(RUN, "--format", "slsa", "--stage", "cd-4", "--out", "a.json", "--sign", project.key)
    project.export(project.root / "artifacts/lineage" / RUN, "--format", "slsa", "--stage", "cd-4", "--out", "b.json")
    for file in ("a.json", "a.json.sig", "b.json"):
        assert str(project.root.parent) not in Path(file).read_text()


def test_a_task_names_its_checkpoint(project: Project) -> None:
    assert provenance(project, "cd-4") == provenance(project, "train_student cd-4")
    assert provenance(project, "train_teacher")["subject"][-1]["name"] == "teacher"


def test_the_bytes_come_from_the_cache_or_the_store_where_the_workspace_has_others(project: Project) -> None:
    whole = provenance(project)
    store = project.root / "work/pipeline/store"
    for place in (Path(".dvc/cache"), store):
        shutil.rmtree(".dvc", ignore_errors=True)
        Objects(place).push(project.student)
        moved = project.student.rename(project.root / "kept")
        if place == store:
            shutil.copytree("artifacts/lineage", store / "lineage")
        else:
            shutil.copytree(moved, project.student)
            (project.student / "loss.csv").write_bytes(b"other bytes")
        assert provenance(project) == whole
        shutil.rmtree(project.student, ignore_errors=True)
        moved.rename(project.student)


def test_the_bytes_come_from_a_cache_that_was_moved(project: Project) -> None:
    whole = provenance(project)
    Path(".dvc").mkdir(exist_ok=True)
    Path(".dvc/config").write_text("[cache]\n    dir = ../moved\n")
    Objects("moved").push(project.student)
    shutil.rmtree(project.student)
    assert provenance(project) == whole


def test_the_signature_names_the_checkpoint_wherever_its_bytes_lie(project: Project) -> None:
    Objects(".dvc/cache").push(project.student)
    shutil.rmtree(project.student)
    project.export(RUN, "--format", "slsa", "--stage", "cd-4", "--out", "a.json", "--sign", project.key)
    payload = json.loads(Path("a.json.sig").read_text())["dsseEnvelope"]["payload"]
    assert json.loads(base64.b64decode(payload))["subject"][0]["name"] == "cd-4"


def test_a_folder_of_records_elsewhere_brings_the_bytes_beside_it(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert provenance(project, run=str(project.root / "artifacts/lineage" / RUN))["subject"]
    assert provenance(project, run=str(project.root / "artifacts/lineage"))["subject"]


def test_the_workspace_has_the_bytes_where_no_store_is(project: Project) -> None:
    shutil.move("artifacts/lineage", project.root.parent / "lineage")
    shutil.copytree(project.root.parent / "lineage" / RUN, project.root.parent / "records" / RUN)
    assert provenance(project, run=str(project.root.parent / "records"))["subject"]


def test_a_signed_export_writes_two_files_and_no_key(project: Project) -> None:
    project.export(RUN, "--format", "slsa", "--stage", "cd-4", "--out", "a.json", "--sign", project.key)
    envelope = json.loads(Path("a.json").read_text())
    assert envelope["payloadType"] == "application/vnd.in-toto+json"
    secret = "".join(project.key.read_text().splitlines()[1:-1])
    for file in ("a.json", "a.json.sig"):
        assert secret[:40] not in Path(file).read_text().replace("\\n", "")
    assert {path.name for path in project.root.iterdir()} == {"artifacts", "a.json", "a.json.sig"}


def test_an_encrypted_key_takes_its_password_from_the_environment(
    project: Project, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    project.key.write_bytes(private_pem(key, BestAvailableEncryption(b"open sesame")))
    arguments = (RUN, "--format", "slsa", "--stage", "cd-4", "--out", "a.json", "--sign", project.key)
    said = refused(export.main, *arguments)
    assert said == f"{project.key}: is encrypted; put its password into MCM_SIGNING_PASSWORD"
    monkeypatch.setenv("MCM_SIGNING_PASSWORD", "open barley")
    said = refused(export.main, *arguments)
    assert said == (
        f"{project.key}: not readable as a private key; is the password in MCM_SIGNING_PASSWORD the right one?"
    )
    assert not Path("a.json").exists()
    monkeypatch.setenv("MCM_SIGNING_PASSWORD", "open sesame")
    project.export(*arguments)
    assert Path("a.json.sig").exists()


def test_a_key_that_cannot_sign_is_refused_before_anything_is_written(
    project: Project, refused: Callable[..., str]
) -> None:
    bad = project.root.parent / "bad.pem"
    arguments = (RUN, "--format", "slsa", "--stage", "cd-4", "--out", "a.json", "--sign", bad)
    assert refused(export.main, *arguments) == f"{bad}: no such key; make one: {MAKE}"
    bad.write_bytes(private_pem(ed25519.Ed25519PrivateKey.generate()))
    said = refused(export.main, *arguments)
    assert said == (
        f"{bad}: the key is Ed25519PrivateKey, and model-signing takes EC P-256, P-384 or P-521; make one: {MAKE}"
    )
    bad.write_bytes(private_pem(ec.generate_private_key(ec.SECP256K1())))
    assert "the key is of curve secp256k1" in refused(export.main, *arguments)
    bad.write_bytes(project.public.read_bytes())
    said = refused(export.main, *arguments)
    assert said == f"{bad}: holds no private key in PEM, which --sign takes; make one: {MAKE}"
    bad.write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    assert refused(export.main, *arguments) == f"{bad}: not readable as a private key; make one: {MAKE}"
    assert not list(project.root.glob("a.json*"))


def test_errors_of_the_choice_of_a_checkpoint(project: Project, refused: Callable[..., str]) -> None:
    slsa = (RUN, "--format", "slsa")
    assert refused(export.main, *slsa) == (
        f"{RUN}: 2 checkpoints (train_student cd-4, train_student ct-2); choose one with --stage"
    )
    said = refused(export.main, *slsa, "--stage", "train_student cd-5")
    assert said == f"{RUN}: has no stage or output 'train_student cd-5'; did you mean 'train_student cd-4'?"
    said = refused(export.main, *slsa, "--stage", "evaluate cd-4")
    assert said == (
        f"{RUN}: stage 'evaluate cd-4' made no checkpoint; those that did: train_teacher, train_student cd-4, "
        "train_student ct-2"
    )
    write(project.root / "artifacts/lineage", [record("prepare_data", run="mcm-other", outputs={"out": md5("x")})])
    said = refused(export.main, "mcm-other", "--format", "slsa")
    assert said == "mcm-other: made no checkpoint; name a run with train_student or train_teacher"


def test_errors_of_bytes_that_are_nowhere_or_broken(project: Project, refused: Callable[..., str]) -> None:
    content = folder_md5(project.student)
    arguments = (RUN, "--format", "slsa", "--stage", "cd-4", "--out", "a.json")
    objects = Objects(".dvc/cache")
    objects.push(project.student)
    (project.student / "loss.csv").write_text("other")
    broken = Path(".dvc/cache/files/md5") / file_md5_place(FILES["config.json"])
    broken.chmod(0o644)
    broken.write_text("broken")
    said = refused(export.main, *arguments)
    nowhere = (
        f"train_student cd-4: the bytes of {content} are not in the workspace, in DVC's cache or beside the stores; "
        "`dvc pull` them, or name the run's store with --store"
    )
    assert said == (
        f"{nowhere}; {broken}: corrupted, its bytes have another md5; delete it, and run the stage that makes it "
        "again, without cache"
    )
    shutil.rmtree(".dvc")
    assert refused(export.main, *arguments) == nowhere
    assert not Path("a.json").exists()


def file_md5_place(data: bytes) -> str:
    name = hashlib.md5(data).hexdigest()
    return f"{name[:2]}/{name[2:]}"


def test_errors_of_options(project: Project, refused: Callable[..., str]) -> None:
    said = refused(export.main, RUN, "--format", "prov", "--sign", project.key)
    assert said == "--sign: signs the provenance of a checkpoint; add --format slsa, not prov"
    said = refused(export.main, RUN, "--format", "slsa", "--stage", "cd-4", "--sign", project.key)
    assert said == "--sign: writes two files, FILE and FILE.sig; name FILE with --out"
    inside = project.student / "statement.json"
    said = refused(export.main, RUN, "--format", "slsa", "--stage", "cd-4", "--out", inside)
    assert said == f"{inside}: lies in the checkpoint that it is about; name another place with --out"
    assert not inside.exists()


@pytest.mark.parametrize(
    ("package", "arguments"),
    [
        ("openlineage", ("--format", "openlineage")),
        ("prov", ("--format", "prov")),
        ("in_toto_attestation", ("--format", "slsa", "--stage", "cd-4")),
        ("model_signing", ("--format", "slsa", "--stage", "cd-4", "--out", "a.json", "--sign", "{key}")),
    ],
)
def test_a_package_that_is_not_installed_is_one_line(
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    refused: Callable[..., str],
    package: str,
    arguments: tuple[str, ...],
) -> None:
    for name in [*sys.modules]:
        if name.partition(".")[0] == package or name in (
            "pipelines.lineage.export.openlineage",
            "pipelines.lineage.export.prov",
        ):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    said = refused(export.main, RUN, *(argument.format(key=project.key) for argument in arguments))
    assert said == (f"{package} is not installed, and this needs it; pip install 'multistep-consistency[lineage]'")
    assert not Path("a.json").exists()


def test_help_answers_without_the_packages() -> None:
    code = (
        "import sys, contextlib\n"
        "from pipelines.lineage.commands import export, verify\n"
        "for main in (export.main, verify.main):\n"
        "    with contextlib.suppress(SystemExit): main(['--help'])\n"
        "heavy = {'torch', 'kfp', 'dvc', 'google.cloud', 'openlineage', 'prov', 'model_signing', 'cryptography'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")


def test_a_run_whose_only_student_is_one_needs_no_stage(project: Project) -> None:
    records = [one for one in chain("mcm-single", students=("cd-1",)) if one.stage != "train_student"]
    student = Artifact(name="out", md5=folder_md5(project.student), path="students/cd-4")
    records.append(record("train_student", "cd-4", run="mcm-single", outputs={"out": student}))
    write(project.root / "artifacts/lineage", records)
    project.export("mcm-single", "--format", "slsa", "--out", "one.json")
    assert json.loads(Path("one.json").read_text())["subject"][-1]["name"] == "students/cd-4"
