"""The drawing's places: what must hold of any graph, and what makes the usual one legible."""

import itertools
import random
import re

import networkx as nx
import pytest

from pipelines.lineage.page.layout import Box, Layout, arrange
from pipelines.lineage.page.order import Unit, crossings, layers, natural, ordered, skeleton
from tests.lineage.page_examples import STUDENTS, small, wide

Nodes = list[tuple[str, str, str]]
Edges = list[tuple[str, str]]


def of(diff: dict) -> tuple[Nodes, Edges]:
    nodes = [(node["key"], node["stage"], node["task"]) for node in diff["nodes"]]
    return nodes, [(edge["maker"], edge["reader"]) for edge in diff["edges"]]


def invented(seed: int) -> tuple[Nodes, Edges]:
    """Any graph without cycles: some stages with many tasks, some edges twice."""
    draw = random.Random(seed)
    nodes = [(f"n{i}", f"stage{draw.randrange(1 + seed)}", f"task-{i}") for i in range(draw.randrange(1, 60))]
    pairs = [(f"n{i}", f"n{j}") for i, j in itertools.combinations(range(len(nodes)), 2)]
    edges = draw.choices(pairs, k=draw.randrange(2 * len(nodes))) if pairs else []
    return nodes, edges


def loops() -> tuple[Nodes, Edges]:
    """Two loops of different length beside each other, and what reads both."""
    nodes = [
        (f"{stage} {task}", stage, str(task)) for stage, tasks in (("long", 27), ("short", 3)) for task in range(tasks)
    ]
    return [*nodes, ("end", "end", "")], [(key, "end") for key, _, _ in nodes]


GRAPHS = [pytest.param(*of(small()), id="small"), pytest.param(*of(wide()), id="wide")]
GRAPHS += [pytest.param(*loops(), id="loops")]
GRAPHS += [pytest.param(*invented(seed), id=f"invented-{seed}") for seed in range(12)]


def overlap(one: Box, other: Box) -> bool:
    across = min(one.x + one.width, other.x + other.width) - max(one.x, other.x)
    down = min(one.bottom, other.bottom) - max(one.y, other.y)
    return across > 0.01 and down > 0.01


@pytest.mark.parametrize("width", [350.0, 1040.0])
@pytest.mark.parametrize(("nodes", "edges"), GRAPHS)
def test_nothing_overlaps_and_edges_go_down(nodes: Nodes, edges: Edges, width: float) -> None:
    layout = arrange(nodes, edges, width)
    assert set(layout.boxes) == {key for key, _, _ in nodes}
    for one, other in itertools.combinations(layout.boxes.values(), 2):
        assert not overlap(one, other)
    alone = [box for key, box in layout.boxes.items() if not any(key in block.keys for block in layout.blocks)]
    for one, other in itertools.combinations([*alone, *(block.box for block in layout.blocks)], 2):
        assert not overlap(one, other)
    for maker, reader in edges:
        assert layout.boxes[maker].bottom < layout.boxes[reader].y
    for box in [*layout.boxes.values(), *(block.box for block in layout.blocks)]:
        assert box.x >= 0 and box.x + box.width <= layout.width + 0.01
        assert box.y >= 0 and box.bottom <= layout.height


@pytest.mark.parametrize(("nodes", "edges"), GRAPHS)
def test_each_needed_edge_is_drawn_once_and_others_are_implied(nodes: Nodes, edges: Edges) -> None:
    keys = [key for key, _, _ in nodes]
    graph = nx.DiGraph()
    graph.add_nodes_from(keys)
    graph.add_edges_from(edges)
    needed = set(nx.transitive_reduction(graph).edges)
    assert {edges[number] for number in skeleton(keys, edges)} == needed
    drawn = [number for line in arrange(nodes, edges, 1040.0).lines for number in line.edges]
    assert len(drawn) == len(set(drawn))
    assert {edges[number] for number in drawn} == needed


