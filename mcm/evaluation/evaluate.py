"""From batches of images and a reference set to one row of figures, each of which says what it is."""

import collections
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
from mcm.evaluation.sharing import Group, in_order, share
from mcm.evaluation.statistics import FeatureStore, Moments

MIN_IMAGES = 8  # below this no figure here is defined
PAIRS = 10_000  # images a side for KID, precision and recall, which compare pairs
FLOOR_HOLDOUT = 500  # a smaller holdout says little, and halves of the training split are compared
CHUNK = 4096  # feature vectors read at once
SHARE = 256  # images of a split that one process computes at a time
ROUNDING = 2  # one more, where a change makes features of the same name differ in their last digits


@dataclass(frozen=True, eq=False)
class Reference:
    """What samples are compared with: the features of a split, their moments, and some of them for pairs."""

    md5: str  # of the data set
    split: str
    moments: Moments
    root: Tensor  # [D, any], R R^T is the covariance
    kept: Tensor  # float32 [min(N, PAIRS), D], a seeded choice

    @property
    def count(self) -> int:
        return self.moments.count


def split_features(
    images: np.ndarray, extractor: Extractor, md5: str, split: str, cache: Path, group: Group | None = None
) -> np.ndarray:
    """Features float32 `[N, D]` of uint8 images `[N, H, W, C]`, kept in `cache` by data hash, split and extractor.

    The kind of device is part of the key, and so is a number for how they are computed, since another one rounds
    otherwise. Of several processes each computes a share, and the leading one keeps and has them; others have none
    of it, `[0, D]`.
    """
    leads = group is None or group.leads
    shape, none = (len(images), extractor.dimensions), torch.empty(0, extractor.dimensions, device=extractor.device)
    file = f"{md5.removesuffix('.dir')}-{split}-{extractor.name}-{extractor.device.type}-{ROUNDING}.npy"
    path = Path(cache) / file
    found = _read_cached(path, shape) if leads else None
    if not (group.agree(int(found is not None)) if group else found is not None):
        batches = (extractor(images[part.start : part.stop]) for part in share(len(images), SHARE, group))
        made = in_order(batches, none, group)
        if leads:
            with atomic_file(path) as temporary:
                _write(temporary, shape, made)
            found = _read_cached(path, shape)
            if found is None:
                raise UserError(f"{path}: features written there cannot be read back; give another cache folder")
        else:
            collections.deque(made, maxlen=0)
    return none.cpu().numpy() if found is None else found


def _write(path: Path, shape: tuple[int, int], parts: Iterable[Tensor]) -> None:
    """A `.npy` of float32, part by part: it may be larger than memory."""
    with path.open("wb") as opened:
        described = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(opened, described)
        for part in parts:
            opened.write(part.cpu().numpy().tobytes())


def _read_cached(path: Path, shape: tuple[int, int]) -> np.ndarray | None:
    """A memory-mapped array of this shape, or None where there is none: a cache is made again, never trusted."""
    try:
        features = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return features if features.shape == shape and features.dtype == np.float32 else None


def make_reference(features: np.ndarray, md5: str, split: str, device: torch.device | str = "cpu") -> Reference:
    """The reference of a split's features `[N, D]`, on `device`; UserError for fewer than MIN_IMAGES."""
    if len(features) < MIN_IMAGES:
        raise UserError(f"evaluation: the {split} split has {len(features)} images; give at least {MIN_IMAGES}")
    moments = Moments(features.shape[1], device)
    for start in range(0, len(features), CHUNK):
        moments.update(_on(device, features[start : start + CHUNK]))
    if len(features) < features.shape[1]:
        root = (_on(device, features).double() - moments.mean).T / (len(features) - 1) ** 0.5
    else:
        root = covariance_root(moments.covariance)
    chosen = np.sort(np.random.default_rng(0).permutation(len(features))[:PAIRS])
    return Reference(md5, split, moments, root, _on(device, features[chosen]))


def evaluate(
    batches: Iterable[np.ndarray | Tensor],
    reference: Reference | None,
    extractor: Extractor,
    about: Mapping[str, Any],
    group: Group | None = None,
) -> dict[str, Any]:
    """FID, KID, precision and recall of uint8 batches `[B, H, W, C]` against `reference`, as one row.

    `about` says where the images come from (ema, sampler, nfe, seed, guidance) and is kept in the row. Nothing but
    moments and at most PAIRS feature vectors is held, where the extractor is. Of several processes each gives its
    share of the batches (`mcm.evaluation.sharing.share`); the leading one has the reference and the row, and others
    give None and have an empty row. UserError for fewer than MIN_IMAGES samples.
    """
    moments, store = Moments(extractor.dimensions, extractor.device), FeatureStore(PAIRS)
    like = torch.empty(0, extractor.dimensions, device=extractor.device)
    for features in in_order(map(extractor, batches), like, group):
        if reference is not None:
            moments.update(features)
            store.update(features)
    if reference is None:
        return {}
    if moments.count < MIN_IMAGES:
        raise UserError(f"evaluation: {moments.count} samples; set evaluation.samples to at least {MIN_IMAGES}")
    kid = kernel_distance(reference.kept, store.features)
    shares = precision_recall(reference.kept, store.features)
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
    a, b = (make_reference(features, "", between, extractor.device) for features in (first, second))
    kid = kernel_distance(a.kept, b.kept, seed=seed)
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


def _on(device: torch.device | str, features: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(features, dtype=np.float32)).to(device)
