"""`mcm lineage verify`, and tools of others on the same files: whole checkpoints pass, one flipped bit does not."""

import base64
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner

from components.storage import Objects, upload
from pipelines.lineage.commands import verify
from pipelines.lineage.export.checkpoint import digests
from pipelines.lineage.export.signing import SigningKey
from tests.lineage.checkpoints import MAKE, RUN, Project, make_project, private_pem, public_pem, refusal
from tests.storage.server import BUCKET, Server

STATEMENTS = ("bare.json", "signed.json", "signed.json.sig")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """With a bare statement of student cd-4, a signed one, and model-signing's signature."""
    made = make_project(tmp_path, monkeypatch)
    made.export(RUN, "--format", "slsa", "--stage", "cd-4", "--out", "bare.json")
    made.export(RUN, "--format", "slsa", "--stage", "cd-4", "--out", "signed.json", "--sign", made.key)
    return made


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    return partial(refusal, capsys, verify.main)


def with_key(project: Project, statement: str) -> tuple[object, ...]:
    return (statement,) if statement == "bare.json" else (statement, "--key", project.public)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def model_signing(project: Project, folder: Path, public: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(folder)]
    options = ["--signature", "signed.json.sig", "--public_key", str(public or project.public)]
    return subprocess.run([*command, *options], capture_output=True, text=True)


def test_a_whole_checkpoint_passes_and_the_line_says_what_it_is(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    origin = f"4 files as stated, stage train_student cd-4, run {RUN}, commit {'c' * 40}, image {'1' * 64}"
    verify.main(["artifacts/students/cd-4", "bare.json"])
    assert capsys.readouterr().out == f"artifacts/students/cd-4: {origin}, the statement is not signed\n"
    verify.main(["artifacts/students/cd-4", "signed.json", "--key", str(project.public)])
    assert capsys.readouterr().out == f"artifacts/students/cd-4: {origin}, signed by {project.public}\n"
    verify.main(["artifacts/students/cd-4", "signed.json.sig", "--key", str(project.public)])
    assert capsys.readouterr().out == f"artifacts/students/cd-4: 4 files as stated, signed by {project.public}\n"


@pytest.mark.parametrize("statement", STATEMENTS)
@pytest.mark.parametrize("file", ["config.json", "ema_0.9.safetensors", "loss.csv", "weights.safetensors"])
def test_one_flipped_bit_is_refused(project: Project, refused: Callable[..., str], statement: str, file: str) -> None:
    flip(project.student / file)
    said = refused(project.student, *with_key(project, statement))
    assert said.startswith(f"{project.student}: {file} has sha256 ")
    assert said.endswith("its bytes were changed, do not use it")


@pytest.mark.parametrize("statement", STATEMENTS)
def test_a_missing_and_an_extra_file_are_refused_by_name(
    project: Project, refused: Callable[..., str], statement: str
) -> None:
    student, arguments = project.student, with_key(project, statement)
    for extra in (".gitignore", "more/pickle.bin", "z"):
        (student / extra).parent.mkdir(exist_ok=True)
        (student / extra).write_text("x")
        said = refused(student, *arguments)
        assert said == (f"{student}: {extra} is not in the statement; remove it, or do not trust this checkpoint")
        (student / extra).unlink()
    (student / "loss.csv").rename(student / "loss.txt")
    said = refused(student, *arguments)
    assert said == f"{student}: loss.csv is missing, which the statement lists; this is not that checkpoint"


def test_links_hide_nothing(project: Project, refused: Callable[..., str], tmp_path: Path) -> None:
    (project.student / "code").symlink_to(tmp_path)
    said = refused(project.student, "bare.json")
    assert said == f"{project.student}/code: is a link to a folder, which no checkpoint holds; remove it"
    (project.student / "code").unlink()
    (project.student / "code").symlink_to(tmp_path / "nowhere")
    said = refused(project.student, "bare.json")
    assert said == f"{project.student}/code: is no regular file, and a checkpoint holds nothing else; remove it"


def test_a_checkpoint_of_links_to_a_cache_is_signed_and_verified(project: Project) -> None:
    cache = project.root / "cache"
    cache.mkdir()
    for file in project.student.iterdir():
        file.rename(cache / file.name)
        file.symlink_to(cache / file.name)
    project.export(RUN, "--format", "slsa", "--stage", "cd-4", "--out", "linked.json", "--sign", project.key)
    for name in ("linked.json", "linked.json.sig", "signed.json.sig"):
        verify.main([str(project.student), name, "--key", str(project.public)])


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_other_curves_that_model_signing_takes(project: Project, curve: ec.EllipticCurve) -> None:
    key = ec.generate_private_key(curve)
    project.key.write_bytes(private_pem(key))
    project.public.write_bytes(public_pem(key))
    project.export(RUN, "--format", "slsa", "--stage", "cd-4", "--out", "signed.json", "--sign", project.key)
    for name in ("signed.json", "signed.json.sig"):
        verify.main([str(project.student), name, "--key", str(project.public)])
    assert model_signing(project, project.student).returncode == 0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("gcs"))
    running.start()
    running.create(BUCKET)
    yield running
    running.stop()


