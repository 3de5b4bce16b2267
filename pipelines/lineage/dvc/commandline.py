"""What the command of a DVC stage says: which of our programs it is, and the roles of what it reads and writes."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from components.lineage.runs import output_root
from pipelines.cli import COMMANDS

PACKAGE = "components."
BETWEEN = ("&&", "||", "|", ";", "&")  # of two commands in one line


@dataclass(frozen=True)
class Program:
    """A program of ours as it was called. `options` are by name, such as `student-steps`."""

    stage: str
    options: Mapping[str, str]

    @property
    def task(self) -> str:
        """What tells this execution from others of its stage, as the program itself decides it."""
        if self.stage == "train_student":
            return f"{self.options.get('method', '')}-{self.options.get('student-steps', '')}"
        if self.stage == "evaluate":
            return self.options.get("name") or PurePath(self.options.get("out", "")).name
        return ""

    @property
    def root(self) -> str | None:
        """The folder that holds what a run makes; None where the command names no output."""
        return PurePath(output_root(self.options["out"])).as_posix() if "out" in self.options else None


def program(command: object) -> Program | None:
    """The program of ours that a stage's `cmd` calls; None where it calls none."""
    for line in command if isinstance(command, list) else [command]:
        try:
            words = shlex.split(str(line))
        except ValueError:
            continue
        for index, word in enumerate(words):
            stage, rest = _stage(word, words[index + 1 :])
            if stage:
                return Program(stage, dict(_options(rest)))
    return None


def _stage(word: str, rest: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The stage that begins with a word, and its options: `-m components.X`, or `mcm` with one of its commands."""
    if word == "-m" and rest and rest[0].startswith(PACKAGE):
        return rest[0].removeprefix(PACKAGE).removesuffix(".__main__"), rest[1:]
    if PurePath(word).name == "mcm":
        for count in (2, 1):
            module, _ = COMMANDS.get(" ".join(rest[:count]), ("", ""))
            if module.startswith(PACKAGE):
                return module.removeprefix(PACKAGE).removesuffix(".__main__"), rest[count:]
    return "", rest


def _options(words: Sequence[str]) -> list[tuple[str, str]]:
    ends = [index for index, word in enumerate(words) if word in BETWEEN]
    words = words[: ends[0]] if ends else words
    found = []
    for word, after in zip(words, [*words[1:], ""], strict=True):
        if word.startswith("--"):
            name, is_one, value = word[2:].partition("=")
            found.append((name, value if is_one else after))
    return found
