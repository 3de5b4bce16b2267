"""`mcm pipeline compile`: the pipeline as YAML, one file for each hardware profile."""

import argparse
import json
import sys
from pathlib import Path

from components.runner import command
from pipelines.parameters import add_parameters, load

FOLDER = Path("pipelines/compiled")


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="mcm pipeline compile", description="Write the pipeline for a cluster.")
    add_parameters(parser)
    parser.add_argument("--profile", action="append", metavar="NAME", help="name or file; may be given often (all)")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder, or a .yaml for one profile (%(default)s)")
    parser.add_argument("--given-dataset", action="store_true", help="import a data set (parameter dataset_uri)")
    parser.add_argument("--given-teacher", action="store_true", help="import a teacher (parameter teacher_uri)")
    parser.add_argument("--image", help="run every task in this image instead of the locked one")
    parser.add_argument("--allow-unpinned", action="store_true", help="allow an image that is not by digest")
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 where a file is stale")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")
    args = parser.parse_args(argv)
    from components.kubeflow.plan import check
    from mcm.artifacts import atomic_file
    from mcm.errors import UserError
    from pipelines.compiler import PINNED, compile_pipeline, same
    from pipelines.images import image
    from pipelines.pipeline import Given
    from pipelines.profile import load_profile, profiles

    params = load(args.params, args.changes)
    check(params)
    chosen = [load_profile(name) for name in args.profile or profiles()]
    if args.out.suffix == ".yaml" and len(chosen) > 1:
        raise UserError(f"--out {args.out}: one file, and {len(chosen)} profiles; name one with --profile")
    written, stale = [], []
    for profile in chosen:
        reference = args.image or image(profile.image).reference
        if not PINNED.fullmatch(reference) and not args.allow_unpinned:
            raise UserError(f"--image {reference}: not by digest; name it as repository@sha256:... or --allow-unpinned")
        text = compile_pipeline(profile, reference, params, Given(args.given_dataset, args.given_teacher))
        file = args.out if args.out.suffix == ".yaml" else args.out / f"{profile.name}.yaml"
        row = {"profile": profile.name, "file": str(file), "image": reference}
        if file.is_file() and same(file.read_text(), text):
            written.append({**row, "state": "unchanged"})
            continue
        if args.check:
            stale.append({**row, "state": "stale"})
            continue
        with atomic_file(file) as temporary:
            temporary.write_text(text)
        written.append({**row, "state": "written"})
    rows = [*written, *stale]
    print(json.dumps(rows, indent=2) if args.json else "\n".join(f"{row['file']}: {row['state']}" for row in rows))
    if stale:
        sys.exit(1)


if __name__ == "__main__":
    main()
