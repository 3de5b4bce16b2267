"""A container engine and the cpu image, for tests that run real containers."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines import images

BUILD = "build it with containers/build-local.sh"


def podman(*words: str | Path, status: int = 0) -> str:
    """What a podman command prints; fails where its exit status is another one."""
    done = subprocess.run(["podman", *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == status, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of podman's service, in `DOCKER_HOST` too. Skips where there is no podman that runs containers."""
    if shutil.which("podman") is None:
        pytest.skip("podman is not installed")
    with pytest.MonkeyPatch.context() as patch:
        if not Path("/run/systemd/system").exists() and "CONTAINERS_CONF" not in os.environ:
            patch.setenv("CONTAINERS_CONF", str(images.ROOT / "containers/containers.conf"))
        socket = tmp_path_factory.mktemp("podman") / "podman.sock"
        address = f"unix://{socket}"
        patch.setenv("DOCKER_HOST", address)
        service = subprocess.Popen(["podman", "system", "service", "--time=0", address])
        while not socket.exists() and service.poll() is None:
            time.sleep(0.05)
        if service.poll() is not None:
            pytest.skip("podman system service does not start here")
        yield address
        service.terminate()
        service.wait()


@pytest.fixture(scope="session")
def cpu_image(engine: str) -> str:
    """The cpu image of this very tree, by digest. Skips where it was not built."""
    tagged = f"localhost/{images.NAME}-cpu:{images.version()}"
    found = subprocess.run(
        [
            "podman",
            "image",
            "inspect",
            tagged,
            "--format",
            '{{.Digest}} {{index .Labels "multistep-consistency.source"}}',
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if found.returncode:
        pytest.skip(f"no image {tagged}; {BUILD}")
    digest, source = found.stdout.split()
    if source != images.source_hash("cpu"):
        pytest.skip(f"{tagged} is of another tree; {BUILD}")
    return f"localhost/{images.NAME}-cpu@{digest}"
