"""Content-addressed objects: round trips, what is missing or corrupted, and the real DVC on the same bucket."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from components import storage
from components.storage import Objects
from components.storage.objects import place
from mcm.artifacts import file_md5, folder_md5
from mcm.errors import UserError
from tests.storage.server import BUCKET, Server
from tests.storage.test_transfer import refused, tree


@pytest.fixture(params=["bucket", "folder"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "mounted")
    return str(request.getfixturevalue("uri"))


@pytest.mark.parametrize("seed", range(3))
def test_a_folder_comes_back_by_its_md5(root: str, tmp_path: Path, seed: int) -> None:
    folder = tree(tmp_path / "sent", seed)
    objects = Objects(root)
    assert not objects.has(folder_md5(folder))
    md5 = objects.push(folder)
    assert md5 == folder_md5(folder) and objects.has(md5)
    objects.pull(md5, tmp_path / "back")
    assert folder_md5(tmp_path / "back") == md5
    before = storage.listing_version(root)
    assert Objects(root).push(folder) == md5 and storage.listing_version(root) == before


def test_a_file_comes_back_by_its_md5(root: str, tmp_path: Path) -> None:
    (tmp_path / "sent").write_bytes(os.urandom(100))
    md5 = Objects(root).push(tmp_path / "sent")
    assert md5 == file_md5(tmp_path / "sent") and Objects(root).has(md5)
    Objects(root).pull(md5, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "sent").read_bytes()


def test_two_writers_of_the_same_folder(root: str, tmp_path: Path) -> None:
    folder = tree(tmp_path / "sent", 0)
    with ThreadPoolExecutor(2) as pool:
        md5s = set(pool.map(lambda _: Objects(root).push(folder), range(2)))
    Objects(root).pull(md5s.pop(), tmp_path / "back")
    assert folder_md5(tmp_path / "back") == folder_md5(folder)


def test_what_is_missing_is_named(root: str, tmp_path: Path) -> None:
    folder = tree(tmp_path / "sent", 0)
    objects = Objects(root)
    (tmp_path / "back").mkdir()
    missing = "is missing; run the stage that makes it again, without cache"
    assert refused(lambda: objects.pull("ab" + "0" * 30, tmp_path / "one")) == (
        f"{root}/files/md5/ab/{'0' * 30}: the file {missing}"
    )
    md5 = objects.push(folder)
    part = place(file_md5(folder / "large.bin"))
    storage.delete(f"{root}/{part}")
    assert not objects.has(md5)
    assert refused(lambda: objects.pull(md5, tmp_path / "back")) == f"{root}/{part}: a part of {md5} {missing}"
    storage.delete(f"{root}/{place(md5)}")
    assert refused(lambda: objects.pull(md5, tmp_path / "back")) == (
        f"{root}/{place(md5)}: the list of the folder {missing}"
    )
    assert list((tmp_path / "back").iterdir()) == [] and not (tmp_path / "one").exists()
    assert refused(lambda: objects.push(tmp_path / "none")) == (
        f"{tmp_path}/none: nothing is there to keep in {root}; make it first"
    )


def test_other_bytes_under_the_name_are_found_out_and_mended(root: str, tmp_path: Path) -> None:
    """Bytes that were changed and written again whole: the bucket's crc32c fits them, the md5 in the name does not."""
    folder = tree(tmp_path / "sent", 0)
    objects = Objects(root)
    md5 = objects.push(folder)
    part = place(file_md5(folder / "large.bin"))
    storage.write_bytes(f"{root}/{part}", b"other")
    again = "corrupted, its bytes have another md5; delete it, and run the stage that makes it again, without cache"
    assert refused(lambda: objects.pull(md5, tmp_path / "back")) == f"{root}/{part}: {again}"
    storage.write_bytes(f"{root}/{place(md5)}", b"[]")
    assert refused(lambda: objects.pull(md5, tmp_path / "back")) == f"{root}/{place(md5)}: {again}"
    assert not objects.has(md5) and not (tmp_path / "back").exists()
    assert objects.push(folder) == md5
    objects.pull(md5, tmp_path / "back")
    assert folder_md5(tmp_path / "back") == md5


def test_a_list_that_leads_out_of_the_folder_is_refused(root: str, tmp_path: Path) -> None:
    objects = Objects(root)
    (tmp_path / "file").write_text("x")
    text = json.dumps([{"md5": objects.push(tmp_path / "file"), "relpath": "../escaped"}], sort_keys=True).encode()
    (tmp_path / "list").write_bytes(text)
    md5 = f"{file_md5(tmp_path / 'list')}.dir"
    storage.write_bytes(f"{root}/{place(md5)}", text)
    with pytest.raises(UserError, match="cannot be a file here"):
        objects.pull(md5, tmp_path / "in" / "back")
    assert not list(tmp_path.rglob("escaped"))


# The real DVC


def dvc(project: Path, *words: str) -> str:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # else gcsfs asks Google over TLS for each look-up
        "DVC_NO_ANALYTICS": "true",
    }
    done = subprocess.run(["dvc", *words], cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def dvc_project(folder: Path, server: Server, root: str) -> Path:
    folder.mkdir()
    dvc(folder, "init", "--no-scm", "--quiet")
    dvc(folder, "remote", "add", "--default", "store", root)
    dvc(folder, "remote", "modify", "store", "endpointurl", f"http://127.0.0.1:{server.port}")
    dvc(folder, "remote", "modify", "store", "allow_anonymous_login", "true")
    return folder


@pytest.mark.slow
def test_dvc_pulls_what_a_run_pushed(server: Server, tmp_path: Path) -> None:
    root = f"gs://{BUCKET}/pulled"
    folder = tree(tmp_path / "sent", 1)
    md5 = Objects(root).push(folder)
    project = dvc_project(tmp_path / "home", server, root)
    (project / "model.dvc").write_text(yaml.safe_dump({"outs": [{"md5": md5, "path": "model", "hash": "md5"}]}))
    dvc(project, "pull")
    assert folder_md5(project / "model") == md5
    assert "up to date" in dvc(project, "status")
    assert dvc(project, "status", "--cloud").strip() == "Cache and remote 'store' are in sync."


@pytest.mark.slow
def test_a_run_pulls_what_dvc_pushed(server: Server, tmp_path: Path) -> None:
    root = f"gs://{BUCKET}/pushed"
    project = dvc_project(tmp_path / "home", server, root)
    folder = tree(project / "model", 2)
    dvc(project, "add", "model")
    dvc(project, "push")
    md5 = yaml.safe_load((project / "model.dvc").read_text())["outs"][0]["md5"]
    assert md5 == folder_md5(folder) and Objects(root).has(md5)
    before = storage.listing_version(root)
    assert Objects(root).push(folder) == md5 and storage.listing_version(root) == before
    Objects(root).pull(md5, tmp_path / "back")
    assert folder_md5(tmp_path / "back") == md5
