"""Transfers against a real server: round trips, what is sent again and what is not, breaks, corruption, refusals."""

import os
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from components import storage
from components.storage import gcs
from components.storage.store import open_store
from mcm.artifacts import folder_md5
from mcm.errors import UserError
from tests.storage.server import BUCKET, Server, Wire, free_port, refusing

MIB = 2**20


def tree(folder: Path, seed: int) -> Path:
    """A folder of random depth, names and sizes; some files are empty, one is larger than a chunk."""
    draw = random.Random(seed)
    names = ["config.json", "a b.txt", "ü#?%&+.bin", ".hidden", "-dash"]
    names += [f"{draw.choice('abc')}/{draw.choice('xyz')}/{k}.bin" for k in range(draw.randrange(12))]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(draw.randbytes(draw.choice([0, 1, 100, 70_000])))
    (folder / "large.bin").write_bytes(draw.randbytes(gcs.CHUNK + draw.randrange(3 * MIB)))
    return folder


def generations(uri: str) -> dict[str, int | None]:
    return {entry.name: entry.generation for entry in open_store(uri).entries()}


def refused(work: Callable[[], object]) -> str:
    with pytest.raises(UserError) as raised:
        work()
    message = str(raised.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("there", ["bucket", "folder"])
def test_a_folder_comes_back_as_it_went(uri: str, tmp_path: Path, seed: int, there: str) -> None:
    place = uri if there == "bucket" else str(tmp_path / "mounted")
    folder = tree(tmp_path / "sent", seed)
    storage.upload(folder, place)
    storage.download(place, tmp_path / "back")
    assert folder_md5(tmp_path / "back") == folder_md5(folder)
    assert storage.listing_version(place) == storage.listing_version(folder)
    assert storage.list_names(place) == storage.list_names(folder)


@pytest.mark.parametrize("size", [0, 1, gcs.CHUNK, gcs.CHUNK + 1, 3 * gcs.CHUNK])
def test_a_file_comes_back_as_it_went(uri: str, tmp_path: Path, size: int) -> None:
    (tmp_path / "sent").write_bytes(os.urandom(size))
    storage.upload(tmp_path / "sent", f"{uri}/file")
    storage.download(f"{uri}/file", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "sent").read_bytes()


def test_what_is_equal_is_not_sent_again(uri: str, tmp_path: Path) -> None:
    folder = tree(tmp_path / "sent", 0)
    storage.upload(folder, uri)
    first = generations(uri)
    storage.upload(folder, uri)
    assert generations(uri) == first
    data = (folder / "large.bin").read_bytes()
    (folder / "large.bin").write_bytes(bytes([data[0] ^ 1]) + data[1:])  # no change of size
    storage.upload(folder, uri)
    changed = {name for name, generation in generations(uri).items() if generation != first[name]}
    assert changed == {"large.bin", "config.json"}  # the latter says that all of it is there, so it comes last


def test_an_upload_replaces_what_was_there_and_nothing_beside(uri: str, tmp_path: Path) -> None:
    storage.upload(tree(tmp_path / "old", 1), uri)
    storage.write_bytes(f"{uri}-beside", b"stays")
    folder = tmp_path / "new"
    folder.mkdir()
    (folder / "only.txt").write_text("new")
    storage.upload(folder, uri)
    assert storage.list_names(uri) == ["only.txt"]
    assert storage.read_bytes(f"{uri}-beside") == b"stays"


def test_config_is_away_while_a_folder_is_replaced(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader in between finds no artifact, never a mixture of two."""
    storage.upload(tree(tmp_path / "old", 1), uri)
    put = gcs.BucketStore._put

    def fail_after_one(self: gcs.BucketStore, path: Path, name: str) -> None:
        put(self, path, name)
        raise UserError("cut")

    monkeypatch.setattr(gcs.BucketStore, "_put", fail_after_one)
    folder = tree(tmp_path / "new", 2)
    refused(lambda: storage.upload(folder, uri))
    assert "config.json" not in storage.list_names(uri)
    monkeypatch.setattr(gcs.BucketStore, "_put", put)
    storage.upload(folder, uri)
    storage.download(uri, tmp_path / "back")
    assert folder_md5(tmp_path / "back") == folder_md5(folder)


def test_small_objects(uri: str) -> None:
    assert not storage.exists(uri)
    assert storage.write_bytes(f"{uri}/a/one", b"1")
    assert storage.exists(uri) and storage.exists(f"{uri}/a") and storage.exists(f"{uri}/a/one")
    assert not storage.exists(f"{uri}/a/on")
    assert storage.read_bytes(f"{uri}/a/one") == b"1"
    storage.write_bytes(f"{uri}/a/one", b"2")
    assert storage.read_bytes(f"{uri}/a/one") == b"2"
    storage.delete(uri)
    storage.delete(uri)
    assert not storage.exists(uri)


@pytest.mark.parametrize("there", ["bucket", "folder"])
def test_of_two_writers_one_is_first(uri: str, tmp_path: Path, there: str) -> None:
    place = f"{uri}/one" if there == "bucket" else str(tmp_path / "one")
    start = threading.Barrier(8)

    def write(data: bytes) -> bool:
        start.wait()
        return storage.write_bytes(place, data, if_absent=True)

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(write, [bytes([k]) for k in range(8)]))
    assert won.count(True) == 1
    assert storage.read_bytes(place) == bytes([won.index(True)])
    assert storage.write_bytes(place, bytes([won.index(True)]), if_absent=True)  # the same again: that it holds


def test_two_writers_of_the_same_folder_leave_it_whole(uri: str, tmp_path: Path) -> None:
    folder = tree(tmp_path / "sent", 3)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: storage.upload(folder, uri), range(2)))
    storage.download(uri, tmp_path / "back")
    assert folder_md5(tmp_path / "back") == folder_md5(folder)


def test_an_object_that_is_replaced_while_it_is_read_is_no_mixture(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"a" * (2 * gcs.CHUNK))
    (tmp_path / "b").write_bytes(b"b" * (2 * gcs.CHUNK))
    storage.upload(tmp_path / "a", f"{uri}/file")
    original = gcs.BucketStore._get_range

    def replaced(self: gcs.BucketStore, part: tuple[object, Path, int]) -> None:
        if part[2]:
            storage.upload(tmp_path / "b", f"{uri}/file")
        original(self, part)  # type: ignore[arg-type]

    monkeypatch.setattr(gcs.BucketStore, "_get_range", replaced)
    message = refused(lambda: storage.download(f"{uri}/file", tmp_path / "back"))
    assert message.startswith(f"{uri}/file: ") and "run again" in message
    assert not (tmp_path / "back").exists()


def test_fetch_copies_once_for_its_content(uri: str, tmp_path: Path) -> None:
    storage.upload(tree(tmp_path / "flowers", 4), f"{uri}/flowers")
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda _: storage.fetch(f"{uri}/flowers/", tmp_path / "cache"), range(4)))
    assert len(found) == 1
    copy = found.pop()
    assert copy.name == "flowers" and folder_md5(copy) == folder_md5(tmp_path / "flowers")
    inode = copy.stat().st_ino
    assert storage.fetch(f"{uri}/flowers", tmp_path / "cache").stat().st_ino == inode
    storage.write_bytes(f"{uri}/flowers/another", b"1")
    other = storage.fetch(f"{uri}/flowers", tmp_path / "cache")
    assert other != copy and (other / "another").exists()
    assert storage.fetch(tmp_path / "flowers", tmp_path / "cache") == tmp_path / "flowers"


# Breaks


def test_a_broken_upload_goes_on_where_it_was(wired: tuple[Server, Wire], tmp_path: Path) -> None:
    _, wire = wired
    size = 5 * gcs.CHUNK
    (tmp_path / "sent").write_bytes(os.urandom(size))
    wire.cut_up = [wire.up + 3 * MIB, wire.up + 3 * gcs.CHUNK + MIB]
    storage.upload(tmp_path / "sent", f"gs://{BUCKET}/file")
    assert wire.cuts == 2
    assert wire.up < size + 2 * gcs.CHUNK + MIB  # a chunk for each break, and not the file again
    storage.download(f"gs://{BUCKET}/file", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "sent").read_bytes()


def test_an_upload_whose_answer_was_lost_is_whole(wired: tuple[Server, Wire], tmp_path: Path) -> None:
    _, wire = wired
    (tmp_path / "sent").write_bytes(os.urandom(2 * gcs.CHUNK))
    storage.write_bytes(f"gs://{BUCKET}/first", b"1")  # so that the next answers are those of the upload
    wire.cut_down = [wire.down + 1200]
    storage.upload(tmp_path / "sent", f"gs://{BUCKET}/file")
    assert wire.cuts == 1
    storage.download(f"gs://{BUCKET}/file", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "sent").read_bytes()


def test_a_broken_download_goes_on_where_it_was(wired: tuple[Server, Wire], tmp_path: Path) -> None:
    _, wire = wired
    size = 5 * gcs.CHUNK
    (tmp_path / "sent").write_bytes(os.urandom(size))
    storage.upload(tmp_path / "sent", f"gs://{BUCKET}/file")
    before = wire.down
    wire.cut_down = [wire.down + 5 * MIB, wire.down + 2 * gcs.CHUNK]
    storage.download(f"gs://{BUCKET}/file", tmp_path / "back")
    assert wire.cuts == 2
    assert (tmp_path / "back").read_bytes() == (tmp_path / "sent").read_bytes()
    assert wire.down - before < size + 2 * gcs.CHUNK + MIB


def test_an_upload_survives_a_server_that_restarts(wired: tuple[Server, Wire], tmp_path: Path) -> None:
    server, wire = wired
    (tmp_path / "sent").write_bytes(os.urandom(4 * gcs.CHUNK))
    done = ThreadPoolExecutor(1).submit(storage.upload, tmp_path / "sent", f"gs://{BUCKET}/file")
    while wire.up < gcs.CHUNK:
        time.sleep(0.01)
    server.stop()
    server.start()
    done.result(timeout=60)
    storage.download(f"gs://{BUCKET}/file", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "sent").read_bytes()


def test_a_server_that_goes_away_leaves_nothing_half_made(
    wired: tuple[Server, Wire], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gcs, "PATIENT", 1.0)
    server, wire = wired
    tree(tmp_path / "sent", 0)
    storage.upload(tmp_path / "sent", f"gs://{BUCKET}/folder")
    (tmp_path / "back").mkdir()
    (tmp_path / "back" / "kept").write_text("as it was")
    wire.cut_down, wire.after_cut = [wire.down + 2 * MIB], server.stop
    message = refused(lambda: storage.download(f"gs://{BUCKET}/folder", tmp_path / "back"))
    assert f"http://127.0.0.1:{server.seen_as} does not answer" in message
    assert [path.name for path in (tmp_path / "back").iterdir()] == ["kept"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "sent"]


# Corruption


@pytest.mark.parametrize("size", [100, gcs.CHUNK + 5])
def test_an_object_corrupted_at_rest_is_found_out(server: Server, uri: str, tmp_path: Path, size: int) -> None:
    (tmp_path / "sent").write_bytes(os.urandom(size))
    storage.upload(tmp_path / "sent", f"{uri}/file")
    server.corrupt(f"{uri}/file")
    assert refused(lambda: storage.download(f"{uri}/file", tmp_path / "back")) == (
        f"{uri}/file: corrupted, its bytes do not have the crc32c that the bucket keeps; delete it and make it again"
    )
    assert not (tmp_path / "back").exists()
    if size < gcs.CHUNK:
        assert refused(lambda: storage.read_bytes(f"{uri}/file")) == (
            f"{uri}/file: corrupted on the way, the checksums at both ends differ; run the same command again"
        )


def test_bytes_changed_on_the_way_down_are_found_out(wired: tuple[Server, Wire], tmp_path: Path) -> None:
    _, wire = wired
    (tmp_path / "sent").write_bytes(os.urandom(2 * gcs.CHUNK))
    storage.upload(tmp_path / "sent", f"gs://{BUCKET}/file")
    wire.flip_down = [wire.down + gcs.CHUNK]
    assert "corrupted" in refused(lambda: storage.download(f"gs://{BUCKET}/file", tmp_path / "back"))
    storage.download(f"gs://{BUCKET}/file", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "sent").read_bytes()


# Refusals


def test_nothing_there(uri: str, tmp_path: Path) -> None:
    expected = f"{uri}: nothing is there; check the name, or make it first"
    assert refused(lambda: storage.download(uri, tmp_path / "back")) == expected
    assert refused(lambda: storage.read_bytes(uri)) == expected
    assert refused(lambda: storage.listing_version(uri)) == expected
    assert refused(lambda: storage.fetch(uri, tmp_path / "cache")) == expected
    assert refused(lambda: storage.upload(tmp_path / "none", uri)) == (
        f"{tmp_path}/none: nothing is there to copy to {uri}; make it first"
    )
    assert not (tmp_path / "back").exists()


def test_no_bucket(server: Server, tmp_path: Path) -> None:
    expected = "gs://none: no such bucket; create it or name another"
    (tmp_path / "file").write_text("x")
    assert refused(lambda: storage.download("gs://none/a", tmp_path / "back")) == expected
    assert refused(lambda: storage.upload(tmp_path / "file", "gs://none/a")) == expected
    assert refused(lambda: storage.write_bytes("gs://none/a", b"")) == expected
    assert refused(lambda: storage.read_bytes("gs://none/a")) == expected
    assert refused(lambda: storage.exists("gs:///a")) == "gs:///a: names no bucket; write gs://bucket/prefix"
    assert refused(lambda: storage.upload(tmp_path, f"gs://{BUCKET}/")) == (
        f"gs://{BUCKET}/: is a whole bucket; name a prefix in it, such as gs://{BUCKET}/artifact"
    )
    assert refused(lambda: storage.exists("s3://a/b")).startswith("s3://a/b: only gs:// and paths are known")


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    role = "give this account the role roles/storage.objectUser on the bucket 'bkt'"
    said = "x@y.iam.gserviceaccount.com does not have storage.objects.get access"
    with refusing(403, said) as url:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
        expected = f"gs://bkt/a: permission denied (403 {said}); {role}"
        assert refused(lambda: storage.download("gs://bkt/a", tmp_path / "back")) == expected
        assert refused(lambda: storage.exists("gs://bkt/a")) == expected
        assert refused(lambda: storage.write_bytes("gs://bkt/a", b"")).startswith("gs://bkt/a: permission denied (403")
        assert refused(lambda: storage.upload(tmp_path / "file", "gs://bkt/a")) == expected
    with refusing(401, "Invalid Credentials") as url:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
        assert refused(lambda: storage.exists("gs://bkt/a")) == (
            f"gs://bkt/a: {url} wants credentials, and with STORAGE_EMULATOR_HOST none are sent; unset it, or set "
            "API_ENDPOINT_OVERRIDE instead"
        )


def test_a_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
    assert refused(lambda: storage.exists("gs://bkt/a")) == (
        f"gs://bkt/a: {url} does not answer (ConnectionError); check the network, proxies and STORAGE_EMULATOR_HOST, "
        "then run the same command again"
    )


def test_a_server_in_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    with refusing(503, "Backend Error") as url:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
        assert "does not answer (503 Backend Error)" in refused(lambda: storage.exists("gs://bkt/a"))


def test_no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STORAGE_EMULATOR_HOST", "GOOGLE_APPLICATION_CREDENTIALS", "CLOUDSDK_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    assert refused(lambda: storage.exists("gs://bkt/a")) == (
        "gs://bkt/a: no Google credentials found; run 'gcloud auth application-default login', or set "
        "GOOGLE_APPLICATION_CREDENTIALS, or give the pod's service account Workload Identity"
    )


@pytest.mark.parametrize("name", ["a/../../escaped", "a//b", "folder/file/below"])
def test_a_name_that_cannot_be_a_file_is_refused(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    names = ["folder/file", name]
    found = [gcs.Entry(name, 1, 0, 1) for name in names]
    monkeypatch.setattr(gcs.BucketStore, "entries", lambda self, below="": found)
    assert refused(lambda: storage.download(uri, tmp_path / "in" / "back")).endswith(
        "there cannot be a file here; rename or remove that object"
    )
    assert not list(tmp_path.rglob("*escaped*")) and not (tmp_path / "in" / "back").exists()
