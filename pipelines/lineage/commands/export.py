"""`mcm lineage export`: a run as OpenLineage events, as W3C PROV, or the provenance of a checkpoint."""

import argparse
import contextlib
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

from components.runner import command
from components.storage import is_remote
from mcm.artifacts import atomic_file
from mcm.errors import UserError
from pipelines.client import add_connection
from pipelines.lineage.graph import Graph
from pipelines.lineage.options import USUAL, add_stores, stores

FORMATS = ("openlineage", "prov", "slsa")


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="mcm lineage export",
        description="Write a run for other tools: OpenLineage events, W3C PROV, or the in-toto/SLSA provenance of a "
        "checkpoint, which `mcm lineage verify` checks.",
    )
    parser.add_argument("run", metavar="RUN", help="a run, as `mcm lineage show` names one")
    parser.add_argument("--format", choices=FORMATS, required=True)
    parser.add_argument(
        "--stage",
        metavar="KEY",
        help="slsa: the stage that made the checkpoint, as 'train_student cd-4'; else: only this and what led to it",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to write (default: standard output)")
    parser.add_argument(
        "--sign",
        type=Path,
        metavar="KEY",
        help="slsa: sign with this private key (PEM, EC); --out is then a DSSE envelope, and FILE.sig beside it "
        "model-signing's signature of the checkpoint. $MCM_SIGNING_PASSWORD is the key's password",
    )
    parser.add_argument(
        "--prov-format", choices=("json", "provn"), default="json", help="prov: PROV-JSON or PROV-N (%(default)s)"
    )
    add_stores(parser)
    add_connection(parser, as_json=False)
    args = parser.parse_args(argv)
    if args.sign and args.format != "slsa":
        raise UserError(f"--sign: signs the provenance of a checkpoint; add --format slsa, not {args.format}")
    if args.sign and not args.out:
        raise UserError("--sign: writes two files, FILE and FILE.sig; name FILE with --out")
    from pipelines.lineage.export.names import needs_extra
    from pipelines.lineage.part import find_node, part
    from pipelines.lineage.resolve import resolve

    graph = resolve(args.run, stores(args), args)
    for warning in graph.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    with needs_extra():
        if args.format == "slsa":
            _export_provenance(args, graph)
            return
        if args.stage:
            graph = part(graph, up=find_node(graph, args.stage))
        if args.format == "prov":
            from pipelines.lineage.export.prov import document

            text = f"{document(graph).serialize(format=args.prov_format)}\n"
        else:
            from pipelines.lineage.export.openlineage import events

            text = "".join(f"{event}\n" for event in events(graph, datetime.now(UTC)))
    _write(args.out, text)


def _export_provenance(args: argparse.Namespace, graph: Graph) -> None:
    from pipelines.lineage.export.checkpoint import bytes_of, maker_of
    from pipelines.lineage.export.signing import SigningKey
    from pipelines.lineage.export.slsa import statement

    key = SigningKey(args.sign) if args.sign else None  # a wrong key is found before anything is fetched
    node, artifact = maker_of(graph, args.stage)
    with bytes_of(artifact, node, _places(args)) as folder:
        if args.out and args.out.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{args.out}: lies in the checkpoint that it is about; name another place with --out")
        text = json.dumps(statement(graph, node, artifact, folder), indent=2) + "\n"
        if key is None:
            _write(args.out, text)
            return
        with contextlib.ExitStack() as both:
            # The statement appears last, so that it is never there without the signature beside it.
            envelope = both.enter_context(atomic_file(args.out))
            signature = both.enter_context(atomic_file(args.out.with_name(f"{args.out.name}.sig")))
            key.sign_folder(folder, signature)
            envelope.write_text(key.envelope(text.encode()))


def _places(args: argparse.Namespace) -> list[str | Path]:
    """Lineage stores, beside which the bytes may lie: those that were asked, the workspace's, and that of a run which
    was named by its folder.
    """
    places: list[str | Path] = [*(store.place for store in stores(args)), USUAL[0]]
    if is_remote(args.run):
        return [*places, args.run, args.run.rstrip("/").rpartition("/")[0]]
    return [*places, args.run, Path(args.run).resolve().parent] if Path(args.run).is_dir() else places


def _write(out: Path | None, text: str) -> None:
    if out is None:
        sys.stdout.write(text)
        return
    with atomic_file(out) as temporary:
        temporary.write_text(text)


if __name__ == "__main__":
    main()
