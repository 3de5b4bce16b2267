"""The cpu image: who it runs as, what is in it, and that a stage in it gives the bytes that it gives outside."""

import contextlib
import hashlib
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mcm.artifacts import folder_md5
from mcm.errors import UserError
from pipelines import images
from tests.chain.programs import write_params
from tests.conftest import data_section, write_pictures
from tests.containers.conftest import podman

pytestmark = pytest.mark.containers

IN_IMAGE = """
import hashlib, json, pathlib, sys
found = {}
for root in map(pathlib.Path, sys.argv[1:]):
    for file in root.rglob("*"):
        if file.is_file() and "__pycache__" not in file.parts:
            found[file.relative_to(root.parent).as_posix()] = hashlib.sha256(file.read_bytes()).hexdigest()
print(json.dumps(found))
"""


def inside(image: str, *words: str | Path, user: str = "", mounts: tuple[Path, ...] = (), status: int = 0) -> str:
    """What a command prints in a fresh container without a network."""
    options = ["run", "--rm", "--network=none", *(f"--user={user}" for _ in [user] if user)]
    options += [f"--volume={path}:{path}" for path in mounts]
    return podman(*options, image, *words, status=status)


def test_it_runs_as_a_user_who_cannot_change_it(cpu_image: str) -> None:
    assert inside(cpu_image, "id", "-u").strip() == "10001"
    inside(cpu_image, "sh", "-c", "touch /opt/mcm/x || exit 9", status=9)


@pytest.mark.parametrize("user", ["", "4711:0", "1234567:1234567"])
def test_any_user_has_a_home_a_workspace_and_caches(cpu_image: str, user: str) -> None:
    program = "import getpass, pathlib, torch; p = pathlib.Path(torch.hub.get_dir(), 'x'); p.mkdir(parents=True);"
    program += "pathlib.Path('out').mkdir(); print(getpass.getuser(), p)"
    assert inside(cpu_image, "python3", "-c", program, user=user).split() == ["mcm", "/home/mcm/.cache/torch/hub/x"]


def test_it_holds_the_sources_that_are_hashed_and_no_others(cpu_image: str) -> None:
    site = "/opt/mcm/lib/python3.11/site-packages"
    places = [f"{site}/{name}" for name in ("mcm", "components", "pipelines")] + ["/workspace"]
    found = json.loads(inside(cpu_image, "python3", "-c", IN_IMAGE, *places))
    found = {name.removeprefix("workspace/"): value for name, value in found.items()}
    files = {file.relative_to(images.ROOT).as_posix(): file for file in images.sources("cpu")}
    names = {name for name in files if name == "params.yaml" or name.split("/")[0] in images.PACKAGES}
    assert found == {name: hashlib.sha256(files[name].read_bytes()).hexdigest() for name in names}


def test_its_packages_fit_each_other(cpu_image: str) -> None:
    assert inside(cpu_image, "pip", "check") == "No broken requirements found.\n"
    program = "import kfp, google.cloud.storage, kubernetes, torch; print(kfp.__version__, torch.__version__)"
    assert inside(cpu_image, "python3", "-c", program) == "2.17.0 2.13.0+cpu\n"
    assert inside(cpu_image, "mcm", "--version") == f"{images.version()}\n"


def test_a_stage_in_it_makes_the_bytes_that_it_makes_outside(
    cpu_image: str, tiny_dataset: Path, tmp_path: Path
) -> None:
    params = write_params(tmp_path / "params.yaml", {"data": data_section(write_pictures(tmp_path / "pictures"))})
    tmp_path.chmod(0o777)
    words: list[str | Path] = [
        "python3",
        "-m",
        "components.prepare_data",
        "--params",
        params,
        "--out",
        tmp_path / "dataset",
    ]
    inside(cpu_image, *words, mounts=(tmp_path,))
    assert folder_md5(tmp_path / "dataset") == folder_md5(tiny_dataset)


def test_bad_input_is_one_line_in_it_too(cpu_image: str) -> None:
    words = ["sh", "-c", "python3 -m components.train_teacher --dataset /no --out out 2>&1; test $? = 2"]
    assert inside(cpu_image, *words) == (
        "error: /no: no config.json here, so this is not a dataset; make it first or name another\n"
    )


def small_tree(folder: Path, monkeypatch: pytest.MonkeyPatch, base: str) -> None:
    """A project whose image is its base and one file."""
    for name in ("mcm/a.py", "params.yaml", *images.FILES, "containers/requirements-cpu.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder / "pyproject.toml").write_text('[project]\nversion = "0"\n')
    (folder / "Containerfile").write_text(f"ARG BASE={base}\nFROM ${{BASE}} AS cpu\nCOPY mcm /mcm\n")
    monkeypatch.setattr(images, "ROOT", folder)
    monkeypatch.setattr(images, "LOCK", folder / "images.lock.json")


def test_two_builds_of_one_tree_give_one_digest(engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_tree(tmp_path, monkeypatch, "scratch")
    digests = []
    for content in ("a", "a", "b"):
        (tmp_path / "mcm/a.py").write_text(content)
        built = images.build("cpu", registry="localhost/test")
        assert images.image("cpu") == built and built.state() == "current"
        digests.append(built.digest)
        podman("image", "rm", "--force", f"{built.repository}:0")  # and with it the cache of its layers
    assert digests[0] == digests[1] != digests[2]


@pytest.fixture
def registry(engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A registry on this machine, `host:port`. Skips where Debian's docker-registry is not installed."""
    if shutil.which("docker-registry") is None:
        pytest.skip("docker-registry is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    storage = {"filesystem": {"rootdirectory": str(tmp_path / "registry")}}
    config = {"version": 0.1, "http": {"addr": address}, "storage": storage}
    (tmp_path / "registry.json").write_text(json.dumps(config))  # which is YAML too
    (tmp_path / "registries.conf").write_text(f'[[registry]]\nlocation = "{address}"\ninsecure = true\n')
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(tmp_path / "registries.conf"))
    server = subprocess.Popen(["docker-registry", "serve", tmp_path / "registry.json"], stderr=subprocess.DEVNULL)
    while server.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", int(address.split(":")[1]))):
            break
        time.sleep(0.05)
    assert server.poll() is None
    yield address
    server.terminate()
    server.wait()


def test_a_pushed_image_is_locked_and_found_under_the_digest_of_the_registry(
    registry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_tree(tmp_path / "tree", monkeypatch, "scratch")
    (tmp_path / "tree/mcm/a.py").write_text(str(tmp_path))  # an image that no run before has left
    built = images.build("cpu", registry=f"{registry}/mcm", push=True)
    assert images.image("cpu").reference == built.reference and not built.local
    podman("image", "rm", "--force", f"{built.repository}:0")
    podman("image", "exists", built.reference, status=1)
    podman("pull", "--quiet", built.reference)
    podman("image", "exists", built.reference)
    with pytest.raises(UserError, match=r"^podman build --file: failed with status 125; its last lines say why$"):
        images.build("cpu", base=f"{registry}/mcm/nothing:1")
    assert images.image("cpu") == built
    podman("image", "rm", "--force", built.reference)
