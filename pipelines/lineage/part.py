"""Nodes of a graph by what a user calls them, and the part of a graph that leads to a node or follows from it."""

import dataclasses
import difflib

from mcm.errors import UserError
from pipelines.lineage.graph import Graph

SHORT = 6  # fewest characters of an md5 or id


def find_node(graph: Graph, name: str) -> str:
    """The key of a node, from the key itself, a task or stage that no other has, or the begin of a record's id or of
    an output's md5. UserError where there is none, or several.
    """
    if name in graph.nodes:
        return name
    nodes = graph.nodes.items()
    found = [key for key, node in nodes if name in (node.record.task, node.record.stage)]
    if not found and len(name) >= SHORT:
        ids = {key: [node.record.id, *(artifact.md5 for artifact in node.record.outputs)] for key, node in nodes}
        found = [key for key, texts in ids.items() if any(text.startswith(name) for text in texts)]
    if not found:
        close = difflib.get_close_matches(name, list(graph.nodes), n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"it has {', '.join(graph.nodes)}"
        raise UserError(f"{graph.name}: has no stage or output '{name}'; {hint}")
    if len(found) > 1:
        raise UserError(f"{graph.name}: '{name}' may be {', '.join(found)}; name one of them")
    return found[0]


def part(graph: Graph, up: str | None = None, down: str | None = None) -> Graph:
    """What the node `up` follows from, or what follows from the node `down`, with the node; with both, what is between.

    Artifacts that cross the border are left out.
    """
    kept = set(graph.nodes)
    if up is not None:
        makers = [(edge.reader, edge.maker) for edge in graph.edges]
        kept &= _reached(up, makers)
    if down is not None:
        kept &= _reached(down, [(edge.maker, edge.reader) for edge in graph.edges])
    if not kept:
        raise UserError(f"{graph.name}: nothing of {up} follows from {down}; turn them round or leave one out")
    return dataclasses.replace(
        graph,
        nodes={key: node for key, node in graph.nodes.items() if key in kept},
        edges=tuple(edge for edge in graph.edges if {edge.maker, edge.reader} <= kept),
        sources=tuple(source for source in graph.sources if source.reader in kept),
    )


def _reached(start: str, steps: list[tuple[str, str]]) -> set[str]:
    """`start` and all that steps lead to from there."""
    ways: dict[str, list[str]] = {}
    for here, there in steps:
        ways.setdefault(here, []).append(there)
    found, open_ = {start}, [start]
    while open_:
        new = set(ways.get(open_.pop(), ())) - found
        found |= new
        open_ += new
    return found
