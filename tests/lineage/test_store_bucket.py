"""A lineage store in a bucket, on a real server."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.lineage.record import Run, RunRecord
from components.lineage.store import keep, keep_run
from components.storage import write_bytes
from components.storage.gcs import BucketStore
from mcm.errors import UserError
from pipelines.lineage.commands.log import main
from pipelines.lineage.store.records import LineageStore
from tests.lineage.builders import chain, file_name, record
from tests.storage.conftest import cache, patience, running, server, uri  # noqa: F401 (fixtures)
from tests.storage.server import BUCKET, Server

FIRST, SECOND = chain("run-1"), chain("run-2", parameters={"teacher.seed": 5}, begin=10_000)
ASKED = RunRecord(run=Run(id="run-1", by="kubeflow"), params={"teacher": {"seed": 0}})


@pytest.fixture
def place(uri: str) -> str:  # noqa: F811
    """A store with two runs of everything."""
    for one in (*FIRST, *SECOND):
        keep(f"{uri}/lineage", one)
    keep_run(f"{uri}/lineage", ASKED)
    return f"{uri}/lineage"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What is read and listed, by name below the store."""
    seen: list[str] = []
    read, entries = BucketStore.read, BucketStore.entries

    def seen_read(self: BucketStore, name: str) -> bytes | None:
        seen.append(name)
        return read(self, name)

    def seen_entries(self: BucketStore, below: str = "") -> list:  # type: ignore[type-arg]
        seen.append(f"{below}/")
        return entries(self, below)

    monkeypatch.setattr(BucketStore, "read", seen_read)
    monkeypatch.setattr(BucketStore, "entries", seen_entries)
    yield seen


def test_a_bucket_is_read_as_a_folder_is(place: str) -> None:
    store = LineageStore(f"{place}/")
    assert store.place == place and store.runs() == ["run-1", "run-2"]
    assert store.records("run-1") == FIRST and store.asked("run-1") == ASKED and store.asked("run-2") is None
    assert store.has("run-1") and not store.has("run") and store.records("run-3") == []
    assert store.made(FIRST[0].outputs[0].md5) == [SECOND[0], FIRST[0]]
    assert store.used(FIRST[1].outputs[0].md5)[-1] == FIRST[2]
    assert store.warnings == []


def test_one_run_is_read_without_the_others_and_the_index_reads_only_what_is_new(place: str, asked: list[str]) -> None:
    assert LineageStore(place).records("run-1") == FIRST
    assert sorted(asked) == sorted(["run-1/", *(f"run-1/{file_name(one)}" for one in FIRST)])
    LineageStore(place).made("0" * 32)
    third = chain("run-3", begin=20_000)
    for one in third:
        keep(place, one)
    asked.clear()
    store = LineageStore(place)
    assert store.made("0" * 32) == []
    assert sorted(asked) == sorted(["/", *(f"run-3/{file_name(one)}" for one in third)])
    assert store.made(third[0].outputs[0].md5) == [third[0], SECOND[0], FIRST[0]]
    late = record("train_student", "cd-9", run="run-1", outputs={"out": "a" * 32}, begin=50_000)
    keep(place, late)
    assert LineageStore(place).made("a" * 32) == [late]


def test_what_is_no_record_is_named_and_nothing_else_is_lost(place: str) -> None:
    for name, text in {
        "run-1/cut.json": '{"kind"',
        "run-1/foreign.json": "{}",
        "run-1/.temporary.json": "{",
        "run-1/deeper/other.json": "{",
        "notes.json": "{}",
        "run-3/newer.json": FIRST[0].model_dump_json().replace('"version":1', '"version":2'),
    }.items():
        write_bytes(f"{place}/{name}", text.encode())
    store = LineageStore(place)
    assert store.made(FIRST[0].outputs[0].md5) == [SECOND[0], FIRST[0]]
    assert store.records("run-1") == FIRST
    assert store.warnings == [
        f"{place}/run-1/cut.json: cut short or no JSON, and left out; delete it, the others are whole",
        f"{place}/run-1/foreign.json: not a lineage record; move it out of the store",
        f"{place}/notes.json: in no run's folder, and left out; move it",
        f"{place}/run-3: all records of this run (1) have a newer version than this program reads; upgrade it",
    ]


def test_a_bucket_without_a_store(uri: str) -> None:  # noqa: F811
    for place, said in (
        (f"{uri}/none", f"{uri}/none: no lineage store here; name the folder `lineage` of an output root"),
        ("gs://none/lineage", "gs://none: no such bucket; create it or name another"),
    ):
        with pytest.raises(UserError) as error:
            LineageStore(place).runs()
        assert str(error.value) == said


def test_another_server_of_that_name_is_another_store(
    place: str,
    server: Server,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert len(LineageStore(place).made(FIRST[0].outputs[0].md5)) == 2
    other = Server(tmp_path / "other")
    other.start()
    try:
        other.create(BUCKET)
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{other.port}")
        keep(place, FIRST[0])
        assert LineageStore(place).made(FIRST[0].outputs[0].md5) == [FIRST[0]]
    finally:
        other.stop()


def test_the_log_of_a_bucket(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["--store", place])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["run", "run-2", "run-1"]
    assert os.environ["XDG_CACHE_HOME"] and LineageStore(place).index.file.is_file()
