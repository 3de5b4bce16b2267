"""`python -m components.lineage.schema FOLDER`: the JSON schemas of records, as they are published."""

import argparse
from pathlib import Path

from components.lineage.record import VERSION, Part, Record, RunRecord
from mcm.artifacts import write_json

FILES: dict[str, type[Part]] = {f"lineage-record-{VERSION}.json": Record, f"lineage-run-{VERSION}.json": RunRecord}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m components.lineage.schema", description="Write the JSON schemas.")
    parser.add_argument("folder", type=Path, help="where to, such as docs/schemas")
    args = parser.parse_args(argv)
    for name, kind in FILES.items():
        write_json(args.folder / name, kind.model_json_schema(mode="serialization"))


if __name__ == "__main__":
    main()
