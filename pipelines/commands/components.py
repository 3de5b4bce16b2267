"""`mcm pipeline components`: READMEs and `component.yaml` from what each component says of itself."""

import argparse
import json
import sys

from components.runner import command


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="mcm pipeline components", description="Write README.md and component.yaml of every component."
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 where something is stale")
    parser.add_argument("--json", action="store_true", help="print what changed as JSON")
    args = parser.parse_args(argv)
    from pipelines.catalog import refresh
    from pipelines.images import image

    changed = refresh(image("cpu").reference, args.check)
    rows = [{"file": str(file), "state": state} for file, state in changed]
    if args.json:
        print(json.dumps(rows, indent=2))
    else:
        print("\n".join(f"{row['file']}: {row['state']}" for row in rows) or "nothing is stale")
    if changed and args.check:
        sys.exit(1)


if __name__ == "__main__":
    main()
