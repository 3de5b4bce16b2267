"""Sample grids: found by content in each place where bytes may lie, and left out where they are not."""

import copy
import io
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components.storage import Objects
from components.storage.folder import FolderStore
from components.storage.objects import place
from mcm.artifacts import file_md5, folder_md5
from mcm.errors import UserError
from pipelines.lineage.compare.diff import compare
from pipelines.lineage.page.pictures import READERS, grid, sample_grids
from tests.lineage.builders import graph, record


@dataclass(frozen=True)
class Store:
    place: str | Path


def evaluation(folder: Path, shade: int, names: tuple[str, ...] = ("samples.npy",)) -> Path:
    """An evaluation's folder whose k-th file has pictures of `shade` + k."""
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text("{}")
    for number, name in enumerate(names):
        np.save(folder / name, np.full((36, 4, 4, 3), shade + number, dtype=np.uint8))
    return folder


def diff_of(a: str, b: str, path: str = "evaluations/cd-4") -> dict[str, Any]:
    sides = []
    for run, md5 in (("r1", a), ("r2", b)):
        made = record("evaluate", "cd-4", run=run, outputs={"out": md5})
        out = made.outputs[0].model_copy(update={"path": path})
        sides.append(graph([made.model_copy(update={"outputs": (out,)})]))
    return compare(*sides).json()


def shade(png: bytes | None) -> int | None:
    return None if png is None else int(np.asarray(Image.open(io.BytesIO(png)))[0, 0, 0])


def test_found_in_the_output_root_the_cache_and_a_store(tmp_path: Path) -> None:
    here = evaluation(tmp_path / "project/artifacts/evaluations/cd-4", 10)
    cached = evaluation(tmp_path / "cached", 20)
    stored = evaluation(tmp_path / "stored", 30)
    in_cache = Objects(tmp_path / "project/.dvc/cache").push(cached)
    in_store = Objects(tmp_path / "pipeline").push(stored)
    stores = [Store(tmp_path / "project/artifacts/lineage"), Store(tmp_path / "pipeline/lineage")]

    def found(a: str, b: str) -> list[int | None]:
        return [shade(png) for png in sample_grids(diff_of(a, b), stores, tmp_path / "project")["evaluate cd-4"]]

    assert found(folder_md5(here), in_cache) == [10, 20]
    assert found(in_store, folder_md5(here)) == [30, 10]
    assert found("0" * 32 + ".dir", in_store) == [None, 30]


def test_found_in_a_cache_that_was_moved(tmp_path: Path) -> None:
    (tmp_path / "project/.dvc").mkdir(parents=True)
    (tmp_path / "project/.dvc/config").write_text("[cache]\n    dir = ../../moved\n")
    md5 = Objects(tmp_path / "moved").push(evaluation(tmp_path / "cached", 20))
    (pair,) = sample_grids(diff_of(md5, "0" * 32 + ".dir"), [], tmp_path / "project").values()
    assert [shade(png) for png in pair] == [20, None]


def test_a_folder_of_that_name_with_other_bytes_is_not_shown(tmp_path: Path) -> None:
    evaluation(tmp_path / "artifacts/evaluations/cd-4", 10)
    assert sample_grids(diff_of("0" * 32 + ".dir", "1" * 32 + ".dir"), [], tmp_path) == {}


def test_the_sampler_that_both_have_with_the_most_steps_is_shown(tmp_path: Path) -> None:
    names = ("samples-addim-64.npy", "samples-ddim-8.npy", "samples-ddim-64.npy", "samples-ddim-128.npy")
    a = Objects(tmp_path / ".dvc/cache").push(evaluation(tmp_path / "a", 10, names))
    b = Objects(tmp_path / ".dvc/cache").push(evaluation(tmp_path / "b", 20, names[:3]))
    assert [shade(png) for png in sample_grids(diff_of(a, b), [], tmp_path)["evaluate cd-4"]] == [12, 22]


