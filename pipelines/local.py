"""The pipeline through KFP's local runner: the same graph and components as on a cluster, on this machine."""

import builtins
import contextlib
import io
import json
import re
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kfp import local
from kfp.local.config import LocalRunnerType

from components.kubeflow.gather import NAME as MODEL
from components.kubeflow.task import MD5
from components.kubeflow.values import pack
from mcm.errors import UserError
from pipelines.pipeline import Given, build

LOG = "log.txt"
PLAIN = re.compile(r"\x1b\[\d+m")
INNERMOST = re.compile(r"Inner task failed: '([^']+)'")
REASON = re.compile(r"(?:error: |\w*Error: |(?=stopped by SIG|the container was ended))(.+)")
EVENT = re.compile(r"\S+ - \w+ - (?:Executing task '([^']+)'|Task '([^']+)' finished with status (\w+))")


@dataclass(frozen=True)
class Made:
    """One artifact of a run."""

    task: str
    output: str
    name: str  # of the model it is of or belongs to, such as cd-4; empty for others
    md5: str
    path: Path


def run_local(
    params: Mapping[str, Any],
    folder: Path,
    store: str,
    data_version: str,
    image: str,
    runner: LocalRunnerType,
    given: Mapping[str, str] | None = None,
    retries: int = 0,
    verbose: bool = False,
) -> list[Made]:
    """Run the whole graph under `folder`, which is new, and list what it made.

    `given` are the URIs of `Given`. What tasks print goes to `log.txt` there; a line a task is shown.
    UserError where a task refused its input, with what it said; RuntimeError where it failed otherwise.
    """
    given = given or {}
    graph = build(None, image, params, Given(**{name: name in given for name in ("dataset", "teacher")}), retries)
    arguments: dict[str, Any] = {"store": store, **{f"{name}_uri": uri for name, uri in given.items()}}
    if "dataset" not in given:
        arguments["data_version"] = data_version
    folder.mkdir(parents=True)
    with (folder / LOG).open("w", encoding="utf-8") as log:
        shown = _Log(log, sys.stdout, verbose)
        with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown), _quiet():
            local.init(runner, pipeline_root=str(folder))
            try:
                graph(**{name: pack(value) for name, value in arguments.items()})
            except RuntimeError as error:
                task = INNERMOST.search(PLAIN.sub("", str(error)))
                failure = f"task {task[1] if task else 'unknown'}: {shown.reason} (log: {folder / LOG})"
                raise (UserError(failure) if shown.refused else RuntimeError(failure)) from None
    return sorted(made(folder), key=lambda item: (item.task, item.name, item.output))


def made(folder: Path) -> Iterator[Made]:
    """Every artifact that the tasks under `folder` named by its content."""
    for file in folder.rglob("executor_output.json"):
        for output, listed in json.loads(file.read_text()).get("artifacts", {}).items():
            for artifact in listed["artifacts"]:
                about = artifact.get("metadata", {})
                if MD5 in about:
                    place = file.parent / Path(artifact["uri"]).name
                    yield Made(file.parent.name, output, about.get(MODEL, ""), about[MD5], place)


class _Log(io.TextIOBase):
    """Everything to a file; to the terminal a line where a task starts and ends, or everything."""

    def __init__(self, log: io.TextIOBase, terminal: Any, verbose: bool):
        self.log = log
        self.terminal = terminal
        self.verbose = verbose
        self.line = ""
        self.began = time.monotonic()
        self.reason = "it failed without a word"
        self.refused = False  # whether the newest reason is bad input, which a stage says in one line

    def write(self, text: str) -> int:
        self.log.write(text)
        if self.verbose:
            self.terminal.write(text)
        *lines, self.line = (self.line + text).split("\n")
        for line in lines:
            self._show(PLAIN.sub("", line).strip())
        return len(text)

    def _show(self, line: str) -> None:
        event, reason = EVENT.match(line), REASON.match(line)
        if reason:
            self.reason, self.refused = reason[1], line.startswith("error: ")
        if event and not self.verbose:
            begun, ended, status = event.groups()
            state = "started" if begun else status.lower()
            self.terminal.write(f"{time.monotonic() - self.began:6.0f} s  {begun or ended:<18} {state}\n")
            self.terminal.flush()

    def flush(self) -> None:
        self.log.flush()
        self.terminal.flush()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without kfp's remark that an image should be called python; `print` comes back, which kfp leaves indenting."""
    printing = builtins.print
    with warnings.catch_warnings(), contextlib.ExitStack() as stack:
        stack.callback(setattr, builtins, "print", printing)
        warnings.filterwarnings("ignore", category=RuntimeWarning, module="kfp")
        yield
