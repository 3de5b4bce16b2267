"""Reading a lineage store: what is found, what is left out and said, and that it touches no more than it must."""

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from components.lineage.record import NewerError, Origin, Record, Run, RunRecord
from components.lineage.store import keep, record_name
from mcm.errors import UserError
from pipelines.lineage.store.records import LineageStore
from tests.chain.programs import ROOT
from tests.lineage.builders import chain, file_name, record, write

FORK = multiprocessing.get_context("fork")
FIRST, SECOND = chain("run-1"), chain("run-2", parameters={"teacher.seed": 5}, begin=10_000)
ASKED = RunRecord(run=Run(id="run-1", by="kubeflow"), params={"teacher": {"seed": 0}})


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A store with two runs of everything."""
    write(tmp_path / "lineage", FIRST, ASKED)
    write(tmp_path / "lineage", SECOND)
    return tmp_path / "lineage"


def test_records_come_back_as_they_were_written(place: Path) -> None:
    store = LineageStore(place)
    assert store.runs() == ["run-1", "run-2"]
    assert store.records("run-1") == FIRST and store.records("run-2") == SECOND
    assert store.asked("run-1") == ASKED and store.asked("run-2") is None
    assert store.warnings == []


def test_a_record_of_any_size_is_read_whole(place: Path) -> None:
    large = record("evaluate", run="run-3", parameters={f"evaluation.{'x' * 50}{n}": n for n in range(4000)})
    (path,) = write(place, [large])
    assert path.stat().st_size > 2**17
    store = LineageStore(place)
    assert store.records("run-3") == [large]
    store.made("0" * 32)
    assert store.warnings == []


@pytest.mark.parametrize("name", ["run-3", "run", "..", ".", "run-1/..", "", "../lineage/run-1"])
def test_a_run_that_is_not_there(place: Path, name: str) -> None:
    store = LineageStore(place)
    assert not store.has(name) and store.records(name) == [] and store.asked(name) is None
    assert store.has("run-1")


def test_who_made_and_used_an_artifact_newest_first(place: Path) -> None:
    store = LineageStore(place)
    dataset = FIRST[0].outputs[0].md5
    assert store.made(dataset) == [SECOND[0], FIRST[0]]  # equal bytes, made twice
    users = [r for r in (*SECOND, *FIRST) if dataset in {a.md5 for a in r.inputs}]
    assert store.used(dataset) == sorted(users, key=lambda r: str(r.started), reverse=True)
    teacher = FIRST[1].outputs[0].md5
    assert store.made(teacher) == [FIRST[1]]
    both = [r for r in reversed(FIRST) if teacher in {a.md5 for a in r.inputs} >= {dataset}]
    assert store.used(dataset, teacher) == both
    assert store.used(dataset, teacher.removesuffix(".dir")) == []
    assert len(store.index.holders("used", [dataset, teacher])) == len(both) < len(store.used(dataset))
    assert store.made(teacher.removesuffix(".dir")) == []  # a file's md5 is not a folder's
    assert store.made("0" * 32) == store.used("0" * 32) == store.used(teacher, "0" * 32) == []


def test_who_took_an_artifact_is_named_only_where_nobody_is_known_to_have_made_it(place: Path) -> None:
    taken = chain("run-3", by="kubeflow", earlier=FIRST, begin=20_000)
    assert taken[1].cached_from == Origin(run="run-1", record=FIRST[1].id)
    write(place, taken)
    teacher = FIRST[1].outputs[0].md5
    assert LineageStore(place).made(teacher) == [FIRST[1]]
    for file in (place / "run-1").iterdir():
        file.unlink()
    assert LineageStore(place).made(teacher) == [taken[1]]


def broken(path: Path) -> str:
    """Cut a record short, as a full disk may; the warning about it."""
    path.write_bytes(path.read_bytes()[:200])
    return f"{path}: cut short or no JSON, and left out; delete it, the others are whole"


def spoil(place: Path) -> list[str]:
    """Put every kind of file into run-1 that is no record; what is said of each."""
    folder = place / "run-1"
    (folder / "empty.json").touch()
    (folder / "foreign.json").write_text('{"version": 1}')
    (folder / "list.json").write_text("[]")
    newer = FIRST[0].model_dump_json().replace('"version":1', '"version":2')
    (folder / "newer.json").write_text(newer)
    (folder / "invalid.json").write_text(FIRST[0].model_dump_json().replace('"stage"', '"stages"'))
    (folder / "folder.json").mkdir()
    os.mkfifo(folder / "pipe.json")  # reading it must not wait for a writer
    short = broken(folder / file_name(FIRST[1]))
    (folder / ".temporary.json.abc").write_text("half a rec")  # what a killed writer leaves
    (folder / ".temporary.json").write_text("half a rec")
    (folder / "README.md").write_text("not a record, and not named like one")
    left = "cut short or no JSON, and left out; delete it, the others are whole"
    return [
        f"{folder}/empty.json: {left}",
        f"{folder}/folder.json: not readable (Is a directory); look at it, or move it out of the store",
        f"{folder}/foreign.json: not a lineage record; move it out of the store",
        f"{folder}/invalid.json: not a valid lineage record (stage: Field required); move it out of the store",
        f"{folder}/list.json: not a lineage record; move it out of the store",
        f"{folder}/newer.json: record version 2, and this program reads up to 1; upgrade it",
        f"{folder}/pipe.json: {left}",
        short,
    ]


def test_what_is_no_record_is_named_and_nothing_else_is_lost(place: Path) -> None:
    said = spoil(place)
    whole = [r for r in FIRST if r is not FIRST[1]]
    store = LineageStore(place)
    assert store.records("run-1") == whole and store.records("run-2") == SECOND
    assert sorted(store.warnings) == sorted(said)
    for _ in range(2):  # without an index, and with it
        indexed = LineageStore(place)
        assert indexed.made(FIRST[0].outputs[0].md5) == [SECOND[0], FIRST[0]]
        assert indexed.made(FIRST[1].outputs[0].md5) == []
        assert sorted(indexed.warnings) == sorted(said)


def test_json_that_lies_in_no_run_is_named(place: Path) -> None:
    (place / "notes.json").write_text("{}")
    store = LineageStore(place)
    store.made("0" * 32)
    assert store.runs() == ["run-1", "run-2"]
    assert store.warnings == [f"{place}/notes.json: in no run's folder, and left out; move it"]


def test_a_run_of_a_newer_version_is_an_error_and_stops_no_other(place: Path) -> None:
    for file in (place / "run-1").glob("*-*.json"):
        file.write_text(file.read_text().replace('"version": 1', '"version": 3'))
    line = f"{place}/run-1: all records of this run (9) have a newer version than this program reads; upgrade it"
    store = LineageStore(place)
    with pytest.raises(NewerError) as error:
        store.records("run-1")
    assert str(error.value) == line
    assert store.made(SECOND[1].outputs[0].md5) == [SECOND[1]] and store.warnings == [line]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cut short or no JSON, and left out; delete it, the others are whole"),
        ('{"kind": "other"}', "not what a pipeline run was asked for; move it out of the store"),
        ('{"kind": "mcm.lineage.run", "version": 2}', "version 2, and this program reads up to 1; upgrade it"),
        ('{"kind": "mcm.lineage.run"}', "not valid (Field required); move it out of the store"),
    ],
)
def test_what_a_run_was_asked_for_may_be_unreadable(place: Path, text: str, said: str) -> None:
    (place / "run-1" / "run.json").write_text(text)
    store = LineageStore(place)
    assert store.asked("run-1") is None and store.records("run-1") == FIRST
    assert store.warnings == [f"{place}/run-1/run.json: {said}"]


def test_a_store_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, said in (
        ("missing", "no lineage store here; name the folder `lineage` of an output root"),
        ("file", "a file, and a lineage store is a folder; name its folder"),
    ):
        for ask in (LineageStore.runs, lambda store: store.made("0" * 32)):
            with pytest.raises(UserError) as error:
                ask(LineageStore(tmp_path / name))
            assert str(error.value) == f"{tmp_path / name}: {said}"


UNPRIVILEGED = """
import os, sys
from pipelines.lineage.store.records import LineageStore
from mcm.errors import UserError
os.setuid(65534)
store = LineageStore(sys.argv[1])
for ask in (lambda: len(store.made("0" * 32)), store.runs, lambda: store.records("run-1")):
    try:
        print(ask())
    except UserError as error:
        print(error)
