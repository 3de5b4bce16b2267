"""The lineage graph of a run: executions joined by the artifacts that flow between them, named by their content."""

import graphlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from components.lineage.record import Artifact, By, Record, RunRecord


@dataclass(frozen=True)
class Node:
    """One execution in a graph. `reused`: it belongs to an earlier run whose result this one took."""

    key: str  # unique in its graph: `train_student cd-4`, and with ` #2` where a name comes twice
    record: Record
    reused: bool = False


@dataclass(frozen=True)
class Edge:
    """An artifact that one node made and another read."""

    maker: str  # key of a node
    reader: str
    input: str  # the reader's name for it
    artifact: Artifact


@dataclass(frozen=True)
class Source:
    """An artifact that no known execution made: given images, an imported teacher."""

    reader: str
    artifact: Artifact  # as the reader names it


@dataclass(frozen=True)
class Graph:
    """A run. Nodes are in an order in which they can run."""

    name: str  # as the user named it: HEAD, a run id, a folder
    by: By
    run: str  # id of the run or git revision
    nodes: dict[str, Node]
    edges: tuple[Edge, ...]
    sources: tuple[Source, ...] = ()
    asked: RunRecord | None = None  # what a pipeline run was asked for
    warnings: tuple[str, ...] = field(default=())

    def upstream(self, key: str) -> Iterator[Edge]:
        """Edges into a node."""
        return (edge for edge in self.edges if edge.reader == key)

    def downstream(self, key: str) -> Iterator[Edge]:
        """Edges out of a node."""
        return (edge for edge in self.edges if edge.maker == key)


def build(
    name: str,
    by: By,
    run: str,
    records: Iterable[tuple[Record, bool]],
    asked: RunRecord | None = None,
    warnings: Iterable[str] = (),
) -> Graph:
    """Join executions (each with whether it is reused) by the md5 of what they made and read.

    Where several made the same bytes, the last that ended before the reader began is its maker. An execution that did
    not succeed made nothing.
    """
    listed = sorted(records, key=lambda pair: (pair[0].started is None, pair[0].started, pair[0].name, pair[0].id))
    keyed: dict[str, Node] = {}
    counts: Counter[str] = Counter()
    for record, reused in listed:
        counts[record.name] += 1
        key = record.name if counts[record.name] == 1 else f"{record.name} #{counts[record.name]}"
        keyed[key] = Node(key, record, reused)
    makers: dict[str, list[str]] = {}
    for key, node in keyed.items():
        for artifact in node.record.outputs if node.record.status == "succeeded" else ():
            makers.setdefault(artifact.md5, []).append(key)
    try:
        edges, sources, order = _joined(keyed, makers, strict=False)
    except graphlib.CycleError:  # two that swapped bytes, and clocks that say it cannot be
        edges, sources, order = _joined(keyed, makers, strict=True)
    nodes = {key: keyed[key] for key in order}
    return Graph(name, by, run, nodes, tuple(edges), tuple(sources), asked, tuple(warnings))


def _joined(
    nodes: dict[str, Node], makers: dict[str, list[str]], strict: bool
) -> tuple[list[Edge], list[Source], list[str]]:
    """Edges, sources, and the nodes' keys in an order in which they can run."""
    edges, sources = [], []
    order = graphlib.TopologicalSorter({key: [] for key in nodes})
    for key, node in nodes.items():
        for artifact in node.record.inputs:
            maker = _maker([k for k in makers.get(artifact.md5, []) if k != key], nodes, node.record, strict)
            if maker is None:
                sources.append(Source(key, artifact))
            else:
                edges.append(Edge(maker, key, artifact.name, artifact))
                order.add(key, maker)
    return edges, sources, list(order.static_order())


def _maker(candidates: list[str], nodes: dict[str, Node], reader: Record, strict: bool) -> str | None:
    """The last of `candidates`, which are in order of time, that had ended when the reader began.

    Clocks of two machines differ: where none had, it is the last, unless time is `strict`.
    """
    if reader.started is not None:
        before = [k for k in candidates if (ended := nodes[k].record.ended) is None or ended <= reader.started]
        candidates = before if before or strict else candidates
    return candidates[-1] if candidates else None
