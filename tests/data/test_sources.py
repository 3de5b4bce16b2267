"""Each source, and the layout that folders and archives share."""

import gzip
import io
import os
import tarfile
import zipfile
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from mcm.data.config import DataConfig, SourceName
from mcm.data.sources import SOURCES, emoji_large, layout
from mcm.data.sources.emoji import NOT_FACES, characters
from mcm.data.sources.glyphs import render_svg
from mcm.data.sources.record import Listing
from mcm.errors import UserError


def png(value: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), value, dtype=np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


def listing(source: str, path: Path | None = None, **values: object) -> Listing:
    config = DataConfig.parse({"source": source, "path": str(path) if path else None, **values}, "data")
    return SOURCES[source](config)


def write(root: Path, *names: str) -> Path:
    for value, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(value))
    return root


def make_zip(path: Path, names: list[str]) -> Path:
    with zipfile.ZipFile(path, "w") as opened:
        for value, name in enumerate(names):
            opened.writestr(name, png(value))
    return path


def make_tar(path: Path, names: list[str], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as opened:
        for value, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size = len(png(value))
            opened.addfile(info, io.BytesIO(png(value)))
    return path


def test_every_source_of_the_configuration_is_in_the_registry() -> None:
    assert set(SOURCES) == set(get_args(SourceName))
    with pytest.raises(UserError, match=r"data: 'source' is 'emojy': unknown source; did you mean 'emoji'?"):
        DataConfig.parse({"source": "emojy"}, "data")
    with pytest.raises(UserError, match=r"unknown key 'resolutoin'; did you mean 'resolution'?"):
        DataConfig.parse({"resolutoin": 3}, "data")


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["cat/1.png", "dog/1.png", "dog/deep/2.png"], ["cat", "dog", "dog"]),
        (["1.png", "2.png"], [None, None]),
        (["all/1.png", "all/2.png"], [None, None]),
        (["top/cat/1.png", "top/dog/1.png"], ["cat", "dog"]),
        ([], []),
    ],
)
def test_class_folders_and_flat_folders(names: list[str], labels: list[str | None]) -> None:
    assert layout.labels(names, "here") == labels


def test_loose_images_beside_class_folders_are_refused() -> None:
    with pytest.raises(UserError, match=r"here: 'b.png' lies beside class folders"):
        layout.labels(["a/1.png", "b.png"], "here")


def test_folder_reads_images_captions_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path, "dog/2.JPG", "cat/1.png", ".hidden/3.png", "__MACOSX/cat/1.png")
    (tmp_path / "cat/1.txt").write_text("a  cat,\nsleeping")
    (tmp_path / "notes.md").write_text("not an image")
    records = listing("folder", tmp_path, licence="CC0-1.0").records
    assert [(r.name, r.label, r.caption) for r in records] == [
        ("cat/1.png", "cat", "a cat, sleeping"),
        ("dog/2.JPG", "dog", None),
    ]
    assert records[0].licence.licence == "CC0-1.0"
    assert [r.label for r in listing("folder", tmp_path, labels="none").records] == [None, None]


def test_archives_give_what_the_folder_gives(tmp_path: Path) -> None:
    names = ["cat/1.png", "cat/2.png", "dog/1.png"]
    folder = listing("folder", write(tmp_path / "folder", *names)).records
    expected = [(r.name, r.label, r.read()) for r in folder]
    archives = [make_zip(tmp_path / "a.zip", names)]
    archives += [make_tar(tmp_path / f"a{k}.tar", names, mode) for k, mode in enumerate(("w", "w:gz", "w:xz"))]
    for path in archives:
        opened = listing("archive", path)
        assert [(r.name, r.label, r.read()) for r in opened.records] == expected
        opened.close()


@pytest.mark.parametrize("name", ["../evil.png", "a/../../evil.png", "/tmp/evil.png", "C:\\evil.png", "..\\evil.png"])
@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_members_that_leave_the_archive_are_refused_and_nothing_is_written(tmp_path: Path, name: str, make) -> None:
    (tmp_path / "box").mkdir()
    path = make(tmp_path / "box" / "a", ["good.png", name])
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    with pytest.raises(UserError, match=r"points outside the archive"):
        listing("archive", path)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before


