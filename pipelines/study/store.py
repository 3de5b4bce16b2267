"""Where studies keep what they made: artifacts by content, whole or absent, and beside them how long it took.

Below the work folder: `store/<kind>-<hash>/` an artifact, `store/<kind>-<hash>.job.json` what it is a function of,
`.timing.json` measured seconds; `state/` checkpoints, `logs/` what a job printed, `locks/` one file a job.
"""

import contextlib
import fcntl
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mcm.artifacts import write_json
from pipelines.study.jobs import Job


class Store:
    """The folder that holds the artifacts of all studies."""

    def __init__(self, work: Path):
        self.work = Path(work)
        self.state = self.work / "state"

    def folder(self, job: Job) -> Path:
        """The artifact of a job."""
        return self.work / "store" / job.name

    def beside(self, job: Job, what: str) -> Path:
        """A file beside the artifact: `job`, `timing`, `sampling`."""
        return self.work / "store" / f"{job.name}.{what}.json"

    def log(self, job: Job) -> Path:
        """What the job printed."""
        return self.work / "logs" / f"{job.name}.log"

    def done(self, job: Job) -> bool:
        """Whether the artifact is there; it appears whole, by a rename."""
        return self.folder(job).is_dir()

    def describe(self, job: Job) -> None:
        """Keep what the artifact is a function of, for people."""
        own = {"params": job.params, "arguments": job.arguments} if job.identity is None else job.identity
        inputs = {role: needed.name for role, needed in job.inputs.items()}
        about = {"kind": job.kind, "label": job.label, "is": own, "inputs": inputs, "fingerprint": job.fingerprint}
        write_json(self.beside(job, "job"), about)

    def measured(self, job: Job, what: str = "timing") -> dict[str, Any]:
        """A file beside the artifact; nothing where it is not there or was not written whole."""
        try:
            found = json.loads(self.beside(job, what).read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    @contextlib.contextmanager
    def claim(self, job: Job) -> Iterator[bool]:
        """Whether the job is ours to do until the block ends: not done, and no other process on it.

        What a killed attempt left half-written goes.
        """
        path = self.work / "locks" / f"{job.name}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as opened:
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            if self.done(job):
                yield False
                return
            for left in self.folder(job).parent.glob(f".{job.name}.*"):
                shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
            yield True
