"""Training state on disk: safetensors and JSON, whole or not counted, the last k kept.

A checkpoint holds weights, EMAs, the optimizer's moments and the iteration. Data order, noise and dropout masks are
functions of (seed, iteration, image), so the iteration is the position of schedule, data and random state at once.

Where every process holds the whole state, the leading one writes it, and the folder appears under its name by a rename.
Where each holds a part, each writes its own files there and waits for nobody, so that no process has to be asked while
training goes on; the folder counts once the state files of all are in it (`whole`). Either can be read by any number of
processes, that hold all of it or a part: `mcm/training/sharded.py`.
"""

import hashlib
import json
import re
import secrets
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mcm.artifacts import atomic_file, atomic_folder, write_json
from mcm.errors import UserError
from mcm.tensors import write_tensors
from mcm.training.distributed import Processes
from mcm.training.sharded import Part, Stored, local_part

TENSORS, STATE = "tensors.safetensors", "state.json"
ALONE = Processes(0, 1, torch.device("cpu"))

# A process's files: which one, of how many, of which start of the program. Parts of two starts never make one state.
_PART_STATE = re.compile(r"state-(\d+)-of-(\d+)-([0-9a-f]{8})\.json")


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a run needs to go on as if it had never stopped."""

    iteration: int  # optimizer steps done
    tensors: Mapping[str, Tensor]
    history: list[dict[str, float]]  # rows of the loss curve so far
    offsets: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # where this process's part of one begins

    def snapshot(self) -> "Checkpoint":
        """A copy in the host's memory of what this process holds; what it was copied from may change."""
        offsets = dict(self.offsets)
        tensors: dict[str, Tensor] = {}
        for name, value in self.tensors.items():
            held, offset = local_part(value)
            tensors[name] = held.detach().to("cpu", copy=True)
            if offset is not None:
                offsets[name] = offset
        return replace(self, tensors=tensors, history=list(self.history), offsets=offsets)


@dataclass(frozen=True)
class Saved:
    """A checkpoint on disk, whose tensors are read as they are asked for."""

    iteration: int
    tensors: Stored
    history: list[dict[str, float]]


def part_files(rank: int, count: int, start: str) -> tuple[str, str]:
    """Names of the tensors and the state that one of `count` processes writes."""
    stem = f"{rank:05d}-of-{count:05d}-{start}"
    return f"tensors-{stem}.safetensors", f"state-{stem}.json"


def whole(names: Iterable[str]) -> list[tuple[str, str]]:
    """The files (tensors, state) of a checkpoint in rank order, by the `names` in its folder; none if one lacks."""
    found = set(names)
    if STATE in found:
        return [(TENSORS, STATE)]
    starts = {(int(match[2]), match[3]) for match in map(_PART_STATE.fullmatch, found) if match}
    for count, start in sorted(starts):
        files = [part_files(rank, count, start) for rank in range(count)]
        if all(state in found for _, state in files):
            return files
    return []


