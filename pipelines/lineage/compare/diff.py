"""Two runs compared, and the JSON of it, which text, Markdown and page are made from."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mcm.errors import UserError
from pipelines.lineage.compare.causes import STATES, Cause, Compared, Comparison
from pipelines.lineage.compare.joined import Bytes
from pipelines.lineage.graph import Graph

COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Diff:
    """What `mcm lineage diff` says. Nodes are in an order in which they can run."""

    a: Graph
    b: Graph
    nodes: tuple[Compared, ...]
    causes: tuple[Cause, ...]
    without_effect: tuple[Cause, ...]
    edges: tuple[tuple[str, str, str, str], ...]  # maker, reader, input, and which run has it: a, b, both
    sources: tuple[tuple[str, Bytes], ...]  # reader and input
    warnings: tuple[tuple[str, ...], tuple[str, ...]]  # of a, of b

    def json(self) -> dict[str, Any]:
        """For machines, the page and the text: docs/lineage.md explains the fields."""
        states = Counter(node.state for node in self.nodes)
        return {
            "version": 1,
            "a": _side(self.a, self.warnings[0]),
            "b": _side(self.b, self.warnings[1]),
            "counts": {state: states[state] for state in STATES},
            "causes": [_cause(cause) for cause in self.causes],
            "without_effect": [_cause(cause) for cause in self.without_effect],
            "nodes": [_node(node) for node in self.nodes],
            "edges": [dict(zip(("maker", "reader", "input", "in"), edge, strict=True)) for edge in self.edges],
            "sources": [{"reader": reader, "name": s.name, "a": s.a, "b": s.b} for reader, s in self.sources],
        }


def compare(a: Graph, b: Graph) -> Diff:
    """Compare two runs, each node and input once. UserError where they have no stage in common."""
    if not _stages(a) & _stages(b):
        raise UserError(
            f"{a.name} and {b.name}: runs of different pipelines, which have no stage in common; "
            "choose two runs of one pipeline"
        )
    found = Comparison(a, b)
    edges, sources = tuple(found.joined.edges()), tuple(found.joined.sources())
    return Diff(a, b, found.nodes, found.causes, found.without_effect, edges, sources, found.warnings)


def _stages(graph: Graph) -> set[str]:
    return {node.record.stage for node in graph.nodes.values()}


def _side(graph: Graph, warnings: Sequence[str]) -> dict[str, Any]:
    own = [node.record for node in graph.nodes.values() if not node.reused]
    started = min((record.started for record in own if record.started), default=None)
    revision = {graph.run} if COMMIT.fullmatch(graph.run) else set()
    commits = revision or {record.code.commit for record in own if record.code and record.code.commit}
    return {
        "name": graph.name,
        "by": graph.by,
        "run": graph.run,
        "started": started.isoformat() if started else None,
        "commit": commits.pop() if len(commits) == 1 else None,
        "warnings": list(warnings),
    }


def _cause(cause: Cause) -> dict[str, Any]:
    return {
        "kind": cause.kind,
        "name": cause.name,
        "before": cause.before,
        "after": cause.after,
        "at": list(cause.at),
    }


def _node(node: Compared) -> dict[str, Any]:
    record = (node.b or node.a).record  # type: ignore[union-attr]
    return {
        "key": node.key,
        "stage": record.stage,
        "task": record.task,
        "state": node.state,
        "role": node.role,
        "a_key": node.a.key if node.a else None,
        "b_key": node.b.key if node.b else None,
        "causes": list(node.causes),
        "changes": [change.json() for change in node.changes],
        "inputs": [_bytes(read) for read in node.inputs],
        "outputs": [_bytes(made) for made in node.outputs],
        "metrics": [{"name": f.name, "a": f.a, "b": f.b, "measured": f.measured} for f in node.metrics],
        "notes": list(node.notes),
        "a": node.a.record.model_dump(mode="json") if node.a else None,
        "b": node.b.record.model_dump(mode="json") if node.b else None,
    }


def _bytes(both: Bytes) -> dict[str, Any]:
    return {"name": both.name, "a": both.a, "b": both.b, "equal": both.equal, "measured": both.measured}
