"""Reading a statement of a checkpoint: bare, in a DSSE envelope, or in the bundle that model-signing writes."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcm.errors import UserError
from pipelines.lineage.export.signing import PublicKey
from pipelines.lineage.export.slsa import BUILD_TYPE, FOLDER, PREDICATE, STATEMENT, parse

MODEL = "https://model_signing/signature/v1.0"
AGAIN = "name what `mcm lineage export --format slsa` wrote"


@dataclass(frozen=True)
class Claim:
    """What a statement says of a checkpoint."""

    files: dict[str, str]  # sha256 by place in the folder
    folder: str | None = None  # DVC's md5 of it
    stage: str | None = None
    run: str | None = None
    commit: str | None = None
    image: str | None = None
    bundle: bool = False  # model-signing's, which it can verify itself


def read(path: Path, key: PublicKey | None) -> Claim:
    """The claim of a statement's file, its signature verified. UserError for an unsigned one where a key is given."""
    if not path.is_file():
        raise UserError(f"{path}: no such statement; {AGAIN}")
    values = _object(path.read_bytes(), path)
    bundle = "dsseEnvelope" in values
    envelope = values["dsseEnvelope"] if bundle else values if "payload" in values else None
    if envelope is not None:
        if key is None:
            raise UserError(f"{path}: is signed; give the signer's public key with --key")
        values = _object(key.open(envelope, path), path)
    elif "_type" not in values:
        raise UserError(f"{path}: not a statement, signed or not; {AGAIN}")
    elif key is not None:
        raise UserError(
            f"{path}: is not signed, so --key has nothing to check; leave it out, or get a signed statement"
        )
    return _claim(values, path, bundle)


def _object(data: bytes, path: Path) -> dict[str, Any]:
    try:
        values = json.loads(data)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise UserError(f"{path}: not a statement, signed or not; {AGAIN}")
    return values


def _claim(values: dict[str, Any], path: Path, bundle: bool) -> Claim:
    _expect("statement", values.get("_type"), STATEMENT, path)
    if bundle and values.get("predicateType") == MODEL:
        return _model(values, path)
    _expect("predicate", values.get("predicateType"), PREDICATE, path)
    subjects, provenance = parse(values, path.name)
    definition, details = provenance["buildDefinition"], provenance["runDetails"]
    _expect("build", definition["buildType"], BUILD_TYPE, path)
    files = {name: digest["sha256"] for name, digest in subjects if "sha256" in digest}
    if not files:
        raise UserError(f"{path}: lists no file with its sha256; export it again")
    folders = [f"{digest[FOLDER]}.dir" for _, digest in subjects if FOLDER in digest]
    asked = definition.get("externalParameters", {})
    sources = {row.get("name"): row.get("digest", {}) for row in definition.get("resolvedDependencies", [])}
    return Claim(
        files,
        folder=folders[0] if folders else None,
        stage=f"{asked.get('stage', '')} {asked.get('task', '')}".strip() or None,
        run=details.get("metadata", {}).get("invocationId", "").partition("/")[0] or None,
        commit=sources.get("commit", {}).get("gitCommit"),
        image=sources.get("image", {}).get("sha256"),
    )


def _model(values: dict[str, Any], path: Path) -> Claim:
    try:
        rows = values["predicate"]["resources"]
        serial = values["predicate"]["serialization"]
        files = {row["name"]: row["digest"] for row in rows if row["algorithm"] == "sha256"}
    except (KeyError, TypeError):
        raise UserError(f"{path}: not a signature of model-signing's first format; {AGAIN}") from None
    if len(files) != len(rows) or serial.get("method") != "files":
        raise UserError(f"{path}: does not list whole files by sha256; verify it with `model_signing verify`")
    return Claim(files, bundle=True)


def _expect(what: str, said: Any, known: str, path: Path) -> None:
    """UserError where a statement is of another format than the one known, which may be a later version of it."""
    if said == known:
        return
    stem, _, version = known.rpartition("v")
    later = str(said).removeprefix(f"{stem}v").partition(".")[0]
    newer = str(said).startswith(f"{stem}v") and later.isdigit() and int(later) > int(version)
    remedy = "upgrade this program" if newer else AGAIN
    raise UserError(f"{path}: its {what} is {said}, and this program reads {known}; {remedy}")
