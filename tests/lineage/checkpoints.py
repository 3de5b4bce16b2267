"""A project with checkpoints whose bytes are there, its records, and a key pair: for the tests of export and verify."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from components.lineage.record import Artifact
from mcm.artifacts import folder_md5
from pipelines.lineage.commands import export
from tests.lineage.builders import md5, record, write

RUN = "mcm-20260301-120000-abcdef"
FILES = {"config.json": b'{"kind": "denoiser"}', "ema_0.9.safetensors": b"\0" * 999, "loss.csv": b"iteration,loss\n"}
MAKE = "openssl ecparam -name prime256v1 -genkey -noout -out KEY, openssl ec -in KEY -pubout -out PUBLIC"


def private_pem(key: Any, encryption: KeySerializationEncryption | None = None) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())


def public_pem(key: Any) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@dataclass(frozen=True)
class Project:
    """A workspace with a teacher and students as files, and the records that made them."""

    root: Path
    key: Path
    public: Path

    @property
    def student(self) -> Path:
        return self.root / "artifacts/students/cd-4"

    def export(self, *arguments: object) -> None:
        export.main([str(argument) for argument in arguments])


def checkpoint(folder: Path, seed: str) -> str:
    folder.mkdir(parents=True)
    for name, data in {**FILES, "weights.safetensors": seed.encode() * 50}.items():
        (folder / name).write_bytes(data)
    return folder_md5(folder)


def make_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The project below `tmp_path`, which becomes the working directory."""
    root = tmp_path / "project"
    artifacts = root / "artifacts"
    data = Artifact(name="out", md5=md5("data"), path="dataset")
    teacher = Artifact(name="out", md5=checkpoint(artifacts / "teacher", "teacher"), path="teacher", size=9, files=4)
    records = [
        record("prepare_data", run=RUN, inputs={"images": "d" * 32 + ".dir"}, outputs={"out": data}),
        record("train_teacher", run=RUN, begin=100, inputs={"dataset": data.md5}, outputs={"out": teacher}),
    ]
    for begin, name in ((200, "cd-4"), (300, "ct-2")):
        student = Artifact(name="out", md5=checkpoint(artifacts / "students" / name, name), path=f"students/{name}")
        records.append(
            record(
                "train_student",
                name,
                run=RUN,
                by="kubeflow",
                begin=begin,
                inputs={"dataset": data.md5, "teacher": teacher.md5},
                outputs={"out": student},
                parameters={"students.method": name[:2], "students.seed": 2**60 + 1, "students.emas": [0.9]},
                files={"mcm/steps.py": "a" * 32},
                libraries={"torch": "2.11.0"},
                metrics={"loss": 0.25},
            )
        )
        evaluation = {"out": md5("evaluation", name)}
        records.append(
            record("evaluate", name, run=RUN, begin=begin + 200, inputs={"model": student.md5}, outputs=evaluation)
        )
    write(artifacts / "lineage", records)
    key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "key.pem").write_bytes(private_pem(key))
    (tmp_path / "key.pub").write_bytes(public_pem(key))
    monkeypatch.chdir(root)
    monkeypatch.delenv("MCM_LINEAGE", raising=False)
    monkeypatch.delenv("KFP_HOST", raising=False)
    return Project(root, tmp_path / "key.pem", tmp_path / "key.pub")


def refusal(capsys: pytest.CaptureFixture[str], main: Callable[[list[str]], None], *arguments: object) -> str:
    """The one line with which a program refuses its arguments, with exit status 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    assert (left.value.code, printed.err.count("\n"), printed.out) == (2, 1, "")
    return printed.err.strip().removeprefix("error: ")
