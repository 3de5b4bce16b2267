"""From batches of images and a reference set to one row of figures, each of which says what it is."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mcm.artifacts import atomic_file
from mcm.errors import UserError
from mcm.evaluation.extractors import Extractor
from mcm.evaluation.metrics import covariance_root, frechet_distance, kernel_distance, precision_recall
from mcm.evaluation.statistics import FeatureStore, Moments

MIN_IMAGES = 8  # below this no figure here is defined
PAIRS = 10_000  # images a side for KID, precision and recall, which compare pairs
FLOOR_HOLDOUT = 500  # a smaller holdout says little, and halves of the training split are compared
CHUNK = 4096  # feature vectors read at once


@dataclass(frozen=True, eq=False)
class Reference:
    """What samples are compared with: the features of a split, their moments, and some of them for pairs."""

    md5: str  # of the data set
    split: str
    moments: Moments
    root: Tensor  # [D, any], R R^T is the covariance
    kept: np.ndarray  # float32 [min(N, PAIRS), D], a seeded choice

    @property
    def count(self) -> int:
        return self.moments.count


def split_features(
    images: np.ndarray, extractor: Extractor, md5: str, split: str, cache: Path | None = None
) -> np.ndarray:
    """Features float32 `[N, D]` of uint8 images `[N, H, W, C]`, kept in `cache` by data hash, split and extractor.

    The kind of device is part of the key, since another one rounds otherwise.
    """
    if cache is None:
        return extractor(images)
    path = Path(cache) / f"{md5.removesuffix('.dir')}-{split}-{extractor.name}-{extractor.device.type}.npy"
    found = _read_cached(path, (len(images), extractor.dimensions))
    if found is None:
        with atomic_file(path) as temporary, temporary.open("wb") as opened:
            np.save(opened, extractor(images), allow_pickle=False)
        found = _read_cached(path, (len(images), extractor.dimensions))
    if found is None:
        raise UserError(f"{path}: features written there cannot be read back; give another cache folder")
    return found


def _read_cached(path: Path, shape: tuple[int, int]) -> np.ndarray | None:
    """A memory-mapped array of this shape, or None where there is none: a cache is made again, never trusted."""
    try:
        features = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return features if features.shape == shape and features.dtype == np.float32 else None


def make_reference(features: np.ndarray, md5: str, split: str) -> Reference:
    """The reference of a split's features `[N, D]`; UserError for fewer than MIN_IMAGES."""
    if len(features) < MIN_IMAGES:
        raise UserError(f"evaluation: the {split} split has {len(features)} images; give at least {MIN_IMAGES}")
    moments = Moments(features.shape[1])
    for start in range(0, len(features), CHUNK):
        moments.update(features[start : start + CHUNK])
    if len(features) < features.shape[1]:
        root = (torch.from_numpy(np.asarray(features, dtype=np.float64)) - moments.mean).T / (len(features) - 1) ** 0.5
    else:
        root = covariance_root(moments.covariance)
    chosen = np.sort(np.random.default_rng(0).permutation(len(features))[:PAIRS])
    return Reference(md5, split, moments, root, np.asarray(features[chosen]))


def evaluate(
    batches: Iterable[np.ndarray], reference: Reference, extractor: Extractor, about: Mapping[str, Any]
) -> dict[str, Any]:
    """FID, KID, precision and recall of uint8 batches `[B, H, W, C]` against `reference`, as one row.

    `about` says where the images come from (ema, sampler, nfe, seed, guidance) and is kept in the row. Nothing but
    moments and at most PAIRS feature vectors is held. UserError for fewer than MIN_IMAGES samples.
    """
    moments, store = Moments(extractor.dimensions), FeatureStore(PAIRS)
    for images in batches:
        features = extractor(images)
        moments.update(features)
        store.update(features)
    if moments.count < MIN_IMAGES:
        raise UserError(f"evaluation: {moments.count} samples; set evaluation.samples to at least {MIN_IMAGES}")
    real, samples = _on(extractor, reference.kept), _on(extractor, store.features)
    kid = kernel_distance(real, samples)
    shares = precision_recall(real, samples)
    return {
        "fid": _fid(reference, moments),
        "kid": kid.value,
        "kid_standard_error": kid.standard_error,
        "precision": shares.precision,
        "recall": shares.recall,
        "samples": moments.count,
        "reference_samples": reference.count,
        "extractor": extractor.display,
        "reference": reference.md5,
        **about,
    }


def noise_floor(train: np.ndarray, holdout: np.ndarray, extractor: Extractor, seed: int = 0) -> dict[str, Any]:
    """What FID and KID are between images of the same kind: no sampler can be asked for less.

    Features `[N, D]` of the training split against the holdout, or, where that has fewer than FLOOR_HOLDOUT images,
    between two seeded halves of the training split. FID depends on the counts, so both are given.
    """
    if len(holdout) >= FLOOR_HOLDOUT:
        first, second, between = train, holdout, "train and holdout"
    else:
        order = np.random.default_rng(seed).permutation(len(train))
        half = len(train) // 2
        first, second, between = train[np.sort(order[:half])], train[np.sort(order[half:])], "two halves of train"
    a, b = (make_reference(features, "", between) for features in (first, second))
    kid = kernel_distance(_on(extractor, a.kept), _on(extractor, b.kept), seed=seed)
    return {
        "between": between,
        "counts": [a.count, b.count],
        "fid": _fid(a, b.moments),
        "kid": kid.value,
        "kid_standard_error": kid.standard_error,
        "extractor": extractor.display,
    }


def _fid(reference: Reference, other: Moments) -> float:
    moments = reference.moments
    return frechet_distance(moments.mean, moments.covariance, other.mean, other.covariance, reference.root)


def _on(extractor: Extractor, features: np.ndarray) -> Tensor:
    return torch.from_numpy(features).to(extractor.device)
