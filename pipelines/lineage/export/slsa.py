"""The in-toto statement of a checkpoint: its files by sha256, and as SLSA provenance how they came to be."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.lineage.record import Artifact, Record
from mcm.artifacts import file_md5
from mcm.errors import UserError
from pipelines.lineage.export.checkpoint import digests
from pipelines.lineage.export.names import HOME, commit_uri, image_uri, input_places, library_uri, producer
from pipelines.lineage.graph import Graph
from pipelines.lineage.part import part

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = f"{HOME}:stage:v1"
FOLDER = "dvcDirMd5"  # DVC's md5 of a folder, without its .dir: of the list of its files


def statement(graph: Graph, key: str, out: Artifact, folder: Path) -> dict[str, Any]:
    """The statement of what node `key` made, whose bytes are in `folder`; validated as in-toto and SLSA define it."""
    record = graph.nodes[key].record
    subjects: list[dict[str, Any]] = [
        {"name": name, "digest": {"sha256": sha256, "md5": file_md5(folder / name)}}
        for name, sha256 in digests(folder).items()
    ]
    subjects.append({"name": out.path or record.name, "digest": digest(out.md5)})
    found = {
        "_type": STATEMENT,
        "subject": subjects,
        "predicateType": PREDICATE,
        "predicate": {"buildDefinition": _definition(graph, key, record), "runDetails": _details(record, out)},
    }
    parse(found, key)
    return found


def digest(md5: str) -> dict[str, str]:
    """An artifact's md5 as an in-toto digest."""
    return {FOLDER: md5.removesuffix(".dir")} if md5.endswith(".dir") else {"md5": md5}


def parse(values: dict[str, Any], where: str) -> tuple[list[tuple[str, dict[str, str]]], dict[str, Any]]:
    """Subjects (name and digests) and provenance of a statement, as in_toto_attestation reads it.

    UserError where it is no in-toto statement with SLSA provenance. Fields that they do not define are passed over.
    """
    from google.protobuf import json_format
    from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
    from in_toto_attestation.v1 import statement_pb2
    from in_toto_attestation.v1.statement import Statement

    try:
        found = json_format.ParseDict(values, statement_pb2.Statement(), ignore_unknown_fields=True)
        Statement.copy_from_pb(found).validate()
        provenance = json_format.ParseDict(values["predicate"], provenance_pb2.Provenance(), ignore_unknown_fields=True)
    except (json_format.ParseError, ValueError) as error:
        raise UserError(f"{where}: not a valid in-toto statement ({error}); export it again") from None
    if not (provenance.build_definition.build_type and provenance.run_details.builder.id):
        raise UserError(f"{where}: SLSA provenance without build type or builder; export it again")
    return [(row.name, dict(row.digest)) for row in found.subject], json_format.MessageToDict(provenance)


def _definition(graph: Graph, key: str, record: Record) -> dict[str, Any]:
    internal = {
        "seeds": record.seeds,
        "component": record.component,
        "experiment": record.run.experiment,
        "dirty": record.code.dirty if record.code else None,
        "hardware": record.hardware.model_dump(mode="json") if record.hardware else None,
        "cachedFrom": record.cached_from.model_dump() if record.cached_from else None,
    }
    return {
        "buildType": BUILD_TYPE,
        "externalParameters": {"stage": record.stage, "task": record.task, "parameters": record.parameters},
        "internalParameters": _known(internal),
        "resolvedDependencies": [*_inputs(graph, key), *_sources(record)],
    }


def _inputs(graph: Graph, key: str) -> list[dict[str, Any]]:
    """What the node read and, behind it, what those who made that read; each artifact once, the node's own first."""
    above = part(graph, up=key)
    found: dict[str, dict[str, Any]] = {}
    for reader in [key, *reversed([name for name in above.nodes if name != key])]:
        for artifact, name, maker in input_places(above, reader):
            if artifact.md5 in found:
                continue
            facts: dict[str, Any] = {"readBy": reader, "as": artifact.name}
            if maker is not None:
                made = above.nodes[maker].record
                facts |= {"madeBy": maker, "run": made.run.id, "record": made.id, "image": made.image or None}
                facts["commit"] = made.code.commit if made.code else None
            found[artifact.md5] = {"name": name, "digest": digest(artifact.md5), "annotations": _known(facts)}
    return list(found.values())


def _sources(record: Record) -> list[dict[str, Any]]:
    """The commit, the image, the files of the project that ran, and the packages."""
    found: list[dict[str, Any]] = []
    if record.code and record.code.commit:
        commit = record.code.commit
        found.append({"name": "commit", "uri": commit_uri(commit), "digest": {"gitCommit": commit}})
    if record.image:
        image: dict[str, Any] = {"name": "image", "uri": image_uri(record.image)}
        algorithm, _, value = record.image.partition("@")[2].partition(":")
        found.append({**image, "digest": {algorithm: value}} if value else image)
    files = (record.code.files if record.code else None) or {}
    found += [{"name": f"source/{name}", "digest": {"md5": md5}} for name, md5 in sorted(files.items())]
    found += [{"uri": library_uri(name, version)} for name, version in sorted((record.libraries or {}).items())]
    return found


def _details(record: Record, out: Artifact) -> dict[str, Any]:
    byproducts: list[dict[str, Any]] = [
        {"name": other.path or other.name, "digest": digest(other.md5)} for other in record.outputs if other != out
    ]
    if record.metrics:
        byproducts.append({"name": "metrics", "annotations": dict(record.metrics)})
    times = {"startedOn": _time(record.started), "finishedOn": _time(record.ended)}
    return {
        "builder": {"id": f"{HOME}:builder:{record.run.by}", "version": {"statement": producer()}},
        "metadata": {"invocationId": f"{record.run.id}/{record.id}", **_known(times)},
        "byproducts": byproducts,
    }


def _known(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if value is not None}


def _time(time: datetime | None) -> str | None:
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z") if time else None