def test_an_edge_is_drawn_where_it_is_asked_for() -> None:
    nodes: Nodes = [(key, key, "") for key in "abc"]
    edges: Edges = [("a", "b"), ("b", "c"), ("a", "c")]
    assert [line.edges for line in arrange(nodes, edges, 1040.0).lines] == [(0,), (1,)]
    assert {line.edges for line in arrange(nodes, edges, 1040.0, always=[2]).lines} == {(0,), (1,), (2,)}


@pytest.mark.parametrize(("nodes", "edges"), GRAPHS)
def test_a_node_is_one_layer_below_the_lowest_that_it_reads(nodes: Nodes, edges: Edges) -> None:
    depth = layers([key for key, _, _ in nodes], edges)
    for key, _, _ in nodes:
        assert depth[key] == max((depth[maker] + 1 for maker, reader in edges if reader == key), default=0)


def test_the_order_has_fewer_crossings() -> None:
    def units(layer: int) -> list[Unit]:
        return [Unit((f"{layer}{i}",), layer, "", 10, 10) for i in range(8)]

    upper, lower = units(0), units(1)
    for one, other in zip(upper, reversed(lower), strict=True):
        one.after.append((other, 0, 0))
        other.before.append((one, 0, 0))
    assert crossings([upper, lower]) == 28
    assert crossings(ordered([*upper, *lower])) == 0


def test_equal_tasks_of_the_usual_pipeline_stand_below_each_other() -> None:
    layout = arrange(*of(small()), 1500.0)
    for student in ("cd-1", "cd-4", "ct-16"):
        assert layout.boxes[f"train_student {student}"].x == pytest.approx(layout.boxes[f"evaluate {student}"].x)


def test_the_tasks_of_a_loop_are_in_one_block_in_natural_order() -> None:
    layout = arrange(*of(wide()), 1040.0)
    blocks = {block.stage: block for block in layout.blocks}
    assert set(blocks) == {"train_student", "evaluate"}
    keys = blocks["train_student"].keys
    assert len(keys) == 240
    assert keys[:11] == tuple(f"train_student cd-{steps}" for steps in range(1, 12))
    places = [(layout.boxes[key].y, layout.boxes[key].x) for key in keys]
    assert places == sorted(places)
    assert len(layout.lines) < 12  # the edges of a loop are one line


def test_a_line_passes_beside_a_block() -> None:
    nodes, edges = of(wide())
    for width in range(1000, 1100, 10):
        layout = arrange(nodes, edges, float(width))
        block = next(block.box for block in layout.blocks if block.stage == "train_student")
        assert layout.boxes["estimate_variance"].bottom < block.y
        passing = edges.index(("estimate_variance", "evaluate teacher"))
        path = next(line.path for line in layout.lines if line.edges == (passing,))
        # Straight pieces: where the last curve ended, and how far down it goes from there.
        straight = re.findall(r"([\d.]+) ([\d.]+)V([\d.]+)", path)
        beside = [float(x) for x, _, low in straight if float(low) > block.y]
        assert beside and min(beside) > block.x + block.width


def test_a_task_is_in_the_same_column_of_high_blocks() -> None:
    for width in range(1000, 1100, 10):
        layout = arrange(*of(wide()), float(width))
        columns = [len({layout.boxes[key].x for key in block.keys}) for block in layout.blocks]
        assert len(set(columns)) == 1


def test_matching_tasks_have_lines_of_their_own_where_there_is_room() -> None:
    nodes, edges = of(small())
    alone = {edges[line.edges[0]] for line in arrange(nodes, edges, 1500.0).lines if len(line.edges) == 1}
    assert {(f"train_student {name}", f"evaluate {name}") for name in STUDENTS} <= alone


def test_the_same_graph_gives_the_same_drawing() -> None:
    nodes, edges = of(wide(40))
    assert arrange(nodes, edges, 1040.0) == arrange(nodes, edges, 1040.0)


def test_an_empty_graph_has_a_drawing() -> None:
    assert arrange([], [], 1040.0) == Layout(20.0, 28.0, {}, (), ())


def test_numbers_in_names_sort_as_numbers() -> None:
    assert sorted(["cd-16", "cd-2", "²", "cd", "9"], key=natural) == ["9", "cd", "cd-2", "cd-16", "²"]
