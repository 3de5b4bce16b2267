"""A run as OpenLineage events: START and COMPLETE (FAIL, ABORT) of each execution and of the run it belongs to.

The ids of runs are a function of run and record, so that a second export repeats the first. An execution of which only
a dvc.lock tells was not observed: it is a JobEvent, which states the job and what it reads and makes.
"""

import json
import os
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import attr
from openlineage.client import facet_v2 as facets
from openlineage.client.event_v2 import InputDataset, Job, JobEvent, OutputDataset, Run, RunEvent, RunState
from openlineage.client.generated.base import DatasetFacet, InputDatasetFacet, JobFacet, OutputDatasetFacet, RunFacet
from openlineage.client.serde import Serde

from components.lineage.record import Artifact, Record
from pipelines.lineage.export.names import HOME, commit_uri, input_places, made_by, place, producer
from pipelines.lineage.graph import Graph, Node

SCHEMAS = f"{HOME}:openlineage:1"  # facets.json beside this file
IDS = uuid.uuid5(uuid.NAMESPACE_URL, f"{HOME}:openlineage")
ENDS = {"succeeded": RunState.COMPLETE, "failed": RunState.FAIL, "stopped": RunState.ABORT}
MODELS = ("train_teacher", "train_student")


@attr.define
class McmExecutionRunFacet(RunFacet):  # type: ignore[misc]
    """What a lineage record says of its execution beyond the standard facets."""

    record: str
    status: str
    reused: bool
    component: str | None = None
    image: str | None = None
    dirty: bool | None = None
    codeFiles: dict[str, str] | None = None  # noqa: N815
    seeds: dict[str, int] | None = None
    libraries: dict[str, str] | None = None
    hardware: dict[str, Any] | None = None
    cost: dict[str, float] | None = None
    cachedFrom: dict[str, str] | None = None  # noqa: N815
    experiment: str | None = None
    metrics: dict[str, float] | None = None

    @staticmethod
    def _get_schema() -> str:
        return f"{SCHEMAS}#/$defs/McmExecutionRunFacet"


@attr.define
class McmDeclarationJobFacet(JobFacet):  # type: ignore[misc]
    """Parameters and code of a job whose runs were not observed, as a dvc.lock holds them."""

    parameters: list[facets.execution_parameters_run.ExecutionParameter]
    codeFiles: dict[str, str] | None = None  # noqa: N815

    @staticmethod
    def _get_schema() -> str:
        return f"{SCHEMAS}#/$defs/McmDeclarationJobFacet"


def events(graph: Graph, at: datetime) -> Iterator[str]:
    """The events as JSON, one a line, in order of time. `at` is the time of events that state what was not observed."""
    runs: dict[str, list[Record]] = {}
    found: list[tuple[datetime, int, RunEvent | JobEvent]] = []
    for key, node in graph.nodes.items():
        if node.record.started is None:
            found.append((at, 4, _declared(graph, key, at)))
        else:
            runs.setdefault(node.record.run.id, []).append(node.record)
    for identity, records in runs.items():
        found += _parent(graph, identity, records)
    for key, node in graph.nodes.items():
        if node.record.started is not None:
            found += _execution(graph, key, node, _nominal(graph, runs[node.record.run.id]))
    for _, _, event in sorted(found, key=lambda item: item[:2]):
        yield Serde.to_json(event)


def _namespace() -> str:
    """Where jobs and datasets are named, as OpenLineage's own client reads it."""
    return os.environ.get("OPENLINEAGE_NAMESPACE") or "multistep-consistency"


def _run_id(run: str, record: str = "") -> str:
    return str(uuid.uuid5(IDS, f"{run}/{record}"))


def _parent(graph: Graph, identity: str, records: list[Record]) -> list[tuple[datetime, int, RunEvent]]:
    started = min(record.started for record in records if record.started)
    ended = max(record.ended or record.started or started for record in records)
    # What failed and was made in another attempt of the same run did not fail the run.
    made = {record.name for record in records if record.status == "succeeded"}
    bad = {record.status for record in records if record.name not in made}
    state = RunState.FAIL if "failed" in bad else RunState.ABORT if bad else RunState.COMPLETE
    nominal = _nominal(graph, records)

    def event(kind: RunState, time: datetime) -> RunEvent:
        run = Run(_run_id(identity), {"nominalTime": nominal})
        job = Job(_namespace(), "pipeline", {"jobType": _job_type("PIPELINE")})
        return RunEvent(eventType=kind, eventTime=_iso(time), run=run, job=job, producer=producer())

    return [(started, 0, event(RunState.START, started)), (ended, 3, event(state, ended))]


def _execution(
    graph: Graph, key: str, node: Node, nominal: facets.nominal_time_run.NominalTimeRunFacet
) -> list[tuple[datetime, int, RunEvent]]:
    record = node.record
    assert record.started is not None
    known: dict[str, RunFacet] = {
        "parent": _parent_facet(record.run.id),
        "nominalTime": nominal,
        "executionParameters": facets.execution_parameters_run.ExecutionParametersRunFacet(
            _parameters(record), producer=producer()
        ),
    }
    engine = _engine(record)
    if engine:
        known["processing_engine"] = engine
    inputs = _inputs(graph, key)

    def event(kind: RunState, time: datetime, more: dict[str, RunFacet], outputs: list[OutputDataset]) -> RunEvent:
        return RunEvent(
            eventType=kind,
            eventTime=_iso(time),
            run=Run(_run_id(record.run.id, record.id), {**known, **more}),
            job=_job(record, {}),
            inputs=inputs,
            outputs=outputs,
            producer=producer(),
        )

    ended = record.ended or record.started
    outputs = [_output(place(key, artifact), artifact, record) for artifact in made_by(record)]
    return [
        (record.started, 1, event(RunState.START, record.started, {}, [])),
        (ended, 2, event(ENDS[record.status], ended, {"mcm_execution": _details(node)}, outputs)),
    ]


