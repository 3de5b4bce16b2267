"""Tasks in containers through KFP's local runner: what failed is a failure, and nothing is left behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from kfp import dsl, local

from pipelines.docker_runner import container_runner
from tests.chain.programs import environment
from tests.containers.conftest import podman

pytestmark = pytest.mark.containers


def run(image: str, folder: Path, script: str, retries: int = 0, mode: str = "rw", network: str | None = None) -> None:
    """One task that runs a shell script, with `folder` mounted; RuntimeError where it fails."""

    @dsl.container_component
    def task() -> dsl.ContainerSpec:
        return dsl.ContainerSpec(image=image, command=["sh", "-c", script])

    @dsl.pipeline
    def chain() -> None:
        one = task().set_caching_options(False)
        if retries:
            one.set_retry(retries, backoff_duration="0s")

    with container_runner({folder: mode}, {"GREETING": "hé"}, network=network) as runner:
        local.init(runner, pipeline_root=str(folder / "root"))
        chain()


@pytest.fixture
def containers(engine: str) -> Callable[[], set[str]]:
    """The containers that came into being since the test began, running or not."""
    before = set(podman("ps", "--all", "--quiet", "--no-trunc").split())
    return lambda: set(podman("ps", "--all", "--quiet", "--no-trunc").split()) - before


def test_a_task_that_passes(cpu_image: str, tmp_path: Path, containers: Callable[[], set[str]]) -> None:
    run(cpu_image, tmp_path, f"echo $GREETING > {tmp_path}/said; id -u >> {tmp_path}/said")
    assert (tmp_path / "said").read_text() == f"hé\n{os.getuid()}\n"
    assert (tmp_path / "said").stat().st_uid == os.getuid()
    assert containers() == set()


@pytest.mark.parametrize("script", ["exit 3", "sleep 1; exit 3", "no-such-program", "sh -c 'kill -9 $$'; exit $?"])
def test_a_task_that_fails_is_a_failure(
    cpu_image: str, tmp_path: Path, containers: Callable[[], set[str]], script: str
) -> None:
    with pytest.raises(RuntimeError, match=r"FAILURE.*Inner task failed: .*task"):
        run(cpu_image, tmp_path, script)
    assert containers() == set()


def test_a_failed_task_is_tried_again(cpu_image: str, tmp_path: Path) -> None:
    run(cpu_image, tmp_path, f"echo x >> {tmp_path}/tries; test $(wc -l < {tmp_path}/tries) = 3", retries=2)
    assert (tmp_path / "tries").read_text() == "x\n" * 3
    with pytest.raises(RuntimeError, match="FAILURE"):
        run(cpu_image, tmp_path, f"echo x >> {tmp_path}/tries; exit 1", retries=1)
    assert (tmp_path / "tries").read_text() == "x\n" * 5


def test_a_killed_container_is_a_failure_and_is_tried_again(
    cpu_image: str, tmp_path: Path, containers: Callable[[], set[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    def kill() -> None:
        while not (tmp_path / "tries").exists():
            time.sleep(0.05)
        (running,) = containers()
        podman("kill", "--signal", "KILL", running)

    killer = threading.Thread(target=kill)
    killer.start()
    script = f"echo x >> {tmp_path}/tries; test $(wc -l < {tmp_path}/tries) = 2 || sleep 60"
    run(cpu_image, tmp_path, script, retries=1)
    killer.join()
    assert (tmp_path / "tries").read_text() == "x\n" * 2
    assert "the container was ended by signal 9" in capsys.readouterr().out
    assert containers() == set()


def test_what_a_task_prints_is_seen_while_it_runs(
    cpu_image: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = (
        f"printf 'käse '; sleep 0.2; echo ünd; echo to-stderr >&2; while [ ! -e {tmp_path}/seen ]; do sleep 0.1; done"
    )
    seen: list[str] = []

    def watch() -> None:
        while "to-stderr" not in "".join(seen):
            seen.append(capsys.readouterr().out)
            time.sleep(0.1)
        (tmp_path / "seen").touch()

    watcher = threading.Thread(target=watch)
    watcher.start()
    run(cpu_image, tmp_path, script)
    watcher.join()
    assert "käse ünd\n" in "".join(seen)


def test_a_mount_can_be_read_only_and_the_network_can_be_off(cpu_image: str, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    script = f"! touch {tmp_path}/x 2>/dev/null && test $(ls /sys/class/net) = lo"
    run(cpu_image, tmp_path, script, mode="ro", network="none")
    assert not (tmp_path / "x").exists()


def test_an_image_that_is_not_here_is_said_in_one_line(
    engine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RuntimeError, match="FAILURE"):
        run("localhost/no-such-image:1", tmp_path, "true")
    assert (
        "error: image localhost/no-such-image:1: not in this engine; build it with containers/build-local.sh, "
        "or name one with --image"
    ) in [line.strip() for line in capsys.readouterr().out.splitlines()]


INTERRUPTED = """
import sys
from pathlib import Path
from components.runner import command
from tests.containers.test_runner import run

command(lambda argv: run(argv[0], Path(argv[1]), f"touch {argv[1]}/started; sleep 600"))(sys.argv[1:])
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_container_with_the_run(
    cpu_image: str, tmp_path: Path, containers: Callable[[], set[str]], number: signal.Signals
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, cpu_image, str(tmp_path)],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (tmp_path / "started").exists():
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.1)
    assert len(containers()) == 1
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.splitlines()[-1] == "error: interrupted; the same command goes on from the newest checkpoint"
    assert containers() == set()
