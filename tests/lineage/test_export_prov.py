"""W3C PROV: a document that the prov library reads back as the same, with the relations of the run."""

import pytest
from prov.model import (
    ProvActivity,
    ProvAgent,
    ProvAssociation,
    ProvDerivation,
    ProvDocument,
    ProvEntity,
    ProvGeneration,
    ProvSpecialization,
    ProvUsage,
)

from components.lineage.record import Artifact
from pipelines.lineage.export.prov import document
from pipelines.lineage.graph import Graph
from tests.lineage.builders import chain, graph, md5, partial, record


def same_bytes_twice() -> Graph:
    """Two executions that made the same bytes, and a reader of the later ones."""
    out = Artifact(name="out", md5=md5("same"), path="dataset", size=2**40, files=3)
    first = record("prepare_data", run="r0", outputs={"out": out}, begin=0)
    again = record("prepare_data", run="r1", outputs={"out": out}, begin=100)
    reader = record("train_teacher", run="r1", inputs={"dataset": out.md5}, outputs={"out": md5("t")}, begin=200)
    return graph([first, again, reader])


RUNS = {
    "mcm": graph(chain()),
    "kubeflow": graph(chain("r1", by="kubeflow", images="e" * 32 + ".dir")),
    "lock": graph(map(partial, chain())),
    "twice": same_bytes_twice(),
}


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
@pytest.mark.parametrize("form", ["json", "provn"])
def test_the_library_reads_back_the_same_document(run: Graph, form: str) -> None:
    written = document(run)
    read = ProvDocument.deserialize(content=written.serialize(format=form), format=form)
    assert read == written
    assert {str(one) for one in read.get_records()} == {str(one) for one in written.get_records()}
    assert len(list(read.get_records(ProvActivity))) == len(run.nodes)


def test_a_second_export_repeats_the_first() -> None:
    assert document(graph(chain())).serialize(format="json") == document(graph(chain())).serialize(format="json")


def pairs(found: ProvDocument, kind: type) -> set[tuple[str, ...]]:
    return {tuple(str(value) for _, value in one.formal_attributes if value)[:2] for one in found.get_records(kind)}


def test_entities_are_artifacts_and_relations_follow_the_records() -> None:
    run = graph(chain())
    found = document(run)
    records = {key: node.record for key, node in run.nodes.items()}
    teacher, student = records["train_teacher"], records["train_student cd-1"]
    model = f"md5:{student.outputs[0].md5}"
    assert (model, f"execution:{student.id}") in pairs(found, ProvGeneration)
    assert (f"execution:{student.id}", f"md5:{teacher.outputs[0].md5}") in pairs(found, ProvUsage)
    assert (model, f"md5:{teacher.outputs[0].md5}") in pairs(found, ProvDerivation)
    assert len(pairs(found, ProvGeneration)) == sum(len(one.outputs) for one in records.values())
    assert len(pairs(found, ProvUsage)) == sum(len(one.inputs) for one in records.values())
    entities = {str(entity.identifier) for entity in found.get_records(ProvEntity)}
    assert {f"md5:{out.md5}" for one in records.values() for out in (*one.inputs, *one.outputs)} <= entities


def test_an_activity_has_the_times_parameters_and_agent_of_its_record() -> None:
    node = next(one for one in chain("r1", by="kubeflow") if one.stage == "train_teacher")
    found = document(graph([node]))
    (activity,) = found.get_records(ProvActivity)
    assert (activity.get_startTime(), activity.get_endTime()) == (node.started, node.ended)
    facts = {str(name): value for name, value in activity.attributes}
    assert facts["parameter:teacher.learning_rate"] == "0.002"
    assert facts["metric:loss"] == node.metrics["loss"]
    (agent,) = found.get_records(ProvAgent)
    known = {str(name): value for name, value in agent.attributes}
    assert (known["mcm:version"], known["mcm:image"], known["mcm:commit"]) == (node.component, node.image, "c" * 40)
    (association,) = found.get_records(ProvAssociation)
    assert [str(value) for _, value in association.formal_attributes][1:] == [
        str(agent.identifier),
        "swh:" + "c" * 40,
    ]


def test_another_commit_version_or_image_is_another_agent() -> None:
    changes = [{}, {}, {"commit": "d" * 40}, {"component": "2"}, {"image": "x@sha256:" + "2" * 64}]
    records = [record("evaluate", f"cd-{number}", **change) for number, change in enumerate(changes)]
    assert len(list(document(graph(records)).get_records(ProvAgent))) == 4


def test_what_is_not_known_is_not_said() -> None:
    found = document(graph([partial(chain()[0])]))
    (activity,) = found.get_records(ProvActivity)
    assert activity.get_startTime() is None
    assert not [name for name, _ in activity.attributes if str(name).startswith(("library:", "metric:"))]


def test_the_same_bytes_made_twice_are_two_entities_of_one_content() -> None:
    run = same_bytes_twice()
    found = document(run)
    content = f"md5:{md5('same')}"
    special = pairs(found, ProvSpecialization)
    assert len(special) == 2
    assert {general for _, general in special} == {content}
    makers = pairs(found, ProvGeneration)
    assert len({entity for entity, _ in makers}) == len(makers) == 3  # each generated once
    later = run.nodes["prepare_data #2"].record.id[:12]
    assert f"{content}-{later}" in {used for _, used in pairs(found, ProvUsage)}


def test_what_failed_generated_nothing() -> None:
    failed = record("train_teacher", status="failed", outputs={"out": md5("half")})
    assert not list(document(graph([failed])).get_records(ProvGeneration))