def test_links_and_devices_in_a_tar_are_passed_over(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(9))
    path = make_tar(tmp_path / "a.tar", ["good.png"], "w")
    with tarfile.open(path, "a") as opened:
        for name, kind in (("link.png", tarfile.SYMTYPE), ("hard.png", tarfile.LNKTYPE), ("dev.png", tarfile.CHRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, str(secret)
            opened.addfile(info)
    assert [r.name for r in listing("archive", path).records] == ["good.png"]


def test_broken_and_foreign_archives_are_named(tmp_path: Path) -> None:
    tar = make_tar(tmp_path / "a.tar.gz", [f"{k}.png" for k in range(50)])
    tar.write_bytes(tar.read_bytes()[:300])
    with pytest.raises(UserError, match=r"a.tar.gz: (broken archive|neither zip nor tar)"):
        listing("archive", tar)
    box = make_zip(tmp_path / "b.zip", ["1.png"])
    data = box.read_bytes()
    box.write_bytes(data.replace(png(0)[20:40], b"\0" * 20))
    with pytest.raises(UserError, match=r"b.zip: member '1.png' cannot be read .*make the archive again"):
        listing("archive", box).records[0].read()
    other = tmp_path / "c.zip"
    other.write_text("hello")
    with pytest.raises(UserError, match=r"neither zip nor tar"):
        listing("archive", other)
    with pytest.raises(UserError, match=r"no file"):
        listing("archive", tmp_path / "none.zip")


def test_a_member_of_absurd_size_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcm.data.sources.archive._LARGEST_MEMBER", 10)
    with pytest.raises(UserError, match=r"member '1.png' would take"):
        listing("archive", make_zip(tmp_path / "a.zip", ["1.png"])).records[0].read()


def test_missing_folder_or_path(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data.path: no folder .*make it, or name another"):
        listing("folder", tmp_path / "none")
    for source in ("folder", "archive"):
        with pytest.raises(UserError, match=r"data.path: missing"):
            listing(source)
    with pytest.raises(UserError, match=r"data.labels: 'style' is for emoji"):
        listing("folder", write(tmp_path, "1.png"), labels="style")


def test_smileys_are_faces_in_two_styles() -> None:
    records = listing("emoji").records
    styles = [r.label for r in records]
    assert len(records) > 200 and styles.count("twemoji") > 100 and styles.count("openmoji") > 100
    names = {c.short_name for c in characters("smileys")}
    assert {"grinning", "sob", "imp", "clown_face"} <= names
    assert not names & (NOT_FACES | {"smiley_cat", "heart", "see_no_evil", "boom"})
    assert all(r.caption and r.concept == r.caption for r in records)
    assert {r.licence.licence for r in records} == {"CC-BY-4.0", "CC-BY-SA-4.0"}
    assert all(r.licence.version and r.licence.attribution for r in records)


def test_all_emoji_by_category_or_unlabelled() -> None:
    everything = listing("emoji", subset="all", labels="category")
    assert len(everything.records) > 3500
    assert {r.label for r in everything.records} >= {"Flags", "Food & Drink", "Smileys & Emotion"}
    assert {r.label for r in listing("emoji", labels="none").records} == {None}


def test_svg_is_drawn_and_a_broken_one_named() -> None:
    svg = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 2 2"><rect width="1" height="2" fill="red"/></svg>'
    pixels = np.asarray(render_svg(svg, "x.svg", 8))
    assert pixels.shape == (8, 8, 4)
    assert pixels[0, 0].tolist() == [255, 0, 0, 255] and pixels[0, 7, 3] == 0
    with pytest.raises(UserError, match=r"x.svg: not drawable as SVG"):
        render_svg("<svg", "x.svg", 8)


def test_large_emoji_table_matches_by_code_and_by_name() -> None:
    rows = [
        {"hexcode": "2639-FE0F", "annotation": "frowning face", "group": "smileys-emotion", "skintone": ""},
        {"hexcode": "1F44B-1F3FB", "annotation": "waving hand: light skin tone", "group": "people-body", "skintone": 1},
        {"hexcode": "E000", "annotation": "axe", "group": "extras-openmoji", "skintone": ""},
    ]
    table = emoji_large.Table(rows)
    table.learn({"chars": {"2639": "sad-face"}, "aliases": {"sorrow": {"parent": "sad-face"}}})
    face = ("frowning face", "smileys-emotion", False)
    assert table.describe(["2639"], "x", None) == face
    assert [table.describe([], n, None) for n in ("frowning-face", "frowningface", "sad-face", "sorrow")] == [face] * 4
    assert table.describe(["1f44b-1f3fb"], "x", None) == ("waving hand: light skin tone", "people-body", True)
    assert table.describe([], "axe", None)[1] == "extras"
    assert table.describe([], "big-tree", "Animals & Nature") == ("big tree", "animals-nature", False)
    assert table.describe([], "skier-medium-dark", None)[2] and not table.describe([], "dark-sky", None)[2]


def test_large_emoji_without_npm_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"needs npm.*install Node.js, or put openmoji-17.0.0.tgz into"):
        listing("emoji_large", tmp_path / "cache")


def test_large_emoji_refuses_an_archive_that_is_not_the_known_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    npm = tmp_path / "npm"
    npm.write_text('#!/bin/sh\necho other > "$4/openmoji-17.0.0.tgz"\n')
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(UserError, match=r"its archive is not the known one"):
        listing("emoji_large", tmp_path / "cache")
    npm.write_text("#!/bin/sh\necho 'no network' >&2\nexit 1\n")
    with pytest.raises(UserError, match=r"openmoji@17.0.0: npm pack failed \(no network\)"):
        listing("emoji_large", tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def idx(path: Path, array: np.ndarray) -> None:
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes()
    path.write_bytes(gzip.compress(head + array.tobytes()))


def fashion(root: Path) -> Path:
    rng = np.random.default_rng(0)
    for part, count in (("train", 12), ("t10k", 5)):
        idx(root / f"{part}-images-idx3-ubyte.gz", rng.integers(0, 256, (count, 28, 28), dtype=np.uint8))
        idx(root / f"{part}-labels-idx1-ubyte.gz", np.arange(count, dtype=np.uint8) % 10)
    return root


def test_fashion_mnist_reads_idx_files(tmp_path: Path) -> None:
    found = listing("fashion_mnist", fashion(tmp_path))
    assert len(found.records) == 17 and found.classes[9] == "Ankle boot"
    assert [r.label for r in found.records[:2]] == ["T-shirt/top", "Trouser"]
    assert found.records[16].name == "fashion-mnist/t10k/4"
    assert found.records[3].read().shape == (28, 28)


def test_fashion_mnist_refuses_broken_files(tmp_path: Path) -> None:
    path = fashion(tmp_path) / "train-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte.gz: unreadable .*fetch it again"):
        listing("fashion_mnist", tmp_path)
    path.write_bytes(gzip.compress(gzip.decompress(whole)[:-1]))
    with pytest.raises(UserError, match=r"not a whole idx file"):
        listing("fashion_mnist", tmp_path)
    path.unlink()
    with pytest.raises(UserError, match=r"no train-images-idx3-ubyte here"):
        listing("fashion_mnist", tmp_path)


def test_torchvision_data_set_by_name(tmp_path: Path) -> None:
    pytest.importorskip("mcm.vision")
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for file in fashion(tmp_path).glob("*.gz"):
        (raw / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
    found = listing("torchvision", tmp_path, name="FashionMNIST")
    assert len(found.records) == 12 and found.classes[0] == "T-shirt/top"
    assert found.records[11].label == "Trouser" and found.records[0].read().size == (28, 28)
    with pytest.raises(UserError, match=r"no data set 'CIFAR1O'; did you mean 'CIFAR10'?"):
        listing("torchvision", tmp_path, name="CIFAR1O")
    with pytest.raises(UserError, match=r"data.name: missing"):
        listing("torchvision", tmp_path)
