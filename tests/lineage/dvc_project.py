"""Small git repositories with a dvc.lock, as `dvc repro` would leave it, without running dvc."""

import os
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from components.lineage.record import Artifact, Record
from mcm.artifacts import file_md5, folder_md5
from pipelines.lineage.dvc.code import folder_md5 as md5_of_files

OPTIONS = {"model": "--model", "dataset": "--dataset", "teacher": "--teacher", "variance": "--variance"}
OPTIONS |= {"out": "--out", "timing": "--timing"}
IDENTITY = {"GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@t", "GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@t"}


class Project:
    """A git repository in `folder`; each commit is a minute after the one before."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = 1_780_000_000
        folder.mkdir(parents=True, exist_ok=True)
        self.git("init", "--quiet", "--initial-branch=main")

    def git(self, *words: str) -> str:
        stamp = f"{self.clock} +0000"
        settings = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_AUTHOR_DATE": stamp, "GIT_COMMITTER_DATE": stamp, **IDENTITY}
        done = subprocess.run(
            ["git", *words], cwd=self.folder, env={**os.environ, **settings}, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def write(self, name: str, text: str) -> str:
        """A file, and its md5."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return file_md5(path)

    def lock(self, stages: Mapping[str, Any]) -> None:
        """`dvc.lock` with these entries."""
        text = yaml.safe_dump({"schema": "2.0", "stages": dict(stages)}, sort_keys=False)
        self.write("dvc.lock", text)

    def commit(self, message: str) -> str:
        """All that is there as a commit; its id."""
        self.clock += 60
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "-m", message)
        return self.git("rev-parse", "HEAD")

    def experiment(self, name: str, stages: Mapping[str, Any]) -> str:
        """An experiment on HEAD as DVC keeps it: a commit that no branch has. Its id; the workspace is as before."""
        baseline = self.git("rev-parse", "HEAD")
        self.lock(stages)
        made = self.commit(f"dvc: commit experiment {name}")
        self.git("update-ref", f"refs/exps/{baseline[:2]}/{baseline[2:]}/{name}", made)
        self.git("reset", "--quiet", "--hard", baseline)
        return made

    def folder_dep(self, path: str) -> dict[str, Any]:
        """How a lock names a folder as it is on disk."""
        files = [file for file in (self.folder / path).rglob("*") if file.is_file()]
        size = sum(file.stat().st_size for file in files)
        md5 = folder_md5(self.folder / path)
        return {"path": path, "hash": "md5", "md5": md5, "size": size, "nfiles": len(files)}


def lock_of(records: Iterable[Record], root: str = "artifacts") -> dict[str, dict[str, Any]]:
    """The entries that a lock has after these executions, which are of our own programs."""
    return dict(entry(record, root) for record in records)


def entry(record: Record, root: str = "artifacts") -> tuple[str, dict[str, Any]]:
    """The name and entry of one stage."""
    words = ["python", "-m", f"components.{record.stage}", "--params", "params.yaml"]
    parameters = {name: value for name, value in record.parameters.items() if not name.startswith("students.")}
    sections: dict[str, Any] = {}
    for name, value in parameters.items():
        section, _, key = name.partition(".")
        sections.setdefault(section, {})[key] = value
    if record.stage == "train_student":
        own = {name.removeprefix("students."): value for name, value in record.parameters.items()}
        method, steps = str(own.pop("method")), str(own.pop("student_steps"))
        words += ["--method", method, "--student-steps", steps]
        sections = {"students.common": own, f"students.{method}": {}, f"students.{method}-{steps}": {}}
    deps = [{"path": name, "hash": "md5", "md5": md5} for name, md5 in sorted((_files(record)).items())]
    if record.stage == "report":
        words += ["--artifacts", root]
        deps += _folders(record, root)
    else:
        words += [word for a in record.inputs for word in (OPTIONS[a.name], f"{root}/{a.path}")]
        deps += [_named(a, root) for a in record.inputs]
    words += [word for a in record.outputs for word in (OPTIONS[a.name], f"{root}/{a.path}")]
    name = record.stage
    if record.task:
        name = f"evaluate_{record.task}" if record.task == "teacher" else f"{record.stage}@{record.task}"
    values: dict[str, Any] = {"cmd": " ".join(words), "deps": sorted(deps, key=lambda dep: dep["path"])}
    if sections:
        values["params"] = {"params.yaml": sections}
    return name, {**values, "outs": [_named(a, root) for a in record.outputs]}


def _files(record: Record) -> dict[str, str]:
    return (record.code and record.code.files) or {}


def _named(artifact: Artifact, root: str) -> dict[str, Any]:
    count = {"nfiles": artifact.files} if artifact.files else {}
    return {"path": f"{root}/{artifact.path}", "hash": "md5", "md5": artifact.md5, "size": artifact.size, **count}


def _folders(record: Record, root: str) -> list[dict[str, Any]]:
    """What the report depends on: folders of students, evaluations and timings as a whole."""
    single = [_named(a, root) for a in record.inputs if "/" not in a.name]
    timings = {f"{root}/{a.path}": a.md5 for a in record.inputs if a.name.startswith("timings/")}
    whole = {"students": "a" * 32 + ".dir", "evaluations": "b" * 32 + ".dir"}  # only the cache could tell
    whole["timings"] = md5_of_files(timings, f"{root}/timings")
    return [*single, *({"path": f"{root}/{name}", "hash": "md5", "md5": md5} for name, md5 in whole.items())]
