"""Training state on disk: safetensors and JSON, whole under its final name, the last k kept.

A checkpoint holds weights, EMAs, the optimizer's moments and the iteration. Data order, noise and dropout masks are
functions of (seed, iteration, image), so the iteration is the position of schedule, data and random state at once.
"""

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from mcm.artifacts import atomic_folder, write_json
from mcm.errors import UserError
from mcm.tensors import read_tensors, write_tensors

TENSORS, STATE = "tensors.safetensors", "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a run needs to go on as if it had never stopped."""

    iteration: int  # optimizer steps done
    tensors: dict[str, Tensor]
    history: list[dict[str, float]]  # rows of the loss curve so far


class CheckpointFolder:
    """The checkpoints of one run. `fingerprint` says which run: configuration and inputs, hashed."""

    def __init__(self, folder: Path, fingerprint: str, keep: int):
        self.folder = Path(folder)
        self.fingerprint = fingerprint
        self.keep = keep

    def save(self, checkpoint: Checkpoint) -> None:
        """Write one checkpoint and drop all but it and those before it, `keep` in all."""
        written = self.folder / f"checkpoint-{checkpoint.iteration:08d}"
        with atomic_folder(written) as temporary:
            write_tensors(temporary / TENSORS, checkpoint.tensors)
            state: dict[str, Any] = {
                "fingerprint": self.fingerprint,
                "iteration": checkpoint.iteration,
                "sha256": _sha256(temporary / TENSORS),
                "history": checkpoint.history,
            }
            write_json(temporary / STATE, state)
        # A later one is a broken one, which was passed over.
        kept = [folder for folder in self._folders() if folder <= written][-self.keep :]
        for other in set(self._folders()) - set(kept):
            shutil.rmtree(other)

    def newest(self) -> Checkpoint | None:
        """The newest whole checkpoint of this run; broken ones are passed over. None where there is none."""
        for folder in reversed(self._folders()):
            checkpoint = self._load(folder)
            if checkpoint is not None:
                return checkpoint
        return None

    def clear(self) -> None:
        """Remove every checkpoint, and what a killed process left half-written."""
        for folder in [*self._folders(), *self.folder.glob(".checkpoint-*")]:
            shutil.rmtree(folder)

    def _folders(self) -> list[Path]:
        return sorted(self.folder.glob("checkpoint-*"))

    def _load(self, folder: Path) -> Checkpoint | None:
        try:
            state = json.loads((folder / STATE).read_text())
            if state["fingerprint"] != self.fingerprint or state["sha256"] != _sha256(folder / TENSORS):
                return None
            return Checkpoint(state["iteration"], read_tensors(folder / TENSORS), state["history"])
        except (OSError, ValueError, KeyError, UserError):
            return None


def _sha256(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
