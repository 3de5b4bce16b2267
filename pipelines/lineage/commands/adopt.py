"""`mcm lineage adopt`: a pipeline run becomes the state of this workspace, and an experiment of DVC."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from components.runner import command
from pipelines.client import add_connection
from pipelines.lineage.options import add_stores

if TYPE_CHECKING:
    from pipelines.lineage.store.records import LineageStore


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="mcm lineage adopt",
        description="Take a run of the pipeline, on a cluster or by the local runner, home: params.yaml says what it "
        "was asked for, its outputs lie where dvc.yaml has them, dvc.lock names them, and DVC lists the experiment.",
    )
    parser.add_argument("run", help="id of the run in a lineage store, or id or name at the server")
    add_stores(parser)
    parser.add_argument("--name", metavar="EXP", help="name of the experiment (default: run- and the run's id)")
    parser.add_argument("--check", action="store_true", help="only say what would be done")
    add_connection(parser)
    args = parser.parse_args(argv)
    from pipelines.lineage.home.adopt import Adoption
    from pipelines.lineage.home.workspace import BACK
    from pipelines.lineage.options import stores
    from pipelines.lineage.resolve import resolve

    places = stores(args)
    graph = resolve(args.run, places, args)
    if not any(store.has(graph.run) for store in places):  # a folder or the server named it
        places += _named(args, graph.run)
    adoption = Adoption(graph, places, args.name)
    plan = adoption.plan()
    size = sum(output.made.size or 0 for output in plan.missing)
    if not args.check:
        adoption.apply(plan)
    if args.json:
        told = {"run": plan.run, "experiment": plan.experiment, "adopted": not args.check, "bytes": size}
        rows = [{"path": str(o.path), "md5": o.made.md5, "here": o in plan.here} for o in plan.outputs]
        print(json.dumps({**told, "outputs": rows}, indent=2))
        return
    brought = f"{len(plan.outputs)} artifacts, {len(plan.missing)} of them brought ({size / 1e6:.1f} MB)"
    if args.check:
        print(f"run {plan.run} can be adopted as experiment {plan.experiment}: {brought}; nothing was changed")
        return
    print(f"adopted run {plan.run} as experiment {plan.experiment}: {brought}")
    print(f"the workspace holds it now; back: `{BACK}`; here again: `dvc exp apply {plan.experiment}`")


def _named(args: argparse.Namespace, run: str) -> "list[LineageStore]":
    """The store that a folder of records names, or the server: the run's artifacts lie beside it."""
    from components.storage import is_remote
    from pipelines.lineage.store.records import LineageStore

    if not is_remote(args.run) and not Path(args.run).is_dir():
        from pipelines.lineage.kubeflow.runs import own_store

        return own_store(run, args)
    place = args.run.rstrip("/") if is_remote(args.run) else Path(args.run).absolute().as_posix()
    return [LineageStore(place.rpartition("/")[0] if place.endswith(f"/{run}") else place)]


if __name__ == "__main__":
    main()
