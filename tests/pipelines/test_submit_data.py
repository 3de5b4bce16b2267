"""What `submit` looks at and copies in a bucket, on a real server that speaks Google Cloud Storage."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.storage import gcs, list_names, listing_version, write_bytes
from tests.chain.programs import ROOT
from tests.pipelines.conftest import IMAGE, Said, Verb
from tests.pipelines.kfp_server import KFPServer
from tests.storage.server import BUCKET, Server


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("gcs"))
    made.start()
    made.create(BUCKET)
    yield made
    made.stop()


@pytest.fixture
def store(storage: Server, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A prefix of the test's own."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{storage.port}")
    monkeypatch.setattr(gcs, "QUICK", 1.0)
    return f"gs://{BUCKET}/{request.node.name}"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "cats").mkdir(parents=True)
    (folder / "cats" / "1.png").write_bytes(b"one")
    (folder / "2.png").write_bytes(b"two")
    return folder


@pytest.fixture
def submit(verb: Verb, server: KFPServer) -> Verb:
    common = ("--profile", "cpu", "--image", IMAGE, "--params", ROOT / "params.yaml", "--host", server.url, "--json")
    return lambda *arguments: verb("submit", *common, *arguments)


def sent(server: KFPServer) -> dict[str, object]:
    return list(server.runs.values())[-1]["runtime_config"]["parameters"]


def findings(said: Said) -> list[str]:
    assert said.status == 2
    return list(said.json["findings"])


def test_a_local_folder_is_copied_under_the_hash_of_its_content(
    server: KFPServer, submit: Verb, store: str, images: Path
) -> None:
    assert submit("--store", store, "--data", images).status == 0
    version = listing_version(images)
    place = f"{store}/data/{version}/photos"
    assert list_names(place) == ["2.png", "cats/1.png"]
    assert sent(server)["data_version"] == version == listing_version(place)
    assert {"source": "folder", "path": place}.items() <= sent(server)["data"].items()  # type: ignore[attr-defined]
    (images / "2.png").write_bytes(b"changed")
    assert submit("--store", store, "--data", images).status == 0
    assert sent(server)["data_version"] == listing_version(images) != version


def test_images_in_a_bucket_stay_there(server: KFPServer, submit: Verb, store: str) -> None:
    write_bytes(f"{store}/mine/1.png", b"one")
    assert submit("--store", store, "--data", f"{store}/mine").status == 0
    assert sent(server)["data_version"] == listing_version(f"{store}/mine")
    assert sent(server)["data"]["path"] == f"{store}/mine"  # type: ignore[index]
    assert list_names(store) == ["mine/1.png"]


def test_images_named_in_the_parameters_are_copied_too(
    server: KFPServer, submit: Verb, store: str, images: Path
) -> None:
    assert submit("--store", store, "-S", "data.source=folder", "-S", f"data.path={images}").status == 0
    assert sent(server)["data_version"] == listing_version(images)


def test_nothing_is_copied_where_anything_is_missing(server: KFPServer, submit: Verb, store: str, images: Path) -> None:
    said = submit("--store", store, "--data", images, "-S", "teacher.iterations=none")
    assert len(findings(said)) == 1
    assert submit("--store", store, "--data", images, "--check").status == 0
    assert (server.seen, list_names(store)) == ([], [])


def test_a_bucket_that_is_not_there(server: KFPServer, submit: Verb, store: str) -> None:
    said = submit("--store", "gs://no-such-bucket/mcm")
    assert findings(said) == ["gs://no-such-bucket: no such bucket; create it or name another"]
    assert server.seen == []


def test_images_that_are_not_there(server: KFPServer, submit: Verb, store: str) -> None:
    said = submit("--store", store, "--data", f"{store}/none")
    assert findings(said) == [f"{store}/none: nothing is there; check the name, or make it first"]


def test_what_is_given_is_what_it_is_given_for(server: KFPServer, submit: Verb, store: str) -> None:
    write_bytes(f"{store}/teacher/config.json", json.dumps({"kind": "denoiser", "version": 1}).encode())
    write_bytes(f"{store}/dataset/config.json", json.dumps({"kind": "dataset", "version": 1}).encode())
    given = ("--store", store, "--teacher", f"{store}/teacher/", "--dataset", f"{store}/dataset")
    assert submit(*given).status == 0
    assert (sent(server)["teacher_uri"], sent(server)["dataset_uri"]) == (f"{store}/teacher", f"{store}/dataset")
    assert "data_version" not in sent(server)
    server.seen.clear()
    said = submit("--store", store, "--teacher", f"{store}/dataset", "--dataset", f"{store}/none")
    assert findings(said) == [
        f"{store}/none/config.json: nothing is there; check the name, or make it first",
        f"--teacher {store}/dataset: holds a dataset, and a denoiser is needed",
    ]
    assert server.seen == []
