"""What the phases of a student hand on: kept beside their checkpoints, and removed once the student is whole."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.storage import delete, exists, fetch, is_remote, upload
from components.training import local_work
from mcm.artifacts import CONFIG, cache_folder


@dataclass(frozen=True)
class Made:
    """The denoiser of one phase, in `folder` and, where training state lies in a bucket, at `uri`."""

    folder: Path
    uri: str | None

    @classmethod
    def of(cls, work: Path | str, name: str, identity: Mapping[str, Any]) -> "Made":
        """That of the phase `name` with `identity`, whose checkpoints lie under `work`."""
        here = local_work(work, name, identity)
        there = f"{str(work).rstrip('/')}/{here.name}/made" if is_remote(work) else None
        return cls(here / "made", there)

    def ended(self) -> bool:
        """Whether the phase has ended, and all of this is there."""
        return (self.folder / CONFIG).is_file() if self.uri is None else exists(f"{self.uri}/{CONFIG}")

    def there(self) -> Path:
        """A local folder of it."""
        return self.folder if self.uri is None else fetch(self.uri, cache_folder() / "objects")

    def publish(self) -> bool:
        """Copy it to the bucket; whether there is one."""
        if self.uri is not None:
            upload(self.folder, self.uri)
        return self.uri is not None

    def clear(self) -> None:
        """Remove it, there and here."""
        if self.uri is not None:
            delete(self.uri)
        shutil.rmtree(self.folder, ignore_errors=True)
