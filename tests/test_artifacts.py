"""Artifacts' names: DVC's md5, and that a file is read again when it changed and only then."""

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mcm import artifacts
from mcm.artifacts import file_md5, folder_md5

LARGE = b"x" * (artifacts._LARGE + 1)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files whose bytes were hashed."""
    seen: list[str] = []
    real = hashlib.file_digest

    def counting(opened, digest):
        seen.append(Path(opened.name).name)
        return real(opened, digest)

    monkeypatch.setattr(hashlib, "file_digest", counting)
    return seen


def write(path: Path, content: bytes, age: float = 60.0) -> Path:
    """A file that looks as old as `age` seconds, as far as a program can make it so: its inode's change is now."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    then = time.time_ns() - int(age * 1e9)
    os.utime(path, ns=(then, then))
    return path


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any file counts as old enough for its time stamps to be trusted."""
    monkeypatch.setattr(artifacts, "_SETTLED", -1)


def test_a_folder_has_the_md5_that_dvc_gives_it(tmp_path: Path) -> None:
    contents = {"b.txt": b"1", "a/z": b"2", "a.b": b"3", "a/large": LARGE, "ä": b""}
    for name, content in contents.items():
        write(tmp_path / "d" / name, content)
    (tmp_path / "d" / "empty").mkdir()
    listed = [{"md5": hashlib.md5(contents[name]).hexdigest(), "relpath": name} for name in sorted(contents)]
    expected = hashlib.md5(json.dumps(listed, sort_keys=True).encode()).hexdigest() + ".dir"
    assert folder_md5(tmp_path / "d") == folder_md5(Path(f"{tmp_path}/d/")) == expected
    program = "from pathlib import Path; from mcm.artifacts import folder_md5; print(folder_md5(Path('.')))"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path / "d", capture_output=True, text=True)
    assert done.stdout.strip() == expected, done.stderr


@pytest.mark.usefixtures("settled")
def test_a_file_is_read_once(tmp_path: Path, reads: list[str]) -> None:
    write(tmp_path / "d" / "one", b"1")
    write(tmp_path / "d" / "large", LARGE)
    md5 = folder_md5(tmp_path / "d")
    assert folder_md5(tmp_path / "d") == md5 and file_md5(tmp_path / "d" / "one") == hashlib.md5(b"1").hexdigest()
    assert sorted(reads) == ["large", "one"]
    (tmp_path / "d").rename(tmp_path / "e")  # its name is no part of a file's content
    assert folder_md5(tmp_path / "e") == md5 and len(reads) == 2


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("how", ["in place", "replaced", "in place, time stamp put back", "one of a folder"])
def test_a_changed_file_of_equal_size_is_noticed(tmp_path: Path, how: str) -> None:
    path = write(tmp_path / "d" / "file", b"before")
    name = folder_md5 if how == "one of a folder" else file_md5
    place = path.parent if how == "one of a folder" else path
    before, found = name(place), path.stat()
    if how == "replaced":
        write(tmp_path / "new", b"after!").replace(path)
    else:
        time.sleep(0.02)  # time stamps advance by the tick of the kernel's clock
        path.write_bytes(b"after!")
    if how == "in place, time stamp put back":
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert path.stat().st_size == found.st_size
    assert name(place) != before
    assert file_md5(path) == hashlib.md5(b"after!").hexdigest()


def test_a_file_just_written_is_read_each_time(tmp_path: Path, reads: list[str]) -> None:
    """It could change again within one tick of the clock, and then nothing but its bytes would tell."""
    path = write(tmp_path / "file", b"1")
    assert file_md5(path) == hashlib.md5(b"1").hexdigest()
    assert file_md5(path) == hashlib.md5(b"1").hexdigest()
    assert len(reads) == 2


def test_a_file_that_changes_while_it_is_read_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settled: None
) -> None:
    path = write(tmp_path / "file", b"before")
    real = hashlib.file_digest

    def meddling(opened, digest):
        found = real(opened, digest)
        time.sleep(0.02)
        path.write_bytes(b"after!")
        return found

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(hashlib, "file_digest", meddling)
        file_md5(path)
    assert file_md5(path) == hashlib.md5(b"after!").hexdigest()


def test_a_file_that_is_missing_in_a_folder_of_links_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path / "d" / "file", b"1")
    before = folder_md5(tmp_path / "d")
    (tmp_path / "d" / "broken").symlink_to(tmp_path / "nowhere")
    assert folder_md5(tmp_path / "d") == before
