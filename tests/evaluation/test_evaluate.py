"""From batches to a row of figures: provenance, batches, the cached reference, the noise floor."""

import numpy as np
import pytest
import torch

from mcm.errors import UserError
from mcm.evaluation import evaluate as evaluation
from mcm.evaluation.extractors import Extractor
from mcm.evaluation.metrics import frechet_distance

ABOUT = {"ema": "ema_0.99", "sampler": "ddim-4", "nfe": 4, "seed": 0, "guidance": 0.0}


def pictures(count, seed, size=16):
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    return coarse.repeat(size // 4, axis=1).repeat(size // 4, axis=2)


@pytest.fixture(scope="module")
def extractor():
    return Extractor()


@pytest.fixture(scope="module")
def features(extractor):
    return extractor(pictures(24, 0))


@pytest.fixture(scope="module")
def reference(features):
    return evaluation.make_reference(features.numpy(), "1234.dir", "train")


def test_a_row_holds_the_figures_and_what_they_are_of(extractor, reference):
    row = evaluation.evaluate([pictures(10, 1), pictures(6, 2)], reference, extractor, ABOUT)
    assert row["fid"] > 0 and 0 <= row["precision"] <= 1 and 0 <= row["recall"] <= 1
    assert row["samples"] == 16 and row["reference_samples"] == 24
    assert row["extractor"] == "FID (EffNet-Lite0@128)" and row["reference"] == "1234.dir"
    assert {key: row[key] for key in ABOUT} == ABOUT
    assert list(row) == [
        *("fid", "kid", "kid_standard_error", "precision", "recall"),
        *("samples", "reference_samples", "extractor", "reference", *ABOUT),
    ]


def test_the_fid_is_the_frechet_distance_of_the_moments(extractor, features):
    """The reference's own root gives what an eigendecomposition of its covariance gives, below and at full rank."""
    others = extractor(pictures(10, 1))
    for dimensions in (1280, 16):
        real, samples = features[:, :dimensions], others[:, :dimensions]
        reference = evaluation.make_reference(real.numpy(), "", "train")
        moments = evaluation.Moments(dimensions)
        moments.update(samples)
        mean, covariance = reference.moments.mean, reference.moments.covariance
        torch.testing.assert_close(reference.root @ reference.root.T, covariance)
        expected = frechet_distance(mean, covariance, moments.mean, moments.covariance)
        fid = frechet_distance(mean, covariance, moments.mean, moments.covariance, reference.root)
        assert fid == pytest.approx(expected, rel=1e-6)


def test_the_reference_itself_has_no_distance(extractor, reference):
    itself = evaluation.evaluate([pictures(24, 0)], reference, extractor, ABOUT)
    other = evaluation.evaluate([pictures(24, 1) // 4], reference, extractor, ABOUT)
    assert itself["fid"] < 1e-3 * other["fid"]
    assert itself["precision"] == itself["recall"] == 1.0
    assert itself["kid"] < other["kid"] / 10


def test_a_row_does_not_depend_on_the_batches(extractor, reference):
    images = pictures(20, 3)
    rows = [
        evaluation.evaluate([images[i : i + size] for i in range(0, 20, size)], reference, extractor, ABOUT)
        for size in (20, 3)
    ]
    assert rows[0]["samples"] == rows[1]["samples"] == 20
    for key in ("fid", "kid", "kid_standard_error", "precision", "recall"):
        assert rows[0][key] == pytest.approx(rows[1][key], rel=1e-3), key


def test_features_of_a_split_are_kept_and_made_again_when_broken(tmp_path, extractor):
    images = pictures(8, 0)

    def run():
        return evaluation.split_features(images, extractor, "abc.dir", "train", tmp_path)

    first = np.array(run())
    (file,) = tmp_path.iterdir()
    assert file.name == f"abc-train-effnet-lite0@128-cpu-{evaluation.ROUNDING}.npy"
    np.testing.assert_array_equal(first, extractor(images))
    np.save(file, first + 1)
    np.testing.assert_array_equal(run(), first + 1)  # read, not computed
    file.write_bytes(file.read_bytes()[:1000])
    np.testing.assert_array_equal(run(), first)
    np.save(file, first[:3])
    np.testing.assert_array_equal(run(), first)
    evaluation.split_features(images, extractor, "other.dir", "train", tmp_path)
    evaluation.split_features(images, extractor, "abc.dir", "holdout", tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def test_the_floor_says_what_it_is_between(extractor, monkeypatch):
    generator = np.random.default_rng(0)
    train, holdout = (generator.normal(size=(count, 1280)).astype(np.float32) for count in (40, 20))
    halves = evaluation.noise_floor(train, holdout, extractor)
    assert halves["between"] == "two halves of train" and halves["counts"] == [20, 20]
    assert halves == evaluation.noise_floor(train, holdout[:0], extractor)
    monkeypatch.setattr(evaluation, "FLOOR_HOLDOUT", 20)
    whole = evaluation.noise_floor(train, holdout, extractor)
    assert whole["between"] == "train and holdout" and whole["counts"] == [40, 20]
    assert whole["fid"] > 0 and abs(whole["kid"]) < 4 * whole["kid_standard_error"]


def test_too_few_images_are_refused(extractor, reference, features):
    with pytest.raises(UserError, match=r"7 samples; set evaluation\.samples to at least 8"):
        evaluation.evaluate([pictures(7, 0)], reference, extractor, ABOUT)
    with pytest.raises(UserError, match="0 samples"):
        evaluation.evaluate([], reference, extractor, ABOUT)
    with pytest.raises(UserError, match="train split has 5 images"):
        evaluation.make_reference(features[:5].numpy(), "", "train")
