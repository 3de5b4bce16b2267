"""Work that was done before, found by what it is a function of and taken from the store by content.

Kubeflow's own cache keys on where an artifact lies and notices no deletion. This one keys on the md5 of the inputs, the
resolved parameters, the code and the image, and answers only when every byte of the result is still there.
"""

import functools
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import components
import mcm
from components.storage import Objects, exists, read_bytes, write_bytes


class Memo:
    """The record of one piece of work, `<store>/memo/<stage>/<key>.json`. Without a store it keeps nothing."""

    def __init__(self, store: str, stage: str, key: str):
        self.store = store
        self.key = key
        self.uri = f"{store}/memo/{stage}/{key}.json"

    def recall(self, outputs: Mapping[str, Path]) -> bool:
        """Put the results of earlier work at `outputs` and return True, or False where there is none that is whole."""
        if not self.store or not exists(self.uri):
            return False
        record = json.loads(read_bytes(self.uri))
        objects, kept = Objects(self.store), record["outputs"]
        if set(kept) != set(outputs) or not all(objects.has(md5) for md5 in kept.values()):
            return False
        for name, path in outputs.items():
            objects.pull(kept[name], path)
        print(f"the same work was done before: taken from {self.uri}", flush=True)
        return True

    def keep(self, outputs: Mapping[str, Path], identity: Mapping[str, Any]) -> None:
        """Put the results in the store, and then the record that names them."""
        if not self.store:
            return
        objects = Objects(self.store)
        record = {**identity, "outputs": {name: objects.push(path) for name, path in outputs.items()}}
        write_bytes(self.uri, (json.dumps(record, indent=2, sort_keys=True) + "\n").encode())


def identity_of(
    stage: str, params: Mapping[str, Any], inputs: Mapping[str, str], options: Mapping[str, str]
) -> dict[str, Any]:
    """What a result is a function of: parameters, input hashes, code and image."""
    return {
        "stage": stage,
        "params": dict(params),
        "inputs": dict(inputs),
        "options": dict(options),
        "code": code_md5(),
        "image": os.environ.get("MCM_IMAGE", ""),
    }


@functools.cache
def code_md5() -> str:
    """md5 over the files of the packages `mcm` and `components` that a stage's result can depend on."""
    total = hashlib.md5()
    for package in (mcm, components):
        root = Path(next(iter(package.__path__)))
        for file in sorted(root.rglob("*")):
            if file.suffix in (".py", ".csv", ".j2"):
                total.update(f"{file.relative_to(root.parent).as_posix()}\0".encode() + file.read_bytes())
    return total.hexdigest()
