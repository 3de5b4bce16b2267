"""Checkpoints that outlive the machine: each is written to a local folder and copied to a bucket."""

import shutil
import sys
from collections import defaultdict
from pathlib import Path

from components.storage.store import BrokenError, open_store, unequal
from components.storage.transfer import delete, download, upload
from mcm.errors import UserError
from mcm.training.checkpoint import STATE, Checkpoint, CheckpointFolder, whole
from mcm.training.distributed import Processes


class MirroredCheckpoints(CheckpointFolder):
    """The checkpoints of one run, at `uri` and, for as long as this machine lasts, in `folder`.

    What is at `uri` counts: all processes of all nodes begin with the newest whole checkpoint there. It is whole once
    its state files are there, each of which is copied after the tensors that it speaks of. Of a state in parts, every
    process copies its own. Logs that lie beside `folder` are copied beside `uri` with it.
    """

    def __init__(self, folder: Path, fingerprint: str, keep: int, uri: str, processes: Processes):
        super().__init__(folder, fingerprint, keep, processes)
        self.uri = uri
        self.logs = Path(folder).parent / "logs"

    def save(self, checkpoint: Checkpoint) -> None:
        """Write one checkpoint here and copy it. It takes as long as the bucket does: for a thread of its own."""
        super().save(checkpoint)
        here, there = self._path(checkpoint.iteration), self._uri(checkpoint.iteration)
        if checkpoint.offsets:
            store = open_store(there)
            for name in self._own_files():  # the tensors before the state
                store.put([(here / name, name)])
        else:
            upload(here, there, last=STATE)
        if self.processes.leads:
            self._drop_before_there(checkpoint.iteration)
            self._copy_logs()

    def clear(self) -> None:
        """Remove every checkpoint, there and here."""
        delete(self.uri)
        super().clear()

    def close(self) -> None:
        """Copy what was logged last."""
        self._copy_logs()

    def _uri(self, iteration: int) -> str:
        return f"{self.uri}/{self._path(iteration).name}"

    def _drop_before_there(self, iteration: int) -> None:
        kept = [one for one in self._iterations() if one <= iteration][-self.keep :]
        for old in {one for one in self._there() if kept and one < kept[0]}:
            store = open_store(self._uri(old))
            names = [entry.name for entry in store.entries()]
            # States first, so that no half of it looks whole.
            store.remove(sorted(names, key=lambda name: not name.endswith(".json")))

    def _copy_logs(self) -> None:
        """Add what this machine logged to what others did; each file has its machine and time in its name.

        No run fails for its logs.
        """
        store = open_store(f"{self.uri.rpartition('/')[0]}/logs")
        names = [file.relative_to(self.logs).as_posix() for file in self.logs.rglob("*") if file.is_file()]
        try:
            there = {entry.name: entry for entry in store.entries()} if names else {}
            store.put(unequal(store, [(self.logs / name, name) for name in names], there))
        except UserError as error:
            print(f"logs were not copied: {error}", file=sys.stderr)

    def _there(self) -> dict[int, set[str]]:
        """Names of the files at `uri`, by iteration."""
        found: dict[int, set[str]] = defaultdict(set)
        for entry in open_store(self.uri).entries():
            folder, _, file = entry.name.partition("/")
            found[int(folder.rpartition("-")[2])].add(file)
        return found

    def _iterations(self) -> list[int]:
        return sorted(iteration for iteration, names in self._there().items() if whole(names))

    def _prepare(self, iteration: int) -> None:
        """Make the local copy be what is at `uri`: one process of each machine, while the others wait.

        UserError where the server does not answer: an outage must not begin the run again from an older one.
        """
        if self.processes.local_rank:
            return
        here, store = self._path(iteration), open_store(self._uri(iteration))
        states = [state for _, state in whole(entry.name for entry in store.entries())]
        try:
            same = all(
                (here / state).is_file() and (here / state).read_bytes() == store.read(state) for state in states
            )
            if not same or self._open(iteration, (0, 1)) is None:
                download(self._uri(iteration), here)
        except BrokenError:
            shutil.rmtree(here, ignore_errors=True)