class CheckpointFolder:
    """The checkpoints of one run. `fingerprint` says which run: configuration and inputs, hashed.

    Several processes have one folder, which all of them see.
    """

    def __init__(self, folder: Path, fingerprint: str, keep: int, processes: Processes = ALONE):
        self.folder = Path(folder)
        self.fingerprint = fingerprint
        self.keep = keep
        self.processes = processes
        self._start = ""

    def save(self, checkpoint: Checkpoint) -> None:
        """Write one checkpoint and drop all but it and those before it, `keep` in all.

        Of a state in parts, every process writes its own, after `newest` was asked once.
        """
        if checkpoint.offsets:
            self._save_part(checkpoint)
        else:
            self._save_whole(checkpoint)

    def newest(self) -> Saved | None:
        """The newest whole checkpoint of this run; broken ones are passed over. None where there is none.

        A collective call: all processes have the same answer.
        """
        self._start = f"{self.processes.agree(secrets.randbits(32)):08x}"
        known = self._iterations() if self.processes.leads else []
        for place in range(self.processes.agree(len(known))):
            iteration = self.processes.agree(known[-1 - place] if self.processes.leads else 0)
            self._prepare(iteration)
            self.processes.barrier()
            # The processes of a machine share the work.
            opened = self._open(iteration, (self.processes.local_rank, self.processes.local_size))
            if self.processes.all_agree(opened is not None):
                return opened
            if opened is not None and self.processes.leads:
                print(f"{self._path(iteration)}: not whole for every process; do all nodes share it?", file=sys.stderr)
        return None

    def clear(self) -> None:
        """Remove every checkpoint, and what a killed process left half-written."""
        for folder in [*self.folder.glob("checkpoint-*"), *self.folder.glob(".checkpoint-*")]:
            shutil.rmtree(folder)

    def _save_whole(self, checkpoint: Checkpoint) -> None:
        written = self._path(checkpoint.iteration)
        with atomic_folder(written) as temporary:
            write_tensors(temporary / TENSORS, checkpoint.tensors)
            write_json(temporary / STATE, self._state(checkpoint, temporary / TENSORS))
        # A later one is a broken one, which was passed over.
        folders = sorted(self.folder.glob("checkpoint-*"))
        kept = [folder for folder in folders if folder <= written][-self.keep :]
        for other in set(folders) - set(kept):
            shutil.rmtree(other)

    def _save_part(self, checkpoint: Checkpoint) -> None:
        leads, folder = self.processes.leads, self._path(checkpoint.iteration)
        tensors, state = self._own_files()
        # What is not in parts is the same in all processes.
        held = {k: v for k, v in checkpoint.tensors.items() if v.numel() and (leads or k in checkpoint.offsets)}
        with atomic_file(folder / tensors) as temporary:
            write_tensors(temporary, held)
        values = self._state(checkpoint, folder / tensors)
        values["offsets"] = {name: list(offset) for name, offset in checkpoint.offsets.items() if name in held}
        write_json(folder / state, values if leads else {**values, "history": []})
        if self.processes.local_rank == 0:
            self._drop_before(checkpoint.iteration)

    def _own_files(self) -> tuple[str, str]:
        assert self._start, "newest() says which start of the program this is"
        return part_files(self.processes.rank, self.processes.world_size, self._start)

    def _drop_before(self, iteration: int) -> None:
        """Remove what is older than the last `keep` whole ones; that of `iteration` may still lack others' parts."""
        oldest = [one for one in self._iterations() if one <= iteration][-self.keep :][:1]
        for folder in self.folder.glob("checkpoint-*"):
            if oldest and folder < self._path(oldest[0]):
                shutil.rmtree(folder, ignore_errors=True)  # another machine may be at it, where they share a disk

    def _state(self, checkpoint: Checkpoint, tensors: Path) -> dict[str, Any]:
        return {
            "fingerprint": self.fingerprint,
            "iteration": checkpoint.iteration,
            "sha256": _sha256(tensors),
            "history": checkpoint.history,
        }

    def _path(self, iteration: int) -> Path:
        return self.folder / f"checkpoint-{iteration:08d}"

    def _iterations(self) -> list[int]:
        """Those whose files are all there, rising; whether they are sound is not looked at."""
        folders = sorted(self.folder.glob("checkpoint-*"))
        return [int(path.name.rpartition("-")[2]) for path in folders if whole(file.name for file in path.iterdir())]

    def _prepare(self, iteration: int) -> None:
        """Make the files of one be here; nothing is to be done where they were written here."""

    def _open(self, iteration: int, share: tuple[int, int]) -> Saved | None:
        """One of this run, or None where it is broken. `share` (k, n): each n-th file is hashed, from the k-th on."""
        try:
            folder = self._path(iteration)
            parts, history = [], None
            for place, (tensors, state) in enumerate(whole(file.name for file in folder.iterdir())):
                values = json.loads((folder / state).read_text())
                if values["fingerprint"] != self.fingerprint or values["iteration"] != iteration:
                    return None
                if place % share[1] == share[0] and values["sha256"] != _sha256(folder / tensors):
                    return None
                history = values["history"] if history is None else history
                parts.append(Part(folder / tensors, {k: tuple(v) for k, v in values.get("offsets", {}).items()}))
            return None if history is None else Saved(iteration, Stored(parts), history)
        except (OSError, ValueError, KeyError, UserError):
            return None


def _sha256(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
