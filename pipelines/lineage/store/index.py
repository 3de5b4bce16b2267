"""The index of a lineage store: what a log of thousands of runs asks for, in SQLite, in the user's cache folder.

It is disposable: made from the records, brought up to date before it is asked, and made anew where it is broken or has
another format. Where it cannot be kept, it lives in memory. Its journal is SQLite's plain one: WAL needs memory that
all processes share, which a home on a network has not, and the writes here are short.
"""

import contextlib
import fcntl
import functools
import gc
import hashlib
import itertools
import os
import signal
import sqlite3
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

from pydantic_core import from_json, to_json

from components.lineage.record import VERSION
from mcm.artifacts import cache_folder
from pipelines.lineage.store.places import Folder, Place
from pipelines.lineage.store.summary import LINK, begin, summarise

FORMAT = 1000 * 1 + VERSION  # of the table and of a Summary. Another VERSION: what was too new may be readable now
TICK = 2 * 10**9  # ns: a folder that changed so shortly before it was read may change again within its clock's tick
PATIENCE = 30.0  # seconds to wait for a process that writes
CHUNK = 32  # runs that are read in one go
BATCH = 2048  # runs that are written at once, so that an interrupted first reading of a bucket is not lost
PROCESSES = 4
MEMORY = ":memory:"
# What says nothing about the file: it is there, and cannot be used now. All else means that it is damaged.
PASSING = (
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_FULL,
)
TABLE = """create table runs (run text primary key, stamp integer, read integer, started real, lasting integer,
    warnings blob, facts blob, files blob, made blob, taken blob, used blob, parameters blob)"""
# Of two processes that read a run at different times, the later one knows better.
PUT = f"""insert into runs values ({", ".join("?" * 12)}) on conflict (run) do update set stamp = excluded.stamp,
    read = excluded.read, started = excluded.started, lasting = excluded.lasting, warnings = excluded.warnings,
    facts = excluded.facts, files = excluded.files, made = excluded.made, taken = excluded.taken,
    used = excluded.used, parameters = excluded.parameters where excluded.read >= runs.read"""
NEWEST = "order by started desc nulls last, run desc"

T = TypeVar("T")
Row = tuple[Any, ...]


class Index:
    """The runs of one store as they were when it was first asked. `where` is how messages name the store."""

    def __init__(self, place: Place, where: str):
        self.place, self.where = place, where
        self.file = cache_folder() / "lineage" / f"{hashlib.sha256(place.key.encode()).hexdigest()[:24]}.sqlite"
        self._lock_file = self.file.with_suffix(".lock")
        self.warnings: list[str] = []
        self._connection: sqlite3.Connection | None = None
        self._lock: IO[bytes] | None = None
        self._inode = -1

    def ask(self, query: str, values: Sequence[Any], read: Callable[[list[Row]], T]) -> T:
        """What `read` makes of rows of the table `runs`. A ValueError there means that the index is damaged."""
        for _ in range(2):
            try:
                return read(self._opened(str(self.file)).execute(query, values).fetchall())
            except (sqlite3.Error, ValueError, struct.error, OSError) as error:
                self.close()
                reason = str(error)
                if isinstance(error, OSError) or getattr(error, "sqlite_errorcode", -1) & 0xFF in PASSING:
                    break
                self._discard()
        connection = self._opened(MEMORY)
        self.warnings.append(
            f"{self.file.parent}: no index can be kept there ({reason}), so all of {self.where} is read each time; "
            "make room, or set XDG_CACHE_HOME to a folder that can be written"
        )
        return read(connection.execute(query, values).fetchall())

    def holders(self, role: str, md5s: Sequence[str]) -> list[tuple[str, str]]:
        """(run, file) of each record that `made`, has `taken` or `used` all these artifacts, newest run first."""
        keys = [begin(md5) for md5 in md5s]

        def read(rows: list[Row]) -> list[tuple[str, str]]:
            return [(run, name) for run, files, links in rows for name in _named(from_json(files), links, keys)]

        both = " and ".join(f"instr({role}, ?)" for _ in keys)
        return self.ask(f"select run, files, {role} from runs where {both} {NEWEST}", keys, read)

    def close(self) -> None:
        """Let others replace the file."""
        if self._connection is not None:
            self._connection.close()
        if self._lock is not None:
            self._lock.close()
        self._connection = self._lock = None

    def _opened(self, file: str) -> sqlite3.Connection:
        """The table as the store is now. All who use the file share a lock, so that none of them loses it."""
        if self._connection is None:
            try:
                if file != MEMORY:
                    self.file.parent.mkdir(parents=True, exist_ok=True)
                    self._lock = self._lock_file.open("ab")
                    fcntl.flock(self._lock, fcntl.LOCK_SH)
                    self._inode = _inode(self.file)
                self._connection = sqlite3.connect(file, timeout=PATIENCE, isolation_level=None)
                _prepare(self._connection)
                self._update(self._connection)
            except BaseException:
                self.close()
                raise
        return self._connection

    def _discard(self) -> None:
        """Remove the file, unless somebody uses it or has replaced it already."""
        with self._lock_file.open("ab") as lock:
            for _ in range(30):
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if _inode(self.file) == self._inode:
                        self.file.with_name(f"{self.file.name}-journal").unlink(missing_ok=True)
                        self.file.unlink(missing_ok=True)
                    return
                if _inode(self.file) != self._inode:
                    return
                time.sleep(0.01)

    def _update(self, connection: sqlite3.Connection) -> None:
        """Read what is new, drop what is gone."""
        now = time.time_ns()
        rows = connection.execute("select run, stamp, read, lasting from runs").fetchall()
        settled = TICK if self.place.ticks else -(2**63)
        known = {run: stamp for run, stamp, read, lasting in rows if lasting and read - stamp > settled}
        stamps = self.place.stamps()
        new = [run for run, stamp in stamps.items() if known.get(run) != stamp]
        if gone := [(run,) for run, *_ in rows if run not in stamps]:
            connection.execute("begin immediate")
            connection.executemany("delete from runs where run = ?", gone)
            connection.execute("commit")
        found = ((run, stamps[run], now, *rest) for run, *rest in _summaries(self.place, new, self.where))
        while batch := list(itertools.islice(found, BATCH)):
            connection.execute("begin immediate")
            connection.executemany(PUT, batch)
            connection.execute("commit")
        warned = connection.execute("select warnings from runs where warnings <> ? order by run", (b"[]",)).fetchall()
        self.warnings = [
            *(f"{self.where}/{name}: in no run's folder, and left out; move it" for name in self.place.strays()),
            *(line for (lines,) in warned for line in from_json(lines)),
        ]


