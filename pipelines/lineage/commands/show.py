"""`mcm lineage show`: a run's graph as a tree, or who made and used an artifact."""

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from components.runner import command
from pipelines.client import add_connection
from pipelines.lineage.options import add_stores, stores
from pipelines.lineage.tree import about, as_json, as_table

if TYPE_CHECKING:
    from pipelines.lineage.graph import Graph
    from pipelines.lineage.resolve import Found

WIDTH = 200  # where the output is no terminal


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="mcm lineage show",
        description="What made this? The executions of a run, and the earlier ones that it took from, as a tree.",
    )
    parser.add_argument(
        "run",
        help="a git revision, a DVC experiment, a run id or its begin, `workspace`, a folder of records, a Kubeflow "
        "run, or an artifact's md5: then which runs made and used it, and what led to it",
    )
    parser.add_argument("--up", metavar="NODE", help="only what leads to this stage, task or output md5")
    parser.add_argument("--down", metavar="NODE", help="only what follows from this stage, task or output md5")
    parser.add_argument("--record", metavar="NODE", help="print the record of this stage, task or output md5")
    add_stores(parser)
    add_connection(parser)
    args = parser.parse_args(argv)
    from pipelines.lineage.part import find_node, part
    from pipelines.lineage.resolve import find_artifact, is_artifact, resolve

    places = stores(args)
    found = find_artifact(args.run, places) if is_artifact(args.run) else None
    graph = found.graph if found else resolve(args.run, places, args)
    for warning in graph.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if args.record:
        print(graph.nodes[find_node(graph, args.record)].record.model_dump_json(indent=2))
        return
    if args.up or args.down:
        graph = part(graph, *(find_node(graph, name) if name else None for name in (args.up, args.down)))
    if args.json:
        print(json.dumps(_about(found, graph) if found else as_json(graph), indent=2))
        return
    _print(found, graph)


def _about(found: "Found", graph: "Graph") -> dict[str, Any]:
    """An artifact for machines."""
    made, used = ([record.model_dump(mode="json") for record in records] for records in (found.made, found.used))
    return {"artifact": found.artifact.model_dump(mode="json"), "made": made, "used": used, "graph": as_json(graph)}


def _print(found: "Found | None", graph: "Graph") -> None:
    from rich.console import Console, Group

    shown = Group(about(found), "") if found else Group()
    if graph.nodes:
        shown.renderables.append(as_table(graph, "what led to it" if found else None))
    console = Console(highlight=False)
    if console.is_terminal:
        console.print(shown)
        return
    console = Console(highlight=False, width=WIDTH)
    with console.capture() as text:
        console.print(shown)
    print("\n".join(line.rstrip() for line in text.get().splitlines()))


if __name__ == "__main__":
    main()
