"""Executions joined by what flows between them."""

from datetime import timedelta

from components.lineage.record import Record
from pipelines.lineage.graph import build
from tests.lineage.builders import md5, record


def at(made: Record, minutes: int) -> Record:
    assert made.started and made.ended
    moved = {"started": made.started + timedelta(minutes=minutes), "ended": made.ended + timedelta(minutes=minutes)}
    return made.model_copy(update=moved)


def test_of_several_makers_of_the_same_bytes_the_last_before_the_reader_counts() -> None:
    first = at(record("prepare_data", outputs={"out": md5("d")}), 0)
    again = at(record("prepare_data", outputs={"out": md5("d")}, run="r2"), 60)
    late = at(record("prepare_data", outputs={"out": md5("d")}, run="r3"), 600)
    reader = at(record("train_teacher", inputs={"dataset": md5("d")}), 120)
    graph = build("x", "dvc", "x", [(late, False), (reader, False), (first, False), (again, False)])
    assert [edge.maker for edge in graph.edges] == ["prepare_data #2"]


def test_clocks_that_differ_lose_no_edge() -> None:
    maker = at(record("prepare_data", outputs={"out": md5("d")}), 5)
    reader = at(record("train_teacher", inputs={"dataset": md5("d")}), 0)
    graph = build("x", "dvc", "x", [(reader, False), (maker, False)])
    assert [(edge.maker, edge.reader) for edge in graph.edges] == [("prepare_data", "train_teacher")]
    assert list(graph.nodes) == ["prepare_data", "train_teacher"]


def test_executions_that_seem_to_feed_each_other_are_no_circle() -> None:
    one = at(record("a", inputs={"x": md5("2")}, outputs={"out": md5("1")}), 0)
    two = at(record("b", inputs={"x": md5("1")}, outputs={"out": md5("2")}), 60)
    graph = build("x", "dvc", "x", [(one, False), (two, False)])
    assert [(edge.maker, edge.reader) for edge in graph.edges] == [("a", "b")]
    assert [source.reader for source in graph.sources] == ["a"]


def test_an_execution_that_did_not_succeed_made_nothing() -> None:
    stopped = record("prepare_data", outputs={"out": md5("d")}).model_copy(update={"status": "stopped"})
    graph = build("x", "dvc", "x", [(stopped, False), (at(record("t", inputs={"x": md5("d")}), 60), False)])
    assert not graph.edges and len(graph.sources) == 1