def _prepare(connection: sqlite3.Connection) -> None:
    """Make the table in an empty file. DatabaseError where the file holds another format."""
    connection.execute("pragma synchronous = normal")
    connection.execute("pragma cache_size = -65536")
    if _format(connection) == 0:
        connection.execute("begin immediate")
        if _format(connection) == 0:  # as it was before we waited
            connection.execute(TABLE)
            connection.execute(f"pragma user_version = {FORMAT}")
        connection.execute("commit")
    if _format(connection) != FORMAT:
        raise sqlite3.DatabaseError(f"format {_format(connection)}, and {FORMAT} is needed")


def _inode(file: Path) -> int:
    return file.stat().st_ino if file.exists() else -1


def _format(connection: sqlite3.Connection) -> int:
    return int(connection.execute("pragma user_version").fetchone()[0])


def _named(files: list[str], links: bytes, keys: list[bytes]) -> list[str]:
    """Those of a run's files that have a link to every key."""
    numbers = [{number for link, number in LINK.iter_unpack(links) if link == key} for key in keys]
    return [files[number] for number in sorted(set.intersection(*numbers))]


def _summaries(place: Place, runs: Sequence[str], where: str) -> Iterator[Row]:
    """What the index keeps of each run, in any order: by several processes where there is much to read."""
    chunks = [runs[at : at + CHUNK] for at in range(0, len(runs), CHUNK)]
    summarised = functools.partial(_summarised, place, where)
    processes = min(PROCESSES, len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1, len(chunks) // 4)
    # A bucket is waited for, in threads; and where threads run, a fork may take a lock along that nobody opens.
    if processes < 2 or not isinstance(place, Folder) or threading.active_count() > 1:
        yield from itertools.chain.from_iterable(map(summarised, chunks))
        return
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    fork = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(processes, fork, initializer=_quietly) as pool:
        try:
            yield from itertools.chain.from_iterable(pool.map(summarised, chunks))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _quietly() -> None:
    """Ctrl-C is the parent's to answer. JSON has no cycles to collect."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.disable()


def _summarised(place: Place, where: str, runs: Sequence[str]) -> list[Row]:
    rows = []
    for run, files in place.files(runs):
        s = summarise(run, files, where)
        kept = (to_json(s.warnings), to_json(s.facts), to_json(s.files), s.made, s.taken, s.used, to_json(s.parameters))
        rows.append((run, s.started, s.lasting, *kept))
    return rows