def _declared(graph: Graph, key: str, at: datetime) -> JobEvent:
    record = graph.nodes[key].record
    files = record.code.files if record.code else None
    facet = McmDeclarationJobFacet(_parameters(record), files, producer=producer())
    return JobEvent(
        eventTime=_iso(at),
        job=_job(record, {"mcm_declaration": facet}),
        inputs=_inputs(graph, key),
        outputs=[_output(place(key, artifact), artifact, record) for artifact in record.outputs],
        producer=producer(),
    )


def _parameters(record: Record) -> list[facets.execution_parameters_run.ExecutionParameter]:
    """Values are JSON in a string: the standard has strings only, and 4 is not "4"."""
    parameter = facets.execution_parameters_run.ExecutionParameter
    return [parameter(key=name, value=json.dumps(value)) for name, value in sorted(record.parameters.items())]


def _job(record: Record, more: dict[str, JobFacet]) -> Job:
    found: dict[str, JobFacet] = {"jobType": _job_type("STAGE"), **more}
    if record.code and record.code.commit:
        found["sourceCodeLocation"] = facets.source_code_location_job.SourceCodeLocationJobFacet(
            type="git",
            url=commit_uri(record.code.commit),
            path=f"components/{record.stage}",
            version=record.code.commit,
            producer=producer(),
        )
    return Job(_namespace(), ".".join(filter(None, ("pipeline", record.stage, record.task))), found)


def _job_type(kind: str) -> JobFacet:
    return facets.job_type_job.JobTypeJobFacet("BATCH", "MULTISTEP_CONSISTENCY", kind, producer=producer())


def _parent_facet(identity: str) -> RunFacet:
    parent = facets.parent_run
    return parent.ParentRunFacet(
        parent.Run(_run_id(identity)),
        parent.Job(_namespace(), "pipeline"),
        parent.Root(parent.RootRun(_run_id(identity)), parent.RootJob(_namespace(), "pipeline")),
        producer=producer(),
    )


def _nominal(graph: Graph, records: list[Record]) -> facets.nominal_time_run.NominalTimeRunFacet:
    """When the run was asked for, where that is known, else when its first task began."""
    asked = graph.asked.started if graph.asked and graph.asked.run.id == records[0].run.id else None
    time = asked or min(record.started for record in records if record.started)
    return facets.nominal_time_run.NominalTimeRunFacet(_iso(time), producer=producer())


def _engine(record: Record) -> RunFacet | None:
    """PyTorch where the stage loaded it, else Python."""
    for name, package in (("PyTorch", "torch"), ("Python", "python")):
        version = (record.libraries or {}).get(package)
        if version:
            return facets.processing_engine_run.ProcessingEngineRunFacet(version, name, producer=producer())
    return None


def _details(node: Node) -> McmExecutionRunFacet:
    record = node.record
    return McmExecutionRunFacet(
        record=record.id,
        status=record.status,
        reused=node.reused,
        component=record.component,
        image=record.image,
        dirty=record.code.dirty if record.code else None,
        codeFiles=record.code.files if record.code else None,
        seeds=record.seeds,
        libraries=record.libraries,
        hardware=record.hardware.model_dump(mode="json") if record.hardware else None,
        cost=record.cost.model_dump() if record.cost else None,
        cachedFrom=record.cached_from.model_dump() if record.cached_from else None,
        experiment=record.run.experiment,
        metrics=record.metrics,
        producer=producer(),
    )


def _inputs(graph: Graph, key: str) -> list[InputDataset]:
    found = []
    for artifact, name, maker in input_places(graph, key):
        kind = _type(graph.nodes[maker].record if maker else None, artifact)
        statistics = facets.input_statistics_input_dataset.InputStatisticsInputDatasetFacet(
            size=artifact.size, fileCount=artifact.files, producer=producer()
        )
        sizes: dict[str, InputDatasetFacet] = {} if artifact.size is None else {"inputStatistics": statistics}
        found.append(InputDataset(_namespace(), name, sizes, facets=_dataset(artifact, kind)))
    return found


def _output(name: str, artifact: Artifact, maker: Record) -> OutputDataset:
    statistics = facets.output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
        size=artifact.size, fileCount=artifact.files, producer=producer()
    )
    sizes: dict[str, OutputDatasetFacet] = {} if artifact.size is None else {"outputStatistics": statistics}
    return OutputDataset(_namespace(), name, sizes, facets=_dataset(artifact, _type(maker, artifact)))


def _type(maker: Record | None, artifact: Artifact) -> str:
    made_model = maker is not None and maker.stage in MODELS
    return "MODEL" if made_model or artifact.name in ("teacher", "model") else "FILE"


def _dataset(artifact: Artifact, kind: str) -> dict[str, DatasetFacet]:
    found: dict[str, DatasetFacet] = {
        "version": facets.dataset_version_dataset.DatasetVersionDatasetFacet(artifact.md5, producer=producer()),
        "datasetType": facets.dataset_type_dataset.DatasetTypeDatasetFacet(kind, producer=producer()),
    }
    if artifact.measured:
        tags = facets.tags_dataset
        found["tags"] = tags.TagsDatasetFacet([tags.TagsDatasetFacetFields("measured", "true")], producer=producer())
    return found


def _iso(time: datetime) -> str:
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC).isoformat()
