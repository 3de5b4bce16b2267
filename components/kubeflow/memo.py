"""Work that was done before, found by what it is a function of and taken from the store by content.

Kubeflow's own cache keys on where an artifact lies and notices no deletion. This one keys on the md5 of the inputs, the
resolved parameters, the code and the image, and answers only when every byte of the result is still there.
"""

import functools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.lineage import surroundings
from components.storage import Objects, exists, read_bytes, write_bytes

LINEAGE = "record"  # the key of the lineage record of the work, by its name in the store's lineage


class Memo:
    """The record of one piece of work, `<store>/memo/<stage>/<key>.json`. Without a store it keeps nothing."""

    def __init__(self, store: str, stage: str, key: str):
        self.store = store
        self.key = key
        self.uri = f"{store}/memo/{stage}/{key}.json"

    def recall(self, outputs: Mapping[str, Path]) -> dict[str, Any] | None:
        """Put the results of earlier work at `outputs` and return what is known of it; None where none is whole."""
        if not self.store or not exists(self.uri):
            return None
        record = json.loads(read_bytes(self.uri))
        objects, kept = Objects(self.store), record["outputs"]
        if set(kept) != set(outputs) or not all(objects.has(md5) for md5 in kept.values()):
            return None
        for name, path in outputs.items():
            objects.pull(kept[name], path)
        print(f"the same work was done before: taken from {self.uri}", flush=True)
        return dict(record)

    def keep(self, outputs: Mapping[str, Path], identity: Mapping[str, Any], lineage: str | None) -> None:
        """Put the results in the store, and then what names them. `lineage` is the name of the lineage record."""
        if not self.store:
            return
        objects = Objects(self.store)
        record = {**identity, "outputs": {name: objects.push(path) for name, path in outputs.items()}}
        if lineage:
            record[LINEAGE] = lineage
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
    """md5 of the project's code, read once a process."""
    return surroundings.code_md5()
