"""A lineage graph in the terminal, every execution once, below what it all follows from; and as JSON."""

import functools
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from components.lineage.record import Artifact, Record
from pipelines.lineage.graph import Graph, Node
from pipelines.tokens import duration

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from pipelines.lineage.resolve import Found

COLOURS = {"executed": "green", "cached": "cyan", "reused": "blue", "stopped": "yellow", "failed": "red"}
UNRECORDED = "no record"  # known from what others say of it: a lock, a server
MD5 = 7  # characters of an md5 that are shown


def as_table(graph: Graph, title: str | None = None) -> "Table":
    """The graph from its data downwards: the tree at the left, and of every execution its state, outputs, duration, a
    figure, and what it read besides what the nearest line above it made. Other runs are numbered, and named below.
    """
    from rich.table import Table
    from rich.text import Text

    above, runs = parents(graph), dict[str, int]()
    rows = []
    for line, key in _lines(graph, above):
        node, cost = graph.nodes[key], graph.nodes[key].record.cost
        verb, _, run = state(node).partition(" from ")
        number = f" [{runs.setdefault(run, len(runs) + 1)}]" if run else ""
        rows.append(
            {
                "stage": Text(line),
                "state": Text(f"{verb}{number}", COLOURS.get(verb, "dim")),
                "made": Text(" ".join(short(artifact) for artifact in _shown(node.record))),
                "took": Text(_took(cost.seconds) if cost and not node.record.cached_from else ""),
                "figure": Text(figure(node.record)),
                # Cut where there is no room: a folded line would break the tree.
                "also reads": Text(", ".join(_also_reads(graph, key, above[key])), "dim", no_wrap=True),
            }
        )
    table = Table(title=title or headline(graph), title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.padding = (0, 2, 0, 0)
    columns = [name for name in rows[0] if any(row[name].plain for row in rows)] if rows else []
    for name in columns:
        table.add_column(name, no_wrap=name != "also reads", overflow="ellipsis")
    for row in rows:
        table.add_row(*(row[name] for name in columns))
    table.caption = Text("\n".join(f"[{number}] {run}" for run, number in runs.items()), "dim") if runs else None
    table.caption_justify = "left"
    return table


def about(found: "Found") -> "Group":
    """An artifact: what it is, and the executions that made and used it, newest first."""
    from rich.console import Group
    from rich.text import Text

    artifact = found.artifact
    files = f", {artifact.files} files" if artifact.files else ""
    size = f", {artifact.size:,} bytes" if artifact.size is not None else ""
    lines = [Text(f"{artifact.md5}: {artifact.path or artifact.name}{files}{size}")]
    for verb, records in (("made", found.made), ("used", found.used)):
        lines.append(Text(f"{verb} by" if records else f"{verb} by no known run", style="bold"))
        width = max((len(record.name) for record in records), default=0)
        lines += [Text(f"  {record.name:<{width}}  {_when(record)}  {record.run.id}") for record in records]
    return Group(*lines)


def _when(record: Record) -> str:
    return f"{record.ended.astimezone():%Y-%m-%d %H:%M}" if record.ended else f"{UNRECORDED:<16}"


def headline(graph: Graph) -> str:
    """One line: what was asked for, which run that is, how large it is, and when it began."""
    run = (
        ""
        if graph.run == graph.name
        else f" ({graph.run[:9] if graph.by == 'dvc' and len(graph.run) == 40 else graph.run})"
    )
    begun = [node.record.started for node in graph.nodes.values() if node.record.started and not node.reused]
    when = f", begun {min(begun).astimezone():%Y-%m-%d %H:%M}" if begun else ""
    count = len(graph.nodes)
    return f"{graph.name}{run}: {graph.by}, {count} execution{'s' if count != 1 else ''}{when}"


def state(node: Node) -> str:
    """What became of an execution: executed, cached or reused from another run, stopped, failed, or not known."""
    record = node.record
    if record.status != "succeeded":
        return record.status
    if record.cached_from:
        return f"cached from {record.cached_from.run}"
    if node.reused:
        return f"reused from {record.run.id}"
    return "executed" if record.started else UNRECORDED


def figure(record: Record) -> str:
    """The figure that tells most: the lowest FID and whose it is, or the last loss."""
    values = {name: value for name, value in record.metrics.items() if name == "fid" or name.endswith(".fid")}
    if values:
        name = min(values, key=lambda name: values[name])
        return f"FID {values[name]:.4g} {name.rpartition('.')[0]}".strip()
    return f"loss {record.metrics['loss']:.4g}" if "loss" in record.metrics else ""


def short(artifact: Artifact) -> str:
    """The begin of an artifact's md5."""
    return artifact.md5[:MD5]


def parents(graph: Graph) -> dict[str, str | None]:
    """For each node the nearest one through which every way to it leads, so that the graph reads as a tree.

    A way that a longer one goes round does not count: an evaluation stands below its student, although both read the
    data. Topological order, as the graph's.
    """
    makers = _makers(graph)
    before: dict[str, set[str]] = {}
    found: dict[str, str | None] = {}
    depth: dict[str | None, int] = {None: 0}

    def common(a: str | None, b: str | None) -> str | None:
        while a != b:
            if depth[a] >= depth[b]:
                a = found[a] if a else None
            else:
                b = found[b] if b else None
        return a

    for key in graph.nodes:
        before[key] = makers[key].union(*(before[maker] for maker in makers[key]))
        last: list[str | None] = [
            maker for maker in makers[key] if not any(maker in before[other] for other in makers[key])
        ]
        found[key] = functools.reduce(common, last) if last else None
        depth[key] = depth[found[key]] + 1
    return found


def as_json(graph: Graph) -> dict[str, Any]:
    """The graph with full records, for machines."""
    return {
        "name": graph.name,
        "by": graph.by,
        "run": graph.run,
        "nodes": [
            {"key": key, "state": state(node), "reused": node.reused, "record": node.record.model_dump(mode="json")}
            for key, node in graph.nodes.items()
        ],
        "edges": [
            {"maker": e.maker, "reader": e.reader, "input": e.input, "artifact": e.artifact.model_dump(mode="json")}
            for e in graph.edges
        ],
        "sources": [{"reader": s.reader, "artifact": s.artifact.model_dump(mode="json")} for s in graph.sources],
        "asked": graph.asked.model_dump(mode="json") if graph.asked else None,
        "warnings": list(graph.warnings),
    }


def _makers(graph: Graph) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {key: set() for key in graph.nodes}
    for edge in graph.edges:
        found[edge.reader].add(edge.maker)
    return found


def _lines(graph: Graph, above: dict[str, str | None]) -> Iterator[tuple[str, str]]:
    """The tree line by line, drawn, each with the key of its node. What can run earlier stands above."""
    makers, level = _makers(graph), dict[str, int]()
    for key in graph.nodes:
        level[key] = 1 + max((level[maker] for maker in makers[key]), default=0)
    below: dict[str | None, list[str]] = {}
    for key in sorted(graph.nodes, key=lambda key: (level[key], _natural(key)), reverse=True):
        below.setdefault(above[key], []).append(key)  # the last one first
    open_ = [(key, "", "") for key in below.get(None, ())]
    while open_:
        key, before, around = open_.pop()
        yield f"{before}{key}", key
        for index, child in enumerate(below.get(key, ())):
            own, further = ("├── ", "│   ") if index else ("└── ", "    ")
            open_.append((child, around + own, around + further))


def _natural(text: str) -> list[tuple[int, str]]:
    """Sorts cd-2 before cd-16."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", text)]


def _took(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 9.95 else duration(seconds)


def _shown(record: Record) -> list[Artifact]:
    """Outputs whose md5 says something, if there are any: measured ones differ each time."""
    return [artifact for artifact in record.outputs if not artifact.measured] or list(record.outputs)


def _also_reads(graph: Graph, key: str, above: str | None) -> Iterator[str]:
    """What a node read besides what its parent made: makers, those of one stage counted, and what nobody made."""
    stages: dict[str, list[str]] = {}
    for maker in sorted({edge.maker for edge in graph.upstream(key)} - {above}, key=list(graph.nodes).index):
        stages.setdefault(graph.nodes[maker].record.stage, []).append(maker)
    for stage, makers in stages.items():
        yield makers[0] if len(makers) == 1 else f"{len(makers)} of {stage}"
    for source in graph.sources:
        if source.reader == key:
            yield f"{source.artifact.name} {short(source.artifact)} (given)"
