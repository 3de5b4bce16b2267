"""What `submit` and `schedule` have in common: options that say what runs, the checks, and images copied first."""

import argparse
import json
import secrets
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from mcm.errors import UserError
from pipelines.parameters import add_parameters
from pipelines.preflight import NotReadyError, Ready, Request, preflight
from pipelines.runs import EXPERIMENT, Submission, pipeline_body


def add_request(parser: argparse.ArgumentParser) -> None:
    """The options that say what is run."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--profile", metavar="NAME", help="hardware: a name of `mcm pipeline profiles`, or a YAML file")
    what.add_argument("--package", type=Path, metavar="FILE", help="a file that `mcm pipeline compile` wrote")
    add_parameters(parser)
    parser.add_argument(
        "--from",
        dest="base",
        metavar="REV",
        help="start with what a git revision, a DVC experiment or `workspace` has: its parameters, and its stages' "
        "results from DVC's cache, which go to the store",
    )
    parser.add_argument(
        "--store", default="", metavar="URI", help="where checkpoints, data and results live: gs://bucket/prefix"
    )
    parser.add_argument("--data", metavar="FOLDER|URI", help="your own images; a local folder is copied to the store")
    parser.add_argument("--dataset", metavar="URI", help="a data set that prepare made, instead of making one")
    parser.add_argument("--teacher", metavar="URI", help="a teacher that was trained, instead of training one")
    parser.add_argument("--image", metavar="REFERENCE", help="with --profile: this image instead of the locked one")
    parser.add_argument("--experiment", default=EXPERIMENT, help="the experiment on the server (%(default)s)")
    parser.add_argument("--name", help="a name for it (default: the profile and the time)")
    parser.add_argument("--service-account", metavar="NAME", help="Kubernetes service account of the pods")
    parser.add_argument("--no-cache", action="store_true", help="run every task, also those that the server has done")
    parser.add_argument("--allow-unpinned", action="store_true", help="allow images that are not by digest or outdated")
    parser.add_argument("--check", action="store_true", help="only check what can be checked without the server")


def checked(args: argparse.Namespace) -> Ready:
    """The checks; with `--json` what is missing goes to stdout too."""
    names = (
        "profile",
        "package",
        "params",
        "changes",
        "store",
        "data",
        "dataset",
        "teacher",
        "image",
        "allow_unpinned",
        "base",
    )
    if args.base is not None and args.params != Path("params.yaml"):
        raise UserError(f"--from and --params {args.params}: {args.base} has its own parameters; change them with -S")
    try:
        ready = preflight(Request(**{name: getattr(args, name) for name in names}))
    except NotReadyError as error:
        if args.json:
            print(json.dumps({"ready": False, "findings": error.findings}, indent=2))
        if len(error.findings) == 1:
            raise
        print("\n".join(f"  - {finding}" for finding in error.findings), file=sys.stderr)
        raise UserError(f"not ready, and nothing was sent: {len(error.findings)} things, listed above") from None
    if args.check:
        told = {"ready": True, "findings": [], "profile": ready.profile, "data": ready.upload and ready.upload[1]}
        if args.base is not None:
            keys = ("stage", "task", "reason")
            stages = [{**{key: getattr(p, key) for key in keys}, "reused": not p.reason} for p in ready.pieces]
            told["from"] = {"revision": args.base, "stages": stages}
        lines = [f"ready: profile {ready.profile}; nothing was sent", *told_pieces(args.base, ready)]
        print(json.dumps(told, indent=2) if args.json else "\n".join(lines))
    return ready


def told_pieces(base: str | None, ready: Ready) -> Iterator[str]:
    """Which stages are there already, and why others are not, a line each."""
    if ready.pieces:
        there = [piece for piece in ready.pieces if not piece.reason]
        yield f"from {base}: {len(there)} of {len(ready.pieces)} stages are there already"
        for piece in ready.pieces:
            yield f"  {piece.name:<24} {f'anew: {piece.reason}' if piece.reason else 'reused'}"


def send_first(args: argparse.Namespace, ready: Ready) -> None:
    """Copy to the store what the run will look for there. All of it is named for its content: it is copied once."""
    if ready.pieces:
        from pipelines.lineage.home.seed import send

        print("\n".join(told_pieces(args.base, ready)), file=sys.stderr)
        send(ready.pieces, str(ready.arguments["store"]))
    if ready.upload:
        from components.storage import upload

        path, uri = ready.upload
        print(f"copying {path} to {uri}", file=sys.stderr)
        upload(path, uri)


def submission(args: argparse.Namespace, ready: Ready) -> Submission:
    """What is sent."""
    from importlib.metadata import version

    # The default name tells runs of one minute apart.
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    return Submission(
        pipeline=pipeline_body(ready.documents, cache=not args.no_cache),
        arguments=ready.arguments,
        name=args.name or f"{ready.profile}-{stamp}-{secrets.token_hex(2)}",
        experiment=args.experiment,
        service_account=args.service_account,
        note=f"multistep-consistency {version('multistep-consistency')}, profile {ready.profile}",
    )
