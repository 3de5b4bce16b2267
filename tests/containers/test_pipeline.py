"""The whole graph in containers: the bytes of a run without them, and of one whose training was killed."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.chain.programs import ROOT, environment, write_params
from tests.conftest import data_section, tiny_params, write_pictures
from tests.containers.conftest import podman

pytestmark = pytest.mark.containers

EXEMPT = ("timing", "report")  # they hold measured seconds


def params_of(folder: Path) -> Path:
    """Tiny parameters with one student of each method, and a teacher that trains long enough to be killed."""
    params = {"data": data_section(write_pictures(folder / "pictures")), **tiny_params()}
    params["students"] |= {"steps": [1]}
    params["teacher"] |= {"iterations": 600, "checkpoint_every": 10}
    return write_params(folder / "params.yaml", params)


def start(params: Path, root: Path, *options: str) -> subprocess.Popen[str]:
    words = ["-m", "pipelines.commands.run", "--local", "--json", "--params", params, "--root", root, *options]
    with root.with_suffix(".err").open("w") as log:
        return subprocess.Popen(
            [sys.executable, *map(str, words)],
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )


def finish(process: subprocess.Popen[str], root: Path) -> dict[str, Any]:
    """What a run says it made."""
    out, _ = process.communicate()
    logs = "".join(path.read_text()[-5000:] for path in root.glob("*/log.txt"))
    assert process.returncode == 0, root.with_suffix(".err").read_text() + logs
    return json.loads(out)


def hashes(made: dict[str, Any]) -> dict[tuple[str, str, str], str]:
    """md5 of what a run made, by task, output and model."""
    return {(row["task"], row["output"], row["name"]): row["md5"] for row in made["artifacts"]}


def comparable(made: dict[str, Any]) -> dict[tuple[str, str, str], str]:
    return {key: md5 for key, md5 in hashes(made).items() if not set(EXEMPT) & set(key)}


@pytest.fixture(scope="module")
def whole(cpu_image: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Parameters, and an unbroken run in containers."""
    folder = tmp_path_factory.mktemp("whole")
    params = params_of(folder)
    root = folder / "containers"
    return params, finish(start(params, root, "--runner", "container", "--image", cpu_image), root)


def test_a_run_in_containers_makes_the_bytes_of_one_without(whole: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    params, made = whole
    alone = finish(start(params, tmp_path / "alone"), tmp_path / "alone")
    assert len(comparable(made)) >= 8
    assert comparable(made) == comparable(alone)
    assert hashes(made).keys() == hashes(alone).keys()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_training_container_that_is_ended_is_tried_again_and_goes_on(
    whole: tuple[Path, dict[str, Any]], cpu_image: str, tmp_path: Path, number: signal.Signals
) -> None:
    params, made = whole
    root = tmp_path / "killed"
    before = set(podman("ps", "--quiet").split())
    process = start(params, root, "--runner", "container", "--image", cpu_image, "--retries", "1")
    while not list(root.glob("store/state/*teacher-*/checkpoints/checkpoint-*")):
        assert process.poll() is None, root.with_suffix(".err").read_text()
        time.sleep(0.05)
    (training,) = set(podman("ps", "--quiet").split()) - before
    podman("kill", "--signal", number.name, training)
    assert comparable(finish(process, root)) == comparable(made)
    (log,) = root.glob("*/log.txt")
    said = re.sub(r"\x1b\[\d+m", "", log.read_text())
    assert re.findall(r"Task 'train-teacher' finished with status (\w+)", said) == ["FAILURE", "SUCCESS"]
    assert f"the container was ended by signal {number.value}" in said
    first, second = re.findall(r"^\s*teacher: .* (\d+)/600 \[00:00<\?", said, re.MULTILINE)
    assert first == "0" and int(second) >= 10, "the second attempt began anew"
    if number is signal.SIGTERM:  # which leaves time to write a checkpoint of that very iteration
        assert f"stopped by SIGTERM at iteration {second} of 600" in said
    assert not list(root.glob("store/state/*teacher-*/checkpoints/checkpoint-*"))
