"""`mcm pipeline images`: build the images of the stages, or say whether those in the lock are of this tree."""

import argparse
import json
import sys

from components.runner import command


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="mcm pipeline images", description="Build the images of the stages, and name them by digest."
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="exit status 1 where an image is not of this tree")
    what.add_argument("--build", action="store_true", help="build, and put the digest into images.lock.json")
    what.add_argument("--lock", metavar="REFERENCE", help="put an image that was built elsewhere into images.lock.json")
    parser.add_argument("--target", action="append", metavar="NAME", help="cpu, cuda or tpu; may be given often (all)")
    parser.add_argument("--engine", choices=("podman", "docker"), default="podman", help="(%(default)s)")
    parser.add_argument("--registry", default="localhost", help="where images lie (%(default)s: this machine alone)")
    parser.add_argument("--push", action="store_true", help="push what was built")
    parser.add_argument("--base", help="base image instead of the Containerfile's")
    parser.add_argument("--network", help="network of the build, such as host")
    parser.add_argument("--json", action="store_true", help="print as JSON")
    args = parser.parse_args(argv)
    from mcm.errors import UserError
    from pipelines import images

    rows = [images.image(target) for target in args.target or images.TARGETS]
    if args.build:
        rows = [
            images.build(row.target, args.engine, args.registry, args.base, args.network, args.push) for row in rows
        ]
    elif args.lock:
        if len(rows) > 1:
            raise UserError("--lock: one image, and all targets; name one with --target")
        repository, _, digest = args.lock.partition("@")
        if not images.DIGEST.fullmatch(digest):
            raise UserError(f"--lock {args.lock}: not by digest; name it as repository@sha256:...")
        source = images.source_hash(rows[0].target)
        rows = [rows[0].model_copy(update={"repository": repository, "digest": digest, "source": source})]
        images.record(rows[0])
    if args.json:
        shown = [{**row.resolved(), "state": row.state(), "local": row.local} for row in rows]
        print(json.dumps(shown, indent=2))
    else:
        for row in rows:
            print(f"{row.target:<5} {row.state():<10} {row.reference if row.pinned else '-'}")
    if args.check and any(row.state() != "current" for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
