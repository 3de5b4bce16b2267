"""What the container runner says where it cannot run, and how it reads a log. No engine is needed."""

import sys
from pathlib import Path

import pytest
from kfp.local import docker_task_handler

from mcm.errors import UserError
from pipelines.docker_runner import _lines, container_runner

INSTEAD = "start Docker, or podman system service and set DOCKER_HOST to its socket, or use --runner subprocess"


@pytest.mark.parametrize(
    ("address", "reason"),
    [("unix:///no/such.sock", "No such file or directory"), ("tcp://127.0.0.1:9", "Connection refused")],
)
def test_no_engine_is_one_line(monkeypatch: pytest.MonkeyPatch, address: str, reason: str) -> None:
    monkeypatch.setenv("DOCKER_HOST", address)
    before = docker_task_handler.run_docker_container
    with pytest.raises(UserError) as error, container_runner({}):
        pass
    assert str(error.value) == f"container engine: no answer at {address} ({reason}); {INSTEAD}"
    assert docker_task_handler.run_docker_container is before


def test_no_docker_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "docker", None)
    with pytest.raises(UserError) as error, container_runner({}):
        pass
    assert str(error.value) == "containers: no Python package docker; pip install docker, or use --runner subprocess"


def test_a_mount_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error, container_runner({tmp_path / "x": "ro"}):
        pass
    assert str(error.value) == f"{tmp_path}/x: not here, so no container can have it; name what is there"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_a_log_is_read_by_lines_however_it_is_cut(size: int) -> None:
    data = "eins\nzwei – drei\r\n\nbar: 1\rbar: 2\r\nübrig".encode()
    lines = list(_lines(data[k : k + size] for k in range(0, len(data), size)))
    assert lines == ["eins", "zwei – drei", "", "bar: 1", "bar: 2", "übrig"]