def test_a_checkpoint_in_a_bucket(
    project: Project,
    server: Server,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    refused: Callable[..., str],
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{server.port}")
    uri = f"gs://{BUCKET}/models/cd-4"
    upload(project.student, uri)
    verify.main([f"{uri}/", "signed.json", "--key", str(project.public)])
    assert capsys.readouterr().out.startswith(f"{uri}/: 4 files as stated, stage train_student cd-4")
    verify.main([uri, "signed.json.sig", "--key", str(project.public)])
    flip(project.student / "loss.csv")
    upload(project.student, uri)
    assert refused(uri, "bare.json").startswith(f"{uri}: loss.csv has sha256 ")
    assert refused(f"{uri}/loss.csv", "bare.json") == (
        f"{uri}/loss.csv: is one object; name the prefix of the whole checkpoint"
    )
    assert refused(f"{uri}9", "bare.json") == f"{uri}9: nothing is there; check the name, or make it first"


def test_a_statement_is_made_from_a_store_in_a_bucket(
    project: Project, server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{server.port}")
    store = f"gs://{BUCKET}/store"
    Objects(store).push(project.student)
    upload(project.root / "artifacts/lineage", f"{store}/lineage", last="")
    here = Path("bare.json").read_text()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    slsa = ("--format", "slsa", "--stage", "cd-4")
    project.export(RUN, *slsa, "--store", f"{store}/lineage", "--out", "there.json")
    assert Path("there.json").read_text() == here
    project.export(f"{store}/lineage/{RUN}", *slsa, "--out", "named.json", "--sign", project.key)
    verify.main([str(project.student), "named.json.sig", "--key", str(project.public)])


def test_model_signing_verifies_the_same_folder_and_refuses_one_flipped_bit(project: Project) -> None:
    done = model_signing(project, project.student)
    assert (done.returncode, done.stdout) == (0, "Verification succeeded\n")
    flip(project.student / "weights.safetensors")
    done = model_signing(project, project.student)
    assert done.returncode == 1
    assert "Hash mismatch" in done.stderr and "weights.safetensors" in done.stderr
    flip(project.student / "weights.safetensors")
    (project.student / "more").write_text("x")
    assert "Extra files found" in model_signing(project, project.student).stderr


def test_in_toto_matches_the_files_of_the_statement_and_refuses_one_flipped_bit(
    project: Project, tmp_path: Path
) -> None:
    """in-toto's own program compares a folder with the products of a link: here, the subjects of our statement."""
    pytest.importorskip("in_toto")
    from in_toto.models.link import Link
    from in_toto.models.metadata import Metablock

    subjects = json.loads(Path("bare.json").read_text())["subject"]
    products = {row["name"]: {"sha256": row["digest"]["sha256"]} for row in subjects if "sha256" in row["digest"]}
    Metablock(signed=Link(name="train_student", products=products)).dump(str(tmp_path / "train.link"))
    command = [sys.executable, "-c", "from in_toto.in_toto_match_products import main; main()"]

    def match() -> int:
        return subprocess.run([*command, "--link", str(tmp_path / "train.link")], cwd=project.student).returncode

    assert match() == 0
    flip(project.student / "config.json")
    assert match() == 1


def test_openssl_verifies_the_envelope(project: Project, tmp_path: Path) -> None:
    """DSSE signs its pre-authentication encoding, which any tool can check that knows the key's algorithm."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    envelope = json.loads(Path("signed.json").read_text())
    payload, kind = base64.b64decode(envelope["payload"]), envelope["payloadType"]
    assert json.loads(payload) == json.loads(Path("bare.json").read_text())
    (tmp_path / "sig").write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))

    def check(data: bytes) -> int:
        (tmp_path / "pae").write_bytes(b"DSSEv1 %d %b %d %b" % (len(kind), kind.encode(), len(data), data))
        options = ["-sha256", "-verify", project.public, "-signature", tmp_path / "sig", tmp_path / "pae"]
        return subprocess.run([openssl, "dgst", *options], capture_output=True).returncode

    assert check(payload) == 0
    assert check(payload.replace(b"0", b"1", 1)) == 1


def rewrite(file: str, change: Callable[[dict[str, Any]], object], to: str = "changed.json") -> str:
    values = json.loads(Path(file).read_text())
    change(values)
    Path(to).write_text(json.dumps(values))
    return to


def test_a_changed_statement_is_refused(project: Project, refused: Callable[..., str]) -> None:
    student = project.student

    def change_payload(envelope: dict[str, Any]) -> None:
        payload = base64.b64decode(envelope["payload"]).replace(b"cd-4", b"cd-1", 1)
        envelope["payload"] = base64.b64encode(payload).decode()

    def not_signed(name: str) -> str:
        return f"{name}: not signed by {project.public}, or changed since; ask the signer for the key and the statement"

    changed = rewrite("signed.json", change_payload)
    assert refused(student, changed, "--key", project.public) == not_signed(changed)
    changed = rewrite("signed.json.sig", lambda bundle: change_payload(bundle["dsseEnvelope"]))
    assert refused(student, changed, "--key", project.public) == not_signed(changed)
    changed = rewrite("signed.json", lambda envelope: envelope.update(signatures=[]))
    assert refused(student, changed, "--key", project.public) == not_signed(changed)
    changed = rewrite("signed.json", lambda envelope: envelope.update(payloadType="text/plain"))
    assert refused(student, changed, "--key", project.public) == not_signed(changed)

    # An unsigned statement made to fit changed files still names the folder that dvc.lock has.
    flip(student / "loss.csv")
    rows = [{"name": name, "digest": {"sha256": value}} for name, value in digests(student).items()]
    changed = rewrite("bare.json", lambda values: values.update(subject=rows + values["subject"][-1:]))
    said = refused(student, changed)
    assert said.startswith(f"{changed}: lists these files, but another folder (")
    assert said.endswith(".dir); do not trust it")


def test_a_signature_over_something_else_is_no_signature_of_a_statement(
    project: Project, refused: Callable[..., str]
) -> None:
    envelope = Envelope(Path("bare.json").read_bytes(), "text/plain", {})
    envelope.sign(CryptoSigner(load_pem_private_key(project.key.read_bytes(), None)))
    Path("text.json").write_text(json.dumps(envelope.to_dict()))
    assert refused(project.student, "text.json", "--key", project.public) == (
        "text.json: signs text/plain, and application/vnd.in-toto+json is needed; export it again"
    )


def test_a_signed_list_that_contradicts_itself_is_refused_by_model_signing(
    project: Project, refused: Callable[..., str]
) -> None:
    bundle = json.loads(Path("signed.json.sig").read_text())
    payload = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    payload["subject"][0]["digest"]["sha256"] = "0" * 64
    bundle["dsseEnvelope"] = json.loads(SigningKey(project.key).envelope(json.dumps(payload).encode()))
    Path("other.sig").write_text(json.dumps(bundle))
    said = refused(project.student, "other.sig", "--key", project.public)
    assert said.startswith(f"other.sig: model-signing refuses {project.student} (Manifest is inconsistent. ")
    half = rewrite("signed.json.sig", lambda values: values.pop("verificationMaterial"), "half.sig")
    said = refused(project.student, half, "--key", project.public)
    assert said.startswith(f"half.sig: model-signing refuses {project.student} (")


def test_no_file_is_left_out_of_the_signature(project: Project, refused: Callable[..., str]) -> None:
    """model-signing passes over git's files where it is not told otherwise."""
    (project.student / ".gitattributes").write_text("*.safetensors binary")
    SigningKey(project.key).sign_folder(project.student, Path("git.sig"))
    verify.main([str(project.student), "git.sig", "--key", str(project.public)])
    flip(project.student / ".gitattributes")
    said = refused(project.student, "git.sig", "--key", project.public)
    assert said.startswith(f"{project.student}: .gitattributes has sha256 ")


def test_the_key_decides_and_not_its_name_in_the_envelope(project: Project, refused: Callable[..., str]) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    (project.root.parent / "other.pub").write_bytes(public_pem(other))
    for name in ("signed.json", "signed.json.sig"):
        said = refused(project.student, name, "--key", project.root.parent / "other.pub")
        assert said.startswith(f"{name}: not signed by {project.root.parent / 'other.pub'}, or changed since")
    assert model_signing(project, project.student, project.root.parent / "other.pub").returncode == 1
    renamed = rewrite("signed.json", lambda envelope: envelope["signatures"][0].update(keyid="somebody"))
    verify.main([str(project.student), renamed, "--key", str(project.public)])


def test_errors_of_keys(project: Project, refused: Callable[..., str], tmp_path: Path) -> None:
    student, bad = project.student, tmp_path / "bad.pem"
    for name in ("signed.json", "signed.json.sig"):
        assert refused(student, name) == f"{name}: is signed; give the signer's public key with --key"
    assert refused(student, "bare.json", "--key", project.public) == (
        "bare.json: is not signed, so --key has nothing to check; leave it out, or get a signed statement"
    )
    said = refused(student, "signed.json", "--key", project.key)
    assert said == f"{project.key}: is a private key; --key takes the public one: openssl ec -in KEY -pubout"
    assert refused(student, "signed.json", "--key", bad) == f"{bad}: no such key; make one: {MAKE}"
    bad.write_text("hello")
    said = refused(student, "signed.json", "--key", bad)
    assert said == f"{bad}: holds no public key in PEM, which --key takes; make one: {MAKE}"
    bad.write_bytes(public_pem(rsa.generate_private_key(65537, 2048)))
    said = refused(student, "signed.json", "--key", bad)
    assert said == (
        f"{bad}: the key is RSAPublicKey, and model-signing takes EC P-256, P-384 or P-521; make one: {MAKE}"
    )


AGAIN = "name what `mcm lineage export --format slsa` wrote"


@pytest.mark.parametrize("text", ["", "hello", "[]", "{}", '{"files": 1}', "\udcff"])
def test_what_is_no_statement(project: Project, refused: Callable[..., str], text: str) -> None:
    Path("x.json").write_bytes(text.encode(errors="surrogateescape"))
    assert refused(project.student, "x.json") == f"x.json: not a statement, signed or not; {AGAIN}"


@pytest.mark.parametrize("values", [{"payload": 1}, {"payload": "AA=="}, {"dsseEnvelope": []}, {"dsseEnvelope": {}}])
def test_what_is_no_envelope(project: Project, refused: Callable[..., str], values: dict[str, Any]) -> None:
    Path("x.json").write_text(json.dumps(values))
    said = refused(project.student, "x.json", "--key", project.public)
    assert said == "x.json: not a DSSE envelope; export the statement again"


STATEMENT, PREDICATE = "https://in-toto.io/Statement/v1", "https://slsa.dev/provenance/v1"


MODEL = "https://model_signing/signature/v1.0"
UPGRADE = "upgrade this program"


@pytest.mark.parametrize(
    ("key", "value", "known", "remedy"),
    [
        ("_type", "https://in-toto.io/Statement/v2", STATEMENT, UPGRADE),
        ("_type", "https://in-toto.io/Statement/v0.1", STATEMENT, AGAIN),
        ("predicateType", "https://slsa.dev/provenance/v2", PREDICATE, UPGRADE),
        ("predicateType", "https://slsa.dev/provenance/v0.2", PREDICATE, AGAIN),
        ("predicateType", "https://spdx.dev/Document", PREDICATE, AGAIN),
        ("predicateType", MODEL, PREDICATE, AGAIN),  # model-signing's is trusted in its bundle alone
    ],
)
def test_a_statement_of_another_kind_or_a_newer_one(
    project: Project, refused: Callable[..., str], key: str, value: str, known: str, remedy: str
) -> None:
    changed = rewrite("bare.json", lambda values: values.update({key: value}))
    what = {"_type": "statement", "predicateType": "predicate"}[key]
    said = refused(project.student, changed)
    assert said == f"{changed}: its {what} is {value}, and this program reads {known}; {remedy}"


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("subject", [], "not a valid in-toto statement (At least one subject required); export it again"),
        ("predicate", {"runDetails": {}}, "SLSA provenance without build type or builder; export it again"),
        ("predicate", {}, "not a valid in-toto statement (Predicate object required); export it again"),
    ],
)
def test_a_statement_with_a_part_missing(
    project: Project, refused: Callable[..., str], key: str, value: Any, said: str
) -> None:
    changed = rewrite("bare.json", lambda values: values.update({key: value}))
    assert refused(project.student, changed) == f"{changed}: {said}"


def test_a_newer_build_and_a_statement_without_files(project: Project, refused: Callable[..., str]) -> None:
    build = "urn:multistep-consistency:stage:v"
    changed = rewrite("bare.json", lambda values: values["predicate"]["buildDefinition"].update(buildType=f"{build}2"))
    assert refused(project.student, changed) == (
        f"{changed}: its build is {build}2, and this program reads {build}1; upgrade this program"
    )
    changed = rewrite("bare.json", lambda values: values.update(subject=values["subject"][-1:]))
    assert refused(project.student, changed) == f"{changed}: lists no file with its sha256; export it again"


def test_fields_that_a_later_minor_version_adds_are_passed_over(project: Project) -> None:
    changed = rewrite("bare.json", lambda values: values["predicate"]["runDetails"].update(later={"a": 1}))
    changed = rewrite(changed, lambda values: values.update(later=1))
    verify.main([str(project.student), changed])


def test_errors_of_names(project: Project, refused: Callable[..., str]) -> None:
    said = refused("nowhere", "bare.json")
    assert said == "nowhere: no such folder; name the checkpoint's folder or gs:// prefix"
    assert refused(project.student, "nowhere.json") == f"nowhere.json: no such statement; {AGAIN}"
