"""OpenLineage events: valid by the published schema, deterministic, and joined as the run was."""

import dataclasses
import json
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attr
import pytest
from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import ValidationError
from openlineage.client import event_v2, facet_v2
from referencing import Registry, Resource

from components.lineage.record import Record, RunRecord
from pipelines.lineage.export import openlineage
from pipelines.lineage.graph import Graph
from tests.lineage.builders import STUDENTS, chain, graph, partial, record

HERE = Path(__file__).parent
FACETS = Path(openlineage.__file__).with_name("facets.json")
SCHEMAS = {
    schema["$id"]: schema
    for schema in [*json.loads((HERE / "schemas/openlineage.json").read_text()), json.loads(FACETS.read_text())]
}
CORE = "https://openlineage.io/spec/2-0-2/OpenLineage.json"
AT = datetime(2026, 4, 1, 9, tzinfo=UTC)

FORMATS = FormatChecker(["uuid"])


@FORMATS.checks("date-time", raises=ValueError)
def _is_time(value: object) -> bool:
    return not isinstance(value, str) or ("T" in value and datetime.fromisoformat(value).tzinfo is not None)


@FORMATS.checks("uri")
def _is_uri(value: object) -> bool:
    return not isinstance(value, str) or (value.partition(":")[0].isalnum() and " " not in value)


def validate(event: dict[str, Any]) -> None:
    """The event by the core schema, and each facet by the schema that it names."""
    validate_as(event, CORE)
    validate_as(event, event["schemaURL"])
    for facet in facets(event):
        validate_as(facet, facet["_schemaURL"])


def validate_as(value: Any, url: str) -> None:
    registry: Registry[Any] = Registry().with_resources(
        (identity, Resource.from_contents(schema)) for identity, schema in SCHEMAS.items()
    )
    assert url.partition("#")[0] in SCHEMAS, url
    Draft202012Validator({"$ref": url}, registry=registry, format_checker=FORMATS).validate(value)


def facets(event: dict[str, Any]) -> Iterable[dict[str, Any]]:
    data = [*event.get("inputs", []), *event.get("outputs", [])]
    for holder in (event["job"], event.get("run", {}), *data):
        for kind in ("facets", "inputFacets", "outputFacets"):
            yield from holder.get(kind, {}).values()


def events(run: Graph) -> list[dict[str, Any]]:
    return [json.loads(line) for line in openlineage.events(run, AT)]


def of(found: list[dict[str, Any]], job: str, kind: str) -> dict[str, Any]:
    return next(event for event in found if event["job"]["name"] == job and event.get("eventType") == kind)


def mixed() -> Graph:
    """A run with all that a graph may hold: reused, cached, failed, stopped and partial executions, and a source."""
    first = chain("r1", images="d" * 32 + ".dir")
    again = chain("r2", by="kubeflow", images="d" * 32 + ".dir", parameters={"students.iterations": 9}, earlier=first)
    failed = record("evaluate", "cd-9", run="r2", by="kubeflow", status="failed", begin=5000)
    stopped = record("evaluate", "cd-8", run="r2", by="kubeflow", status="stopped", begin=6000, ended=None)
    return graph([*again, failed, stopped, partial(first[-1])], first)


@pytest.mark.parametrize(
    "run",
    [graph(chain()), graph(chain("r1", by="kubeflow")), graph(map(partial, chain("r1", by="dvc"))), mixed()],
    ids=["mcm", "kubeflow", "lock", "mixed"],
)
def test_every_event_and_every_facet_is_valid_by_the_schema_that_it_names(run: Graph) -> None:
    found = events(run)
    assert len(found) >= len(run.nodes)
    for event in found:
        validate(event)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("run", "runId"), "r1"),
        (("eventTime",), "2026-03-01"),
        (("eventType",), "DONE"),
        (("job", "namespace"), None),
        (("run", "facets", "parent", "job", "name"), 7),
        (("run", "facets", "mcm_execution", "record"), "short"),
        (("outputs", 0, "outputFacets", "outputStatistics", "size"), "many"),
        (("outputs", 0, "facets", "version", "_producer"), None),
    ],
)
def test_the_schema_refuses_what_is_wrong(place: tuple[str | int, ...], value: Any) -> None:
    event = of(events(graph(chain())), "pipeline.train_teacher", "COMPLETE")
    *way, last = place
    holder: Any = event
    for step in way:
        holder = holder[step]
    if value is None:
        del holder[last]
    else:
        holder[last] = value
    with pytest.raises(ValidationError):
        validate(event)


