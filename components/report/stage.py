"""Stage report: everything the other stages left -> one page, its Markdown twin, and the figures that DVC reads."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.report import render
from components.report.checks import as_json, checks
from components.report.collect import collect
from components.report.compare import compare, dial, summary
from components.report.content import build
from mcm.artifacts import atomic_folder, write_json


def report(params: Mapping[str, Any], artifacts: Path, out: Path) -> None:
    """Write the report on what lies under `artifacts` to the folder `out`, replaced as a whole.

    `params` is the whole of `params.yaml`; the report shows it and reads no section of it. `artifacts` holds dataset/,
    teacher/, variance/, students/<method>-<steps>/, evaluations/<name>/ and timings/<name>.json. UserError where an
    evaluation or timing is missing, or where evaluations were not made with the same settings.
    """
    run = collect(Path(artifacts))
    compared, found = compare(run), checks(run)
    content = build(run, compared, found, params)
    with atomic_folder(out) as temporary:
        (temporary / "images").mkdir()
        for name, data in render.images(content).items():
            (temporary / "images" / name).write_bytes(data)
        (temporary / "index.html").write_text(render.page(content), encoding="utf-8")
        (temporary / "report.md").write_text(render.markdown(content), encoding="utf-8")
        dial(run).to_csv(temporary / "dial.csv", index=False, lineterminator="\n")
        write_json(temporary / "summary.json", summary(compared, found))
        write_json(temporary / "checks.json", as_json(found, run.fid_name))
