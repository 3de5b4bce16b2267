"""A lineage store: the records of all runs, one file each, in a folder or a bucket. Nothing here writes to it.

A file that is no record stops no reader: it is left out, and a line in `warnings` names it.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from components.lineage.record import RUN_KIND, VERSION, NewerError, Record, RunRecord, parse_record
from components.storage import is_remote
from mcm.errors import UserError
from pipelines.lineage.store.index import Index
from pipelines.lineage.store.places import ASKED, is_run, open_place
from pipelines.lineage.store.summary import all_newer, parse

BEFORE_ALL = datetime.min.replace(tzinfo=UTC)


class LineageStore:
    """Reads a store at `place`, a folder or `gs://` prefix. Nothing is read before it is asked for.

    What goes through the index (`made`, `used`) is as it was when the index was first asked. UserError, from every
    method, where there is no store at that place or it cannot be read.
    """

    def __init__(self, place: str | Path):
        self.place = str(place).rstrip("/") if is_remote(place) else Path(place)
        self._files = open_place(self.place)
        self.index = Index(self._files, str(self.place))
        self._warnings: dict[str, None] = {}

    @property
    def warnings(self) -> list[str]:
        """A line for each file met so far that is no record this program can read, and what to do with it."""
        return list(dict.fromkeys([*self._warnings, *self.index.warnings]))

    def runs(self) -> list[str]:
        """Ids of all runs, sorted."""
        return sorted(self._files.stamps())

    def has(self, run: str) -> bool:
        """Whether there is anything of this run."""
        return is_run(run) and bool(self._names(run))

    def records(self, run: str) -> list[Record]:
        """A run's records in the order in which they began; none for an unknown run. Reads this run's files alone.

        NewerError where all of them are of a newer version.
        """
        return self._records([(run, name) for name in self._names(run) if name != ASKED] if is_run(run) else [])

    def asked(self, run: str) -> RunRecord | None:
        """What a pipeline run was asked for; None where that is not known."""
        where = f"{self.place}/{run}/{ASKED}"
        try:
            data = self._read(run, ASKED) if is_run(run) else None
            if data is None:
                return None
            values = parse(data, where)
            if not isinstance(values, dict) or values.get("kind") != RUN_KIND:
                raise UserError(f"{where}: not what a pipeline run was asked for; move it out of the store")
            if isinstance(version := values.get("version"), int) and version > VERSION:
                raise NewerError(f"{where}: version {version}, and this program reads up to {VERSION}; upgrade it")
            return RunRecord.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            self._warn(f"{where}: not valid ({first['msg']}); move it out of the store")
        except UserError as error:
            self._warn(str(error))
        return None

    def made(self, *md5s: str) -> list[Record]:
        """The records with all these artifacts among their outputs, newest first.

        Those that took them from an earlier run are named only where no execution is known that made them.
        """
        return self._holders("made", md5s) or self._holders("taken", md5s)

    def used(self, *md5s: str) -> list[Record]:
        """The records with all these artifacts among their inputs, newest first."""
        return self._holders("used", md5s)

    def _holders(self, role: str, md5s: Sequence[str]) -> list[Record]:
        records = {record.id: record for record in self._records(self.index.holders(role, md5s))}
        sides = {key: record.inputs if role == "used" else record.outputs for key, record in records.items()}
        held = [records[key] for key, side in sides.items() if {artifact.md5 for artifact in side}.issuperset(md5s)]
        return sorted(held, key=lambda record: record.started or BEFORE_ALL, reverse=True)

    def _records(self, files: list[tuple[str, str]]) -> list[Record]:
        """The records among these (run, name), by the time they began."""
        records, newer = [], []
        for run, name in files:
            where = f"{self.place}/{run}/{name}"
            try:
                data = self._read(run, name)
                if data is not None:
                    records.append(parse_record(parse(data, where), where))
            except NewerError as error:
                newer.append(str(error))
            except UserError as error:
                self._warn(str(error))
        if newer and not records:
            raise NewerError(f"{self.place}/{files[0][0]}: {all_newer(len(newer))}")
        for line in newer:
            self._warn(line)
        return sorted(records, key=lambda record: (record.started or BEFORE_ALL, record.id))

    def _names(self, run: str) -> list[str]:
        try:
            return self._files.names(run)
        except OSError as error:
            raise UserError(f"{self.place}/{run}: not readable ({error.strerror}); look at its permissions") from None

    def _read(self, run: str, name: str) -> bytes | None:
        try:
            return self._files.read(run, name)
        except OSError as error:
            parse(error, f"{self.place}/{run}/{name}")
            raise

    def _warn(self, line: str) -> None:
        self._warnings[line] = None