GENERATED = {
    **{f"{CORE}#/$defs/{name}": getattr(event_v2, name) for name in ("RunEvent", "JobEvent", "Run", "Job")},
    **{f"{CORE}#/$defs/{name}": getattr(event_v2, name) for name in ("InputDataset", "OutputDataset")},
    **{
        f"{identity}#/$defs/{identity.rpartition('/')[2].removesuffix('.json')}": next(
            getattr(module, identity.rpartition("/")[2].removesuffix(".json"))
            for module in vars(facet_v2).values()
            if hasattr(module, identity.rpartition("/")[2].removesuffix(".json"))
        )
        for identity in SCHEMAS
        if identity not in (CORE, openlineage.SCHEMAS)
    },
    **{
        f"{openlineage.SCHEMAS}#/$defs/{kind.__name__}": kind
        for kind in (openlineage.McmExecutionRunFacet, openlineage.McmDeclarationJobFacet)
    },
}


@pytest.mark.parametrize("url", GENERATED, ids=lambda url: url.rpartition("/")[2])
def test_the_schemas_agree_with_the_classes_made_from_the_published_ones(url: str) -> None:
    properties, required = _flat(url)
    fields = {field.name: field for field in attr.fields(GENERATED[url])}
    assert GENERATED[url]._get_schema() == url
    assert properties == set(fields)
    # The library fills in who produces, and by which schema.
    filled = {"_producer", "_schemaURL", "producer", "schemaURL"}
    assert required - filled == {name for name, field in fields.items() if field.default is attr.NOTHING}


def _flat(url: str) -> tuple[set[str], set[str]]:
    """Properties and required ones of a schema and those that it extends."""
    file, _, name = url.partition("#/$defs/")
    schema = SCHEMAS[file]["$defs"][name]
    properties, required = set(schema.get("properties", {})), set(schema.get("required", []))
    for each in schema.get("allOf", []):
        below = (set(each.get("properties", {})), set(each.get("required", [])))
        if "$ref" in each:
            below = _flat(each["$ref"] if each["$ref"].startswith("http") else f"{file}{each['$ref']}")
        properties, required = properties | below[0], required | below[1]
    return properties, required


def test_each_execution_has_a_start_and_one_end_and_belongs_to_its_run() -> None:
    run = graph(chain())
    found = events(run)
    parents = [event for event in found if event["job"]["name"] == "pipeline"]
    assert [event["eventType"] for event in parents] == ["START", "COMPLETE"]
    by_run: dict[str, list[str]] = {}
    for event in found:
        by_run.setdefault(event["run"]["runId"], []).append(event["eventType"])
        if event not in parents:
            parent = event["run"]["facets"]["parent"]
            assert parent["run"]["runId"] == parents[0]["run"]["runId"]
            assert parent["job"] == {"namespace": "multistep-consistency", "name": "pipeline", "facets": {}}
    assert len(by_run) == len(run.nodes) + 1
    assert all(kinds == ["START", "COMPLETE"] for kinds in by_run.values())
    assert [event["eventTime"] for event in found] == sorted(event["eventTime"] for event in found)
    assert (found[0], found[-1]) == (parents[0], parents[1])


def test_a_second_export_repeats_the_first_and_another_run_has_other_ids() -> None:
    assert events(graph(chain("r1"))) == events(graph(chain("r1")))
    ids = [{event["run"]["runId"] for event in events(graph(chain(name)))} for name in ("r1", "r2")]
    assert not ids[0] & ids[1]


