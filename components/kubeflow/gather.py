"""The report's task: what all tasks of a run made, laid out as the stage reads it."""

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kfp.dsl import Artifact

from components.kubeflow.launch import launch
from components.kubeflow.lineage import lineage_in
from components.kubeflow.task import as_options, checked, publish
from components.kubeflow.values import unpack
from components.runner import report_errors
from components.storage import Objects
from mcm.artifacts import write_json
from mcm.errors import UserError

NAME = "name"  # the key of a model's name in the metadata of its artifacts: teacher, cd-4


def run_report(
    params: Mapping[str, Any],
    single: Mapping[str, Artifact],
    named: Mapping[str, Iterable[Artifact]],
    out: Artifact,
    store: str = "",
) -> None:
    """Run the report on `single` artifacts, by place, and on lists of artifacts that lie under `<folder>/<name>`.

    Its lineage record goes to `store`.
    """
    with report_errors(), tempfile.TemporaryDirectory(prefix="report-") as folder, lineage_in(store) as lineage:
        scratch = Path(folder)
        for place, artifact in [*single.items(), *_places(named)]:
            checked(place, artifact)
            link = scratch / "artifacts" / place
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(Path(artifact.path).absolute())
        write_json(scratch / "params.json", unpack(params))
        made = {"out": scratch / "out"}
        words = {"params": scratch / "params.json", "artifacts": scratch / "artifacts", **made}
        launch("report", as_options({name: str(path) for name, path in words.items()}))
        if store:  # for who takes the run home
            Objects(store).push(made["out"])
        publish(made, {"out": out}, lineage.written())


def _places(named: Mapping[str, Iterable[Artifact]]) -> Iterable[tuple[str, Artifact]]:
    for folder, artifacts in named.items():
        for artifact in artifacts:
            if NAME not in artifact.metadata:
                raise UserError(f"report: {artifact.uri} does not say whose it is; evaluate it again with --no-cache")
            suffix = ".json" if Path(artifact.path).is_file() else ""
            yield f"{folder}/{artifact.metadata[NAME]}{suffix}", artifact
