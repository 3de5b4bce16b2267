"""The memory-mapped set: whole or refused; pixels to floats and back without loss."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from mcm.artifacts import write_config
from mcm.data.arrays import KIND, VERSION, ImageSet, to_float, to_uint8
from mcm.errors import UserError


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("holdout", 0)):
        np.save(tmp_path / f"{split}_images.npy", rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8))
        np.save(tmp_path / f"{split}_labels.npy", np.arange(count) % 2)
    values = {"classes": ["a", "b"], "resolution": 8, "channels": 3, "counts": {"train": 6, "holdout": 0}}
    write_config(tmp_path, KIND, VERSION, values)
    return tmp_path


def test_opens_without_reading(dataset: Path) -> None:
    train = ImageSet.open(dataset)
    assert isinstance(train.images, np.memmap)
    assert (len(train), train.num_classes, train.classes, train.resolution, train.channels) == (6, 2, ("a", "b"), 8, 3)
    assert train.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert len(ImageSet.open(dataset, "holdout")) == 0


def test_another_process_opens_the_file_instead_of_getting_its_pixels(dataset: Path) -> None:
    train = ImageSet.open(dataset)
    packed = pickle.dumps(train)
    assert len(packed) < 500
    again = pickle.loads(packed)
    assert isinstance(again.images, np.memmap) and np.array_equal(again.images, train.images)


def test_pixels_survive_the_round_trip_exactly() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    floats = to_float(pixels)
    assert floats.shape == (1, 3, 16, 16) and floats.dtype == torch.float32 and floats.is_contiguous()
    assert floats.min() == -1 and floats.max() == 1
    assert np.array_equal(to_uint8(floats), pixels)
    assert np.array_equal(to_uint8(torch.tensor([[[[-3.0, 1.5]]]])), np.array([[[[0], [255]]]], dtype=np.uint8))


def test_a_set_that_is_not_whole_is_refused(dataset: Path) -> None:
    images, labels = dataset / "train_images.npy", dataset / "train_labels.npy"
    whole = images.read_bytes()

    images.write_bytes(whole[:-100])
    with pytest.raises(UserError, match=r"train_images.npy: not a whole array .*prepare the data again"):
        ImageSet.open(dataset)
    images.write_bytes(b"")
    with pytest.raises(UserError, match=r"not a whole array"):
        ImageSet.open(dataset)
    images.unlink()
    with pytest.raises(UserError, match=r"train_images.npy: missing"):
        ImageSet.open(dataset)
    images.write_bytes(whole)

    np.save(images, np.zeros((6, 8, 8, 1), dtype=np.uint8))
    with pytest.raises(UserError, match=r"uint8 of shape \(6, 8, 8, 1\), and config.json says uint8 of shape"):
        ImageSet.open(dataset)
    images.write_bytes(whole)

    np.save(labels, np.full(6, 2))
    with pytest.raises(UserError, match=r"labels 2 to 2, and the set has 2 classes"):
        ImageSet.open(dataset)
    np.save(labels, np.array([{}] * 6, dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"not a whole array"):
        ImageSet.open(dataset)


def test_another_kind_or_version_or_split_is_refused(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no split 'test'; name one of train, holdout"):
        ImageSet.open(dataset, "test")
    config = json.loads((dataset / "config.json").read_text())
    for changed, message in (
        ({"kind": "denoiser"}, "this is a denoiser"),
        ({"version": 99}, "format version 99"),
        ({"counts": None}, "TypeError"),
    ):
        (dataset / "config.json").write_text(json.dumps(config | changed))
        with pytest.raises(UserError, match=message):
            ImageSet.open(dataset)
    with pytest.raises(UserError, match=r"no config.json here"):
        ImageSet.open(tmp_path / "nowhere")
