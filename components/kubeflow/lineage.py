"""The lineage of a task on Kubeflow: records lie in the store of the pipeline, and tell which run they belong to."""

import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from components.lineage.record import RunRecord
from components.lineage.recorder import ID, without_place
from components.lineage.runs import OFF, PLACE, STORE, this_run
from components.lineage.store import find, keep_run, keep_taken


class Lineage:
    """The records of one task in the lineage store `place`, where there is one."""

    def __init__(self, place: str, record_id: str):
        self.place = None if place == OFF else place
        self.id = record_id

    def written(self) -> str | None:
        """The name of the record that the program wrote."""
        return find(self.place, this_run().id, self.id) if self.place else None

    def taken(self, origin: str | None) -> str | None:
        """Record that an earlier execution's result was taken; the name of the record."""
        return keep_taken(self.place, origin) if origin and self.place else None

    def asked(self, params: Mapping[str, Any]) -> None:
        """Record what the run was asked for: the sections of params.yaml as they were given."""
        if self.place:
            image = os.environ.get("MCM_IMAGE", "")
            asked = without_place(params)
            keep_run(self.place, RunRecord(run=this_run(), params=asked, image=image, started=datetime.now(UTC)))


@contextmanager
def lineage_in(store: str) -> Iterator[Lineage]:
    """Records go to `<store>/lineage`, unless MCM_LINEAGE names another place; without either there are none.

    While this is open, the environment says so to the task's program, here and in the pods of a job.
    """
    before = {name: os.environ.get(name) for name in (PLACE, ID)}
    place = before[PLACE] or (f"{store}/{STORE}" if store else OFF)
    os.environ[PLACE], os.environ[ID] = place, uuid.uuid4().hex
    try:
        yield Lineage(place, os.environ[ID])
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