def test_a_dataset_has_one_name_and_version_where_it_is_made_and_where_it_is_read() -> None:
    found = events(mixed())
    made, read = (
        {(d["name"], d["facets"]["version"]["datasetVersion"]) for e in found for d in e[side]}
        for side in ("outputs", "inputs")
    )
    assert read - made == {("images", "d" * 32 + ".dir")}
    end = of(found, "pipeline.train_student.cd-1", "COMPLETE")
    assert [dataset["name"] for dataset in end["outputs"]] == ["students/cd-1"]
    assert end["outputs"][0]["facets"]["datasetType"]["datasetType"] == "MODEL"


def test_the_facets_say_what_the_record_says() -> None:
    node: Record = next(one for one in chain("r1", by="kubeflow") if one.stage == "train_teacher")
    end = of(events(graph([node])), "pipeline.train_teacher", "COMPLETE")
    run, job = end["run"]["facets"], end["job"]["facets"]
    assert {row["key"]: json.loads(row["value"]) for row in run["executionParameters"]["parameters"]} == node.parameters
    assert job["sourceCodeLocation"]["url"] == "swh:1:rev:" + "c" * 40
    assert run["processing_engine"]["name"] == "PyTorch"
    facet = run["mcm_execution"]
    assert facet["metrics"] == node.metrics
    assert facet["libraries"] == node.libraries
    assert facet["image"] == node.image
    assert facet["record"] == node.id
    assert end["outputs"][0]["outputFacets"]["outputStatistics"]["size"] == node.outputs[0].size


def test_the_nominal_time_is_when_the_run_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")  # a time without zone is one of UTC, wherever this runs
    time.tzset()
    run = chain("r1", by="kubeflow")
    asked = RunRecord(run=run[0].run, params={}, started=datetime(2026, 3, 1, 11, 59))
    found = events(dataclasses.replace(graph(run), asked=asked))
    times = {event["run"]["facets"]["nominalTime"]["nominalStartTime"] for event in found}
    monkeypatch.undo()
    time.tzset()
    assert times == {"2026-03-01T11:59:00+00:00"}


def test_what_failed_or_was_stopped_ends_so_and_its_run_with_it() -> None:
    found = events(mixed())
    assert of(found, "pipeline.evaluate.cd-9", "FAIL")["outputs"] == []
    assert of(found, "pipeline.evaluate.cd-8", "ABORT")
    ends = {e["run"]["runId"]: e["eventType"] for e in found if e["job"]["name"] == "pipeline"}
    assert sorted(ends.values()) == ["COMPLETE", "FAIL"]  # the earlier run, and this one
    retried = [record("evaluate", "cd-1", status="failed"), record("evaluate", "cd-1", begin=100)]
    assert of(events(graph(retried)), "pipeline", "COMPLETE")


def test_a_result_taken_from_an_earlier_run_says_so() -> None:
    found = events(mixed())
    cached = of(found, "pipeline.train_teacher", "COMPLETE")["run"]["facets"]["mcm_execution"]
    assert set(cached["cachedFrom"]) == {"run", "record"}
    first = chain("r1")
    reused = events(graph(chain("r2", students=("cd-1",), parameters={"evaluation.samples": 7}, earlier=first), first))
    facet = of(reused, "pipeline.train_teacher", "COMPLETE")["run"]["facets"]["mcm_execution"]
    assert facet["reused"] is True


def test_what_only_a_lock_tells_is_a_job_and_no_run() -> None:
    found = events(graph(map(partial, chain())))
    assert all("run" not in event and event["eventTime"] == AT.isoformat() for event in found)
    students = [event for event in found if event["job"]["name"].startswith("pipeline.train_student")]
    assert len(students) == len(STUDENTS)
    keys = [row["key"] for row in students[0]["job"]["facets"]["mcm_declaration"]["parameters"]]
    assert "students.learning_rate" in keys


def test_the_namespace_is_the_one_that_openlineage_clients_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENLINEAGE_NAMESPACE", "emoji")
    assert {event["job"]["namespace"] for event in events(graph(chain()))} == {"emoji"}


def test_no_path_of_a_machine_is_exported() -> None:
    run = graph(chain(), name="/home/someone/secret")
    assert "/home" not in "".join(openlineage.events(run, AT))