def test_only_what_is_shown_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("samples-ddim-1.npy", "samples-ddim-64.npy")
    objects = Objects(tmp_path / "pipeline")
    md5 = objects.push(evaluation(tmp_path / "a", 10, names))
    read: list[str] = []
    original = type(objects.store).read
    monkeypatch.setattr(
        type(objects.store), "read", lambda self, name: (read.append(self.uri(name)), original(self, name))[1]
    )
    assert sample_grids(diff_of(md5, md5), [Store(tmp_path / "pipeline/lineage")], tmp_path)
    wanted = [md5, file_md5(tmp_path / "a/samples-ddim-64.npy")]
    assert [uri for uri in read if Path(uri).exists()] == [objects.store.uri(place(name)) for name in wanted]


@pytest.mark.parametrize("broken", ["samples", "list", "missing"])
def test_broken_bytes_give_no_picture_and_no_error(tmp_path: Path, broken: str) -> None:
    cache = tmp_path / ".dvc/cache"
    folder = evaluation(tmp_path / "a", 10)
    md5 = Objects(cache).push(folder)
    if broken == "missing":
        shutil.rmtree(cache)
    else:
        file = cache / place(md5 if broken == "list" else file_md5(folder / "samples.npy"))
        held = file.read_bytes()
        file.write_bytes(held[:-1] + bytes([held[-1] ^ 1]))
    assert sample_grids(diff_of(md5, md5), [], tmp_path) == {}


def test_a_place_out_of_reach_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def refuse(self: FolderStore, name: str) -> bytes:
        asked.append(name)
        raise UserError("gs://bucket: no credentials; log in")

    monkeypatch.setattr(FolderStore, "read", refuse)
    one = diff_of("0" * 32 + ".dir", "1" * 32 + ".dir")["nodes"][0]
    nodes = [copy.deepcopy(one) | {"key": f"evaluate cd-{steps}"} for steps in range(100)]
    for number, node in enumerate(nodes):
        node["a"]["outputs"][0]["md5"] = f"{number:032x}.dir"
    assert sample_grids({"nodes": nodes}, [], tmp_path) == {}
    assert 1 <= len(asked) <= READERS  # those that were under way


def test_a_grid_is_the_first_pictures_in_rows() -> None:
    pictures = np.arange(20, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, 3, 1), dtype=np.uint8)
    out = io.BytesIO()
    np.save(out, pictures)
    made = np.asarray(Image.open(io.BytesIO(grid(out.getvalue()) or b"")))
    assert made.shape == (4 * 5 - 2, 4 * 5 - 2)
    assert made[::5, ::5].ravel().tolist() == list(range(16))
    assert made[3, 0] == made[0, 3] == 255


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 4, 4, 3)),
        np.zeros((4, 4, 3), np.uint8),
        np.zeros((2, 4, 4, 2), np.uint8),
        np.zeros((0, 4, 4, 3), np.uint8),
    ],
    ids=["floats", "one picture", "two channels", "none"],
)
def test_an_array_that_is_no_pictures_gives_none(array: np.ndarray) -> None:
    out = io.BytesIO()
    np.save(out, array)
    assert grid(out.getvalue()) is None


class Runs:
    """An object that, unpickled, makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_nothing_pickled_is_loaded(tmp_path: Path) -> None:
    out = io.BytesIO()
    np.save(out, np.array([Runs(tmp_path / "ran")], dtype=object), allow_pickle=True)
    assert grid(out.getvalue()) is None
    assert not (tmp_path / "ran").exists()


def test_noise_gives_none() -> None:
    assert grid(b"\x93NUMPY no array") is None
    assert grid(b"") is None


def test_large_pictures_are_made_smaller() -> None:
    out = io.BytesIO()
    np.save(out, np.zeros((1, 256, 256, 3), np.uint8))
    assert Image.open(io.BytesIO(grid(out.getvalue()) or b"")).size == (64, 64)
