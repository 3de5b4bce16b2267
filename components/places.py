"""The local side of the URIs that a program was given: inputs are fetched, and outputs copied when they are whole.

Here a stage's inputs and outputs pass, so this is where they are noted for its lineage record.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from components.lineage.recorder import Recorder, recording
from components.storage import fetch, is_remote, upload
from components.storage.store import open_store, safe_paths
from mcm.artifacts import cache_folder
from mcm.errors import UserError

Location = Path | str  # a path, or a gs:// URI


def location(text: str) -> Location:
    """What an option names, for argparse: a path, or a `gs://` URI as it is."""
    return text if is_remote(text) else Path(text)


class Places:
    """Paths for what may be URIs. Of several processes that torchrun started, the leading one copies outputs."""

    def __init__(self, stack: contextlib.ExitStack, recorder: Recorder | None):
        self._stack = stack
        self._recorder = recorder
        self._outputs: list[tuple[Path, str]] = []
        self._inputs: list[tuple[Path, str]] = []
        self._added: list[tuple[Path, str, set[str]]] = []

    def task(self, name: str) -> None:
        """Tell this execution of its stage from others: `cd-4`."""
        if self._recorder:
            self._recorder.task = name

    def fetch(self, given: Location, name: str = "", measured: bool = False) -> Path:
        """An input: itself, or a copy that is kept for the next program which reads the same.

        `name` is what its lineage record calls it; without one it is no input of the result. `measured` says that it
        holds durations.
        """
        path = fetch(given, cache_folder() / "objects")
        self._inputs.append((path, str(given)))
        if self._recorder and name:
            self._recorder.input(name, path, given, measured)
        return path

    def out(self, given: Location, name: str = "out", measured: bool = False) -> Path:
        """Where to write an output. The last part of its place is the same here and there.

        `name` is what its lineage record calls it; `measured` says that it holds durations.
        """
        path = self._scratch() / PurePosixPath(given).name if is_remote(given) else Path(given)
        if is_remote(given):
            self._outputs.append((path, str(given)))
        if self._recorder:
            self._recorder.output(name, path, given, measured)
        return path

    def shared(self, given: Location, begin: str) -> Path:
        """A folder of files that are never changed: those that begin with `begin`; new ones are added at the end."""
        if not is_remote(given):
            return Path(given)
        folder, store = self._scratch(), open_store(given)
        there = [entry for entry in store.entries(begin.rpartition("/")[0]) if entry.name.startswith(begin)]
        names = [entry.name for entry in there]
        store.get(list(zip(there, safe_paths(folder, names, str(given)), strict=True)))
        self._added.append((folder, str(given), set(names)))
        return folder

    def publish(self) -> bool:
        """Copy the outputs that have a URI there. Whether there are any: then they outlive this machine."""
        if int(os.environ.get("RANK", 0)) == 0:
            for path, uri in self._outputs:
                upload(path, uri)
            for folder, uri, there in self._added:
                files = [(path, path.relative_to(folder).as_posix()) for path in folder.rglob("*") if path.is_file()]
                open_store(uri).put([(path, name) for path, name in files if name not in there])
        return bool(self._outputs)

    def named(self, message: str) -> str:
        """A message about copies as one about what the user named."""
        for path, given in (*self._inputs, *self._outputs):
            message = message.replace(str(path), given)
        return message

    def _scratch(self) -> Path:
        return Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="mcm-")))


@contextlib.contextmanager
def places(stage: str = "") -> Iterator[Places]:
    """Outputs are published when the block ends well; nothing is, when it does not.

    The execution of a `stage` leaves a lineage record; what is no stage leaves none.
    """
    noted = recording(stage) if stage else contextlib.nullcontext()
    with contextlib.ExitStack() as stack, noted as recorder:  # scratch is there until the record is written
        local = Places(stack, recorder)
        try:
            yield local
            local.publish()
        except UserError as error:
            raise UserError(local.named(str(error))) from error