print(store.warnings)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody who may not read")
def test_folders_that_may_not_be_read(place: Path) -> None:
    for folder in (place, *place.parents):
        if folder.is_relative_to(tempfile.gettempdir()) and folder != Path(tempfile.gettempdir()):
            folder.chmod(0o755)

    def said() -> list[str]:
        variables = {**os.environ, "XDG_CACHE_HOME": str(place.parent / "nobody"), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", UNPRIVILEGED, str(place)]
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    (place.parent / "nobody").mkdir(mode=0o777)
    (place.parent / "nobody").chmod(0o777)
    (place / "run-1").chmod(0o000)
    warning = f"{place}/run-1: not readable (Permission denied); look at it, or move it out of the store"
    error = f"{place}/run-1: not readable (Permission denied); look at its permissions"
    assert said() == ["0", "['run-1', 'run-2']", error, f"['{warning}']"]
    place.chmod(0o000)
    whole = f"{place}: not readable (Permission denied); look at its permissions"
    assert said()[:2] == [whole, whole]
    place.chmod(0o755)


def _keep_many(place: Path, writer: int, count: int) -> None:
    for number in range(count):
        keep(place, record("train_student", f"own-{writer}-{number}", run="shared", begin=number))
        keep(place, record("train_student", f"same-{number}", run="shared", begin=number))


def test_two_writers_at_once_lose_nothing_and_a_reader_sees_whole_records(tmp_path: Path) -> None:
    place, count = tmp_path / "lineage", 60
    (place / "shared").mkdir(parents=True)
    writers = [FORK.Process(target=_keep_many, args=(place, n, count)) for n in range(2)]
    for writer in writers:
        writer.start()
    seen = 0
    while any(writer.is_alive() for writer in writers):
        store = LineageStore(place)
        found = store.records("shared")
        assert len(found) >= seen and store.warnings == []
        seen = len(found)
    assert [writer.exitcode for writer in writers] == [0, 0]
    names = {r.task for r in LineageStore(place).records("shared")}
    assert names == {f"{kind}-{n}" for kind in ("own-0", "own-1", "same") for n in range(count)}
    assert len(list((place / "shared").iterdir())) == 3 * count


def _killed_before(step: str, place: Path, one: Record) -> None:
    def kill(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(os, step, kill)
    keep(place, one)


def test_a_writer_killed_in_the_middle_of_a_record_leaves_the_others(place: Path) -> None:
    one = record("evaluate", "cd-9", run="run-1")
    writer = FORK.Process(target=_killed_before, args=("link", place, one))
    writer.start()
    writer.join()
    assert writer.exitcode == -signal.SIGKILL
    left = [path for path in (place / "run-1").iterdir() if path.name.startswith(f".{record_name(one).split('/')[1]}")]
    assert len(left) == 1 and left[0].stat().st_size > 0
    store = LineageStore(place)
    assert store.records("run-1") == FIRST and store.made(FIRST[1].outputs[0].md5) == [FIRST[1]]
    assert store.warnings == []
    keep(place, one)  # the same again
    assert one in LineageStore(place).records("run-1")


@pytest.fixture(scope="module")
def opened() -> Iterator[Callable[[], list[str]]]:
    """The files and folders that this process opened since the last call."""
    seen: list[str] = []
    watching = [True]

    def hook(event: str, values: tuple[object, ...]) -> None:
        if watching[0] and event in ("open", "os.scandir", "os.listdir") and isinstance(values[0], str | os.PathLike):
            seen.append(os.fspath(values[0]))

    def since() -> list[str]:
        found = seen.copy()
        seen.clear()
        return found

    sys.addaudithook(hook)
    yield since
    watching[0] = False


@pytest.mark.parametrize("runs", [20, 200])
def test_one_run_is_read_without_looking_at_the_others(
    tmp_path: Path, runs: int, opened: Callable[[], list[str]]
) -> None:
    place = tmp_path / "lineage"
    for number in range(runs):
        write(place, chain(f"run-{number:04}", begin=number * 1000.0))
    opened()
    store = LineageStore(place)
    assert store.has("run-0007") and len(store.records("run-0007")) == 9 and store.asked("run-0007") is None
    touched = [name for name in opened() if name.startswith(str(tmp_path))]
    assert touched and all(name.startswith(f"{place}/run-0007") for name in touched)
    assert len(touched) == 2 + 9 + 1  # the folder for has() and for records(), its files, run.json


def test_of_a_store_with_an_index_only_what_is_new_is_read(
    place: Path, opened: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.lineage.store.index.TICK", 0)
    LineageStore(place).made("0" * 32)
    opened()
    LineageStore(place).made("0" * 32)
    assert [name for name in opened() if name.startswith(f"{place}/")] == []
    write(place, chain("run-3", begin=20_000))
    assert len(LineageStore(place).made(FIRST[0].outputs[0].md5)) == 3
    read = [name for name in opened() if name.startswith(f"{place}/") and not name.startswith(f"{place}/run-3")]
    assert len(read) == 2  # the answer's own records of the other runs
