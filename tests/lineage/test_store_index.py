"""The index of a store: disposable, up to date, shared by processes, and made anew where it is broken."""

import multiprocessing
import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from components.lineage.store import keep
from pipelines.lineage.log import Entry, Filters, entries
from pipelines.lineage.store import index
from pipelines.lineage.store.records import LineageStore
from tests.lineage.builders import chain, file_name, record, write

FORK = multiprocessing.get_context("fork")
RUNS = [chain(f"run-{n}", parameters={"teacher.seed": n}, begin=n * 2000.0) for n in range(5)]
TEACHERS = [run[1].outputs[0].md5 for run in RUNS]
OLD = 10**15  # ns of the epoch: a time long ago


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)  # no git repository, so that a log has no revisions


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for run in RUNS:
        write(tmp_path / "lineage", run)
    return tmp_path / "lineage"


def right(place: Path) -> LineageStore:
    """Ask for everything; the store that answered rightly."""
    store = LineageStore(place)
    assert [entry.run for entry in entries([store], Filters())] == [f"run-{n}" for n in (4, 3, 2, 1, 0)]
    for run, teacher in zip(RUNS, TEACHERS, strict=True):
        assert store.made(teacher) == [run[1]] and len(store.used(teacher)) == 5
    return store


def file_of(place: Path) -> Path:
    return LineageStore(place).index.file


def _truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def _garbage(file: Path) -> None:
    file.write_bytes(os.urandom(20_000))


def _no_table(file: Path) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute("drop table runs")


def _other_table(file: Path) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute("drop table runs")
        connection.execute("create table runs (run text primary key, stamp integer)")


def _newer(file: Path) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute("pragma user_version = 99999")


def _version(file: Path) -> int:
    with sqlite3.connect(file) as connection:
        return int(connection.execute("pragma user_version").fetchone()[0])


def _spoiled(file: Path) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute("update runs set facts = ?, files = ?", (b"{", b"[["))


def _bytes_flipped(file: Path) -> None:
    data = bytearray(file.read_bytes())
    for at in range(4096, len(data), 64):
        data[at] ^= 0xFF
    file.write_bytes(data)


@pytest.mark.parametrize(
    "damage", [_truncate, _garbage, _no_table, _other_table, _newer, _spoiled, _bytes_flipped, Path.unlink]
)
def test_an_index_that_is_gone_or_broken_or_of_another_version_is_made_anew(
    place: Path, damage: Callable[[Path], None]
) -> None:
    file = file_of(place)
    right(place).index.close()
    whole = file.stat().st_size
    damage(file)
    store = right(place)
    assert store.warnings == [] and file.stat().st_size == whole
    store.index.close()
    with sqlite3.connect(file) as connection:
        assert connection.execute("select count(*) from runs").fetchall() == [(5,)]


def test_a_broken_index_that_another_process_holds_is_left_to_it(place: Path) -> None:
    file = file_of(place)
    holder = right(place)
    _newer(file)  # a newer program at work
    store = right(place)
    assert _version(file) == 99999
    assert store.warnings == [
        f"{file.parent}: no index can be kept there (format 99999, and {index.FORMAT} is needed), so all of {place} is "
        "read each time; make room, or set XDG_CACHE_HOME to a folder that can be written"
    ]
    holder.index.close()
    assert right(place).warnings == [] and _version(file) == index.FORMAT


@pytest.mark.parametrize("cache", ["file", "folder in the way"])
def test_without_a_place_for_the_index_everything_is_read_and_a_warning_says_so(
    place: Path, tmp_path: Path, cache: str
) -> None:
    if cache == "file":
        (tmp_path / "cache").write_text("")
        reason = f"[Errno 20] Not a directory: '{tmp_path}/cache/multistep-consistency/lineage'"
    else:
        file_of(place).mkdir(parents=True)
        reason = "unable to open database file"
    store = right(place)
    assert store.warnings == [
        f"{store.index.file.parent}: no index can be kept there ({reason}), so all of {place} is read each time; "
        "make room, or set XDG_CACHE_HOME to a folder that can be written"
    ]


