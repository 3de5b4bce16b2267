"""Checkpoints that outlive the machine: written to a local folder, and copied to a bucket while training goes on."""

import shutil
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from components.storage.store import BrokenError, open_store, unequal
from components.storage.transfer import delete, download, upload
from mcm.errors import UserError
from mcm.training.checkpoint import STATE, Checkpoint, CheckpointFolder
from mcm.training.distributed import Processes


class MirroredCheckpoints(CheckpointFolder):
    """The checkpoints of one run, at `uri` and, for as long as this machine lasts, in `folder`.

    What is at `uri` counts: all processes of all nodes begin with the newest whole checkpoint there. It is whole once
    its state file, which is copied last, is there. Logs that lie beside `folder` are copied beside `uri` with it.
    """

    def __init__(self, folder: Path, fingerprint: str, keep: int, uri: str, processes: Processes):
        super().__init__(folder, fingerprint, keep)
        self.uri = uri
        self.processes = processes
        self.logs = Path(folder).parent / "logs"
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._copying: Future[None] | None = None

    def save(self, checkpoint: Checkpoint) -> None:
        """Write one checkpoint here and begin to copy it; the copy of the one before is waited for."""
        self.wait()
        super().save(checkpoint)
        self._copying = self._threads.submit(self._copy, _name(checkpoint.iteration))

    def newest(self) -> Checkpoint | None:
        """The newest whole checkpoint at `uri`, the same in every process; a collective call where there are several.

        One process of each machine brings it down. Broken ones are passed over.
        """
        found = -1
        if self.processes.leads:
            found = next((iteration for iteration in reversed(self._whole()) if self._bring(iteration)), -1)
        found = self.processes.agree(found)
        if found >= 0 and not self.processes.leads and self.processes.local_rank == 0 and not self._bring(found):
            raise UserError(f"{self.uri}/{_name(found)}: broken or gone on this node; run the same command again")
        self.processes.barrier()
        return self._load(self.folder / _name(found)) if found >= 0 else None  # the one there counts, no later one here

    def clear(self) -> None:
        """Remove every checkpoint, there and here."""
        self.wait()
        delete(self.uri)
        super().clear()

    def wait(self) -> None:
        """Wait for the copy that is under way. UserError where it failed."""
        if self._copying is not None:
            copying, self._copying = self._copying, None
            copying.result()

    def close(self) -> None:
        """Wait for the last copy, of a checkpoint and of the logs, and end."""
        try:
            self.wait()
            self._copy_logs()
        finally:
            self._threads.shutdown()

    def _copy(self, name: str) -> None:
        upload(self.folder / name, f"{self.uri}/{name}", last=STATE)
        whole = self._whole()
        kept = [iteration for iteration in whole if _name(iteration) <= name][-self.keep :]
        for iteration in set(whole) - set(kept):
            old = open_store(f"{self.uri}/{_name(iteration)}")
            old.remove([STATE])  # first, so that no half of it looks whole
            old.remove([entry.name for entry in old.entries()])
        self._copy_logs()

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

    def _whole(self) -> list[int]:
        """Iterations of the checkpoints at `uri` that were copied to the end, rising."""
        names = [entry.name.split("/") for entry in open_store(self.uri).entries()]
        return sorted(int(folder.rpartition("-")[2]) for folder, *file in names if file == [STATE])

    def _bring(self, iteration: int) -> bool:
        """Make the local copy be what is at `uri`. Whether that is a whole checkpoint of this run.

        UserError where the server does not answer: an outage must not begin the run again from an older one.
        """
        local, uri = self.folder / _name(iteration), f"{self.uri}/{_name(iteration)}"
        try:
            state = open_store(uri).read(STATE)
            if state is None:
                return False
            if not (local / STATE).is_file() or (local / STATE).read_bytes() != state or self._load(local) is None:
                download(uri, local)
        except BrokenError:
            shutil.rmtree(local, ignore_errors=True)
            return False
        return self._load(local) is not None


def _name(iteration: int) -> str:
    return f"checkpoint-{iteration:08d}"
