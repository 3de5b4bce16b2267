"""The server that all tests of storage speak to."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from components.storage import gcs
from tests.storage.server import BUCKET, Server, Wire, free_port


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds instead of minutes until a server counts as gone."""
    monkeypatch.setattr(gcs, "QUICK", 1.0)
    monkeypatch.setattr(gcs, "PATIENT", 20.0)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "multistep-consistency"


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("gcs"))
    server.start()
    server.create(BUCKET)
    yield server
    server.stop()


@pytest.fixture
def server(running: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server with the bucket `bkt`, which the environment names."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{running.port}")
    return running


@pytest.fixture
def uri(server: Server, request: pytest.FixtureRequest) -> str:
    """A prefix of the test's own."""
    return f"gs://{BUCKET}/{request.node.name}"


@pytest.fixture
def wired(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Server, Wire]]:
    """A server of the test's own behind a wire that the test can cut."""
    port = free_port()
    server = Server(tmp_path_factory.mktemp("wired"), seen_as=port)
    server.start()
    server.create(BUCKET)
    wire = Wire(port, server.port)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    yield server, wire
    wire.close()
    server.stop()