def test_another_process_that_writes_for_too_long_is_not_waited_for(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = file_of(place)
    right(place).index.close()
    write(place, chain("run-9", begin=-9000.0))
    monkeypatch.setattr(index, "PATIENCE", 0.05)
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("begin immediate")
    store = LineageStore(place)
    assert [e.run for e in entries([store], Filters())] == ["run-4", "run-3", "run-2", "run-1", "run-0", "run-9"]
    assert [line.partition("(")[2].partition(")")[0] for line in store.warnings] == ["database is locked"]
    other.close()


def test_what_comes_and_goes_is_seen(place: Path) -> None:
    right(place)
    shutil.rmtree(place / "run-2")
    (place / "run-3" / file_name(RUNS[3][1])).unlink()
    late = record("train_student", "cd-9", run="run-4", outputs={"out": "a" * 32}, begin=50_000)
    write(place, [late])
    write(place, chain("run-5", by="kubeflow", begin=60_000))
    store = LineageStore(place)
    assert [entry.run for entry in entries([store], Filters())] == ["run-5", "run-4", "run-3", "run-1", "run-0"]
    assert [len(store.made(teacher)) for teacher in TEACHERS] == [
        2,
        1,
        0,
        0,
        1,
    ]  # run-5 made the teacher of run-0 again
    assert store.made("a" * 32) == [late]


def test_two_changes_within_one_tick_of_the_clock_are_seen(place: Path) -> None:
    now = time.time_ns()
    os.utime(place / "run-1", ns=(now, now))
    right(place)
    late = record("train_student", "cd-9", run="run-1", outputs={"out": "a" * 32}, begin=50_000)
    write(place, [late])
    os.utime(place / "run-1", ns=(now, now))
    assert LineageStore(place).made("a" * 32) == [late]


def test_a_change_that_sets_the_time_back_is_seen(place: Path) -> None:
    os.utime(place / "run-1", ns=(OLD + 1, OLD + 1))
    right(place)
    late = record("train_student", "cd-9", run="run-1", outputs={"out": "a" * 32}, begin=50_000)
    write(place, [late])
    os.utime(place / "run-1", ns=(OLD, OLD))  # as rsync does
    assert LineageStore(place).made("a" * 32) == [late]


def test_a_file_mended_under_its_name_is_seen(place: Path) -> None:
    path = place / "run-1" / file_name(RUNS[1][1])
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    os.utime(place / "run-1", ns=(OLD, OLD))
    store = LineageStore(place)
    assert store.made(TEACHERS[1]) == [] and len(store.warnings) == 1
    path.write_bytes(whole)
    os.utime(place / "run-1", ns=(OLD, OLD))
    store = LineageStore(place)
    assert store.made(TEACHERS[1]) == [RUNS[1][1]] and store.warnings == []


def test_records_of_a_newer_version_are_not_read_each_time(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = place / "run-1" / file_name(RUNS[1][1])
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    os.utime(place / "run-1", ns=(OLD, OLD))
    line = f"{path}: record version 2, and this program reads up to 1; upgrade it"
    assert LineageStore(place).made(TEACHERS[1]) == []
    monkeypatch.setattr(index, "TICK", -(2**62))
    read: list[str] = []
    monkeypatch.setattr(index, "summarise", lambda run, *_: read.append(run))
    store = LineageStore(place)
    assert store.made(TEACHERS[1]) == [] and store.warnings == [line] and read == []


def test_who_read_a_run_later_knows_better(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    late = record("train_student", "cd-9", run="run-1", outputs={"out": "a" * 32}, begin=50_000)
    summarised = index._summarised

    def slow(*values: object) -> list[index.Row]:
        rows = summarised(*values)
        monkeypatch.setattr(index, "_summarised", summarised)
        write(place, [late])
        assert LineageStore(place).made("a" * 32) == [late]  # another process, meanwhile
        return rows

    monkeypatch.setattr(index, "_summarised", slow)
    right(place)
    file = file_of(place)
    with sqlite3.connect(file) as connection:
        rows = connection.execute("select length(files) from runs where run = 'run-1'").fetchall()
    assert rows[0][0] > len(file_name(late)) * 9
    assert LineageStore(place).made("a" * 32) == [late]


def test_several_processes_read_what_one_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "many"
    for number in range(40):
        write(place, chain(f"run-{number:02}", begin=number * 1000.0))
    (place / "run-07" / "cut.json").write_text("{")
    monkeypatch.setattr(index, "CHUNK", 2)
    tables = []
    for processes in (1, 3):
        monkeypatch.setattr(index, "PROCESSES", processes)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
        store = LineageStore(place)
        tables.append(
            store.index.ask("select * from runs order by run", (), lambda rows: [r[:2] + r[3:] for r in rows])
        )
        assert store.warnings == [
            f"{place}/run-07/cut.json: cut short or no JSON, and left out; delete it, the others are whole"
        ]
        store.index.close()
        store.index.file.unlink()
    assert tables[0] == tables[1] and len(tables[0]) == 40


def _ask_often(place: Path) -> None:
    for _ in range(5):
        store = LineageStore(place)
        for run, teacher in zip(RUNS, TEACHERS, strict=True):
            assert store.made(teacher) == [run[1]]
        assert store.warnings == []
        store.index.close()


def _write_slowly(place: Path) -> None:
    for number in range(30):
        run, out = f"more-{number % 3}", {"out": f"{number:032}"}
        keep(place, record("train_student", f"cd-{number}", run=run, outputs=out))
        time.sleep(0.01)


def test_processes_build_use_and_discard_the_index_at_once(place: Path) -> None:
    for attempt in range(3):
        workers = [FORK.Process(target=_ask_often, args=(place,)) for _ in range(4)]
        workers.append(FORK.Process(target=_write_slowly, args=(place,)))
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert [worker.exitcode for worker in workers] == [0] * 5
        store = LineageStore(place)
        assert [len(store.made(f"{number:032}")) for number in range(30)] == [1] * 30
        store.index.close()
        (Path.unlink, _garbage, _newer)[attempt](store.index.file)


def test_stores_do_not_mix(place: Path, tmp_path: Path) -> None:
    right(place)
    shutil.move(place, tmp_path / "moved")
    right(tmp_path / "moved")
    write(place, RUNS[0])
    found = entries([LineageStore(place)], Filters())
    assert [entry.run for entry in found] == ["run-0"]
    assert isinstance(found[0], Entry) and found[0].store == str(place)
    (tmp_path / "link").symlink_to(tmp_path / "moved")
    assert file_of(tmp_path / "link") == file_of(tmp_path / "moved") != file_of(place)
    right(tmp_path / "link")
