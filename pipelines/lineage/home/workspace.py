"""DVC's workspace changed from outside: artifacts put into place, the programs dvc and git asked, a journal kept."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mcm.artifacts import atomic_file, file_md5, folder_md5, write_json
from mcm.errors import UserError
from pipelines.lineage.dvc.commandline import Program, program

PARAMS, LOCK, DVC = "params.yaml", "dvc.lock", "dvc.yaml"
PLAIN = re.compile(r"\x1b\[[\d;]*m")
BACK = f"git checkout {PARAMS} {LOCK} && dvc checkout"


class Scratch:
    """What is on its way into the workspace of a project, on the same disk, and whose adoption it belongs to."""

    def __init__(self, project: Path) -> None:
        self.root = project / ".dvc" / "tmp" / "mcm-adopt"
        self._journal = self.root / "journal.json"

    def incoming(self, path: Path) -> Path:
        """Where an artifact lies until all are there."""
        return self.root / "new" / path

    def begun(self) -> dict[str, Any]:
        """The run whose adoption was begun and not ended, and params.yaml before it; empty where there is none."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            return dict(json.loads(self._journal.read_text()))
        return {}

    def begin(self, run: str, before: str) -> None:
        """From here on the workspace changes."""
        write_json(self._journal, {"run": run, "before": before})

    def place(self, path: Path) -> None:
        """Put an artifact where the workspace has it. What was there is out of the way before, and goes with the rest.

        Nothing lies beside it meanwhile: a stage may read the whole folder around it.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir() and not path.is_symlink():
            retired = self.root / "old" / path
            retired.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(retired, ignore_errors=True)
            shutil.move(path, retired)
        shutil.move(self.incoming(path), path)

    def end(self) -> None:
        """All is done."""
        for name in ("new", "old"):
            shutil.rmtree(self.root / name, ignore_errors=True)
        self._journal.unlink(missing_ok=True)
        self.root.rmdir()


def programs(params: str) -> Iterator[Program]:
    """The programs that dvc.yaml runs with this text of params.yaml, as DVC reads it; in a folder of its own."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    with tempfile.TemporaryDirectory(prefix="mcm-adopt-") as folder:
        shutil.copyfile(DVC, Path(folder) / DVC)
        (Path(folder) / PARAMS).write_text(params)
        (Path(folder) / ".dvc").mkdir()
        (Path(folder) / ".dvc" / "config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
        try:
            with Repo(folder) as repo:
                stages = [(stage.name, stage.cmd) for stage in repo.index.stages]
        except DvcException as error:
            said = str(error).splitlines()[0].replace(folder, ".")
            raise UserError(f"{DVC}: DVC cannot read it with the run's parameters ({said}); mend it") from None
    for name, command in stages:
        called = program(command)
        if called is None:
            raise UserError(f"{DVC}: stage {name} is none of the pipeline's, so the run has nothing for it; remove it")
        yield called


def write_params(text: str) -> None:
    """params.yaml, where it does not say that already: DVC looks at the time of its last change."""
    if Path(PARAMS).read_text() != text:
        with atomic_file(Path(PARAMS)) as temporary:
            temporary.write_text(text)


def md5_of(path: Path) -> str | None:
    """DVC's md5 of what is there; None where nothing is."""
    if path.is_dir():
        return folder_md5(path)
    return file_md5(path) if path.is_file() else None


def dvc(*words: str) -> None:
    """One command of DVC. UserError with what it said, where it fails."""
    command = [sys.executable, "-m", "dvc", *words]
    done = subprocess.run(command, env={**os.environ, "DVC_NO_ANALYTICS": "1"}, capture_output=True, text=True)
    if done.returncode:
        lines = [PLAIN.sub("", line).strip() for line in done.stderr.splitlines()]
        said = next((line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR")), "it gave no reason")
        raise UserError(
            f"dvc {words[0]}: {said}; mend that and run the same command again, which completes, or go back: `{BACK}`"
        )


def git(*words: str) -> str | None:
    """What git prints; None where it fails. UserError where there is no repository."""
    try:
        done = subprocess.run(["git", *words], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise UserError("git: no such program here, and experiments of DVC need it; install it") from None
    if done.returncode and "not a git repository" in done.stderr:
        raise UserError("no git repository here, and experiments of DVC hang on a commit; `git init`, and commit")
    return done.stdout if done.returncode == 0 else None
