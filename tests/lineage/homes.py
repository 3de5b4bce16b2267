"""A small project of DVC and runs of its pipeline whose artifacts are real files, made without computing anything."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.lineage.record import Artifact, Record, Run, RunRecord
from components.storage import Objects
from mcm.artifacts import file_md5
from pipelines.lineage.kubeflow.wiring import values_of
from tests.chain.programs import ROOT, run, write_params
from tests.conftest import tiny_params
from tests.lineage.builders import chain, write

STUDENTS = ("cd-1", "cd-2")
COMMENT = "# The only place where a value is chosen."
NAMES = ["prepare_data", "train_teacher", "estimate_variance", "evaluate teacher", "report"]
NAMES += [f"{stage} {name}" for name in STUDENTS for stage in ("train_student", "evaluate")]
GIT = ("git", "-c", "user.name=t", "-c", "user.email=t@t")


def small_params() -> dict[str, Any]:
    params = {"data": {"source": "emoji", "subset": "smileys", "resolution": 16}, **tiny_params()}
    params["students"]["methods"] = ["cd"]
    # What Kubeflow does not hand over as it was given: null, and a float that is whole.
    params["data"]["limit"], params["teacher"]["clip_norm"] = None, 1.0
    return params


def make_project(folder: Path) -> Path:
    """A commit with the project's code, dvc.yaml and small parameters. Nothing was run in it."""
    shutil.copytree(ROOT / "mcm", folder / "mcm", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "components", folder / "components", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", ".dvcignore", ".gitignore", "data/README.md", ".dvc/config", ".dvc/.gitignore"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    file = write_params(folder / "params.yaml", small_params())
    file.write_text(f"{COMMENT}\n{file.read_text()}")
    run("git", "init", "--quiet", "--initial-branch=main", cwd=folder)
    run("git", "config", "user.name", "t", cwd=folder)
    run("git", "config", "user.email", "t@t", cwd=folder)
    commit(folder, "project")
    return folder


def commit(folder: Path, message: str) -> None:
    run("git", "add", "--all", cwd=folder)
    run("git", "commit", "--quiet", "--message", message, cwd=folder)


@dataclass
class Ran:
    """A pipeline run: its records and bytes lie in a store."""

    id: str
    records: list[Record]
    asked: RunRecord
    store: Path

    @property
    def lineage(self) -> Path:
        return self.store / "lineage"

    def record(self, name: str) -> Record:
        return next(record for record in self.records if record.name == name)


def make_run(store: Path, project: Path, name: str = "20261121-120000", **changes: Any) -> Ran:
    """A run with the project's parameters, `changes` by dotted name; its artifacts are a function of what went in."""
    params = small_params()
    for key, value in changes.items():
        section, _, last = key.replace("__", ".").rpartition(".")
        place: Any = params
        for word in section.split("."):
            place = place.setdefault(word, {})
        place[last] = value
    values = {
        f"{key}@{node}": value
        for node in NAMES
        for key, value in values_of(params, *(node.split(" ") if " " in node else (node, ""))).items()
    }
    made: dict[str, Artifact] = {}
    records = [
        record.model_copy(
            update={
                "inputs": tuple(_real(a, store, made) for a in record.inputs),
                "outputs": tuple(_real(a, store, made) for a in record.outputs),
                "code": record.code.model_copy(  # type: ignore[union-attr]
                    update={"commit": None, "files": {n: file_md5(project / n) for n in ("mcm/steps.py",)}}
                ),
            }
        )
        for record in chain(name, by="kubeflow", students=STUDENTS, parameters=values)
    ]
    asked = RunRecord(run=Run(id=name, by="kubeflow"), params=params)
    write(store / "lineage", records, asked)
    return Ran(name, records, asked, store)


def _real(invented: Artifact, store: Path, made: dict[str, Artifact]) -> Artifact:
    """A folder or file with the invented md5 as its content, kept in the store."""
    if invented.md5 not in made:
        path = store / "scratch" / invented.md5
        file = path
        if invented.md5.endswith(".dir"):
            path.mkdir(parents=True, exist_ok=True)
            (path / "sub").mkdir(exist_ok=True)
            (path / "sub" / "again.csv").write_text(invented.md5)
            file = path / "config.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"was": invented.md5}))
        if invented.path == "report":
            (path / "summary.json").write_text(json.dumps({"cd-1.ddim-1.fid": 1.5}))
            (path / "dial.csv").write_text("nfe,fid\n1,1.5\n")
        md5 = Objects(store).push(path)
        made[invented.md5] = invented.model_copy(update={"md5": md5, "size": 100})
        shutil.rmtree(store / "scratch")
    return made[invented.md5].model_copy(update={"name": invented.name, "path": None, "measured": invented.measured})


def replace(ran: Ran, records: Sequence[Record], asked: RunRecord | None = None) -> None:
    """Let the store hold other records of the run instead."""
    shutil.rmtree(ran.lineage / ran.id)
    write(ran.lineage, records, asked)
