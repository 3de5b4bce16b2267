"""Evaluation: pictures on disk to a FID, and the Fréchet distance by itself, beside clean-fid's."""

import contextlib
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.harness import Case, Figure, Options, Ratio, Results, at_least, at_most, in_turn

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from mcm.evaluation.extractors import Extractor

PICTURES, QUICK_PICTURES = 192, 24  # in each of two folders
SIDE = 32
FEATURES, QUICK_FEATURES = 2048, 256
AGREEMENT = 1e-4
EXTRACTOR = "effnet-lite0@128"

ABOUT = (
    "The whole FID path on the same PNG files: read, features (EfficientNet-Lite0 at 128 pixels), moments, Fréchet "
    "distance. Ours is mcm.evaluation; the peer is cleanfid.fid.compute_fid on the two folders, its own resize set to "
    "the same 128 pixels, in this process (num_workers=0). It has the network once as the package defines it, which is "
    "what one gives it, and once ours, whose convolutions and batch norms are fused; so the second row is the path "
    "alone, and the third is the path up to the features, without clean-fid's square root of a matrix, which takes the "
    "same time for any number of images. Then the distance at full rank, and KID, between the same features."
)


def run(options: Options) -> Results:
    with tempfile.TemporaryDirectory() as scratch, _quiet():
        found = Results([*_paths(Path(scratch), options), *_distance(options), _kid(options)])
    found.notes.append(
        "Sampling is no part of this: on a GPU images go from sampler to extractor on the device, on a CPU both use "
        "all cores in turn. clean-fid's distance is one `scipy.linalg.sqrtm`, timed once."
    )
    return found


def _paths(scratch: Path, options: Options) -> Iterator[Figure]:
    """The FID path over both folders, ours and clean-fid's with either network."""
    from benchmarks.machine import device
    from benchmarks.peers import cleanfid_folder
    from mcm.evaluation.effnet import effnet_lite0
    from mcm.evaluation.extractors import Extractor

    count = QUICK_PICTURES if options.quick else PICTURES
    first, second = (_pictures(scratch / str(seed), count, seed) for seed in (0, 1))
    place = device()
    extractor = Extractor(EXTRACTOR, place)
    package, fused = cleanfid_folder.package_network(place), effnet_lite0(place)

    def inferring(network: Callable[["Tensor"], "Tensor"]) -> Callable[[], float]:
        return lambda: cleanfid_folder.fid(first, second, network, 128, place)

    ours, theirs = _fid(first, second, extractor), inferring(package)()  # also the warm-up
    taken = in_turn(
        {
            "ours": lambda: _fid(first, second, extractor),
            "package": inferring(package),
            "fused": inferring(fused),
            "our features": lambda: extractor(_read(first)),
            "its features": lambda: cleanfid_folder.features(first, fused, 128, place),
        },
        options.rounds(3, quick=1),
        warmup=0,
    )
    for peer, words in (("package", "the package's network"), ("fused", "our fused network")):
        yield Figure(
            f"two folders of {count} PNG of {SIDE} pixels, {words}",
            taken.rate("ours", 2 * count),
            "images/s",
            taken.rate(peer, 2 * count),
            cleanfid_folder.NAME,
            taken.ratio(peer, "ours"),
            f"images/s, ours / clean-fid with {words}",
            at_least(2.0),
            f"FID ours {ours:.4f}, clean-fid's {theirs:.4f}" if peer == "package" else "",
        )
    yield Figure(
        f"features alone of a folder of {count}, our fused network",
        taken.rate("our features", count),
        "images/s",
        taken.rate("its features", count),
        cleanfid_folder.NAME,
        taken.ratio("its features", "our features"),
        "images/s, ours / clean-fid's reading and resize",
    )
    images = _read(first)
    batch = extractor.chunk
    pixels = _resized(images[:batch], 128, place)
    networks = in_turn({"ours": lambda: fused(pixels), "package": lambda: package(pixels)}, options.rounds(15))
    yield Figure(
        f"the network alone, batches of {batch}",
        networks.rate("ours", len(pixels)),
        "images/s",
        networks.rate("package", len(pixels)),
        "the package",
        networks.ratio("package", "ours"),
        "images/s, fused / the package's",
        note=f"features differ by at most {float((fused(pixels) - package(pixels)).abs().max()):.1e}",
    )


def _distance(options: Options) -> Iterator[Figure]:
    """The Fréchet distance between two Gaussians of full rank."""
    import torch

    from benchmarks.peers import cleanfid_folder
    from mcm.evaluation.metrics import frechet_distance

    dimensions = QUICK_FEATURES if options.quick else FEATURES
    make = torch.Generator().manual_seed(0)
    spread = torch.logspace(0, -2, dimensions, dtype=torch.float64)
    mix = torch.randn(dimensions, dimensions, generator=make, dtype=torch.float64) / dimensions**0.5
    moments: list[tuple[Tensor, Tensor]] = []
    for shift in (0.0, 0.05):
        x = shift + (torch.randn(3 * dimensions, dimensions, generator=make, dtype=torch.float64) * spread) @ mix
        moments.append((x.mean(dim=0), torch.cov(x.T)))
    values: dict[str, float] = {}

    def ours() -> None:
        values["ours"] = frechet_distance(*moments[0], *moments[1])

    def theirs() -> None:
        values["theirs"] = cleanfid_folder.distance(moments[0], moments[1])

    taken = in_turn({"ours": ours, "clean-fid": theirs}, rounds=1, warmup=0)
    name = f"Fréchet distance of {dimensions} features"
    yield Figure(
        name,
        taken.median("ours"),
        "s",
        taken.median("clean-fid"),
        cleanfid_folder.NAME,
        taken.ratio("clean-fid", "ours"),
        "seconds, clean-fid / ours",
        at_least(2.0),
        "Cholesky of one covariance and eigenvalues of a symmetric product, against scipy.linalg.sqrtm",
    )
    apart = abs(values["ours"] - values["theirs"]) / abs(values["theirs"])
    yield Figure(
        f"{name}, its value",
        values["ours"],
        "",
        values["theirs"],
        cleanfid_folder.NAME,
        Ratio(apart, apart, apart),
        "difference, as a share of clean-fid's",
        at_most(AGREEMENT),
    )


def _kid(options: Options) -> Figure:
    import numpy as np
    import torch

    from benchmarks.peers import cleanfid_folder
    from mcm.evaluation.metrics import kernel_distance
    from mcm.vision import import_cleanfid

    count = 200 if options.quick else 1000
    draw = np.random.default_rng(0)
    first, second = (draw.standard_normal((count, 1280), dtype=np.float32) for _ in range(2))
    theirs = import_cleanfid("fid").kernel_distance
    size = count // 2
    taken = in_turn(
        {
            "ours": lambda: kernel_distance(torch.from_numpy(first), torch.from_numpy(second), subset_size=size),
            "clean-fid": lambda: theirs(first, second, max_subset_size=size),
        },
        options.rounds(3, quick=1),
    )
    return Figure(
        f"KID of {count} against {count}, 100 subsets of {size}",
        taken.median("ours"),
        "s",
        taken.median("clean-fid"),
        cleanfid_folder.NAME,
        taken.ratio("clean-fid", "ours"),
        "seconds, clean-fid / ours",
        note="ours in float64, clean-fid's in float32: each pair's kernel is computed once, not for each subset",
    )


def _fid(first: Path, second: Path, extractor: "Extractor") -> float:
    """FID between two folders of pictures of one size, as mcm.evaluation computes it of a data set and samples."""
    from mcm.evaluation.evaluate import make_reference
    from mcm.evaluation.metrics import frechet_distance

    a, b = (
        make_reference(extractor(_read(folder)).cpu().numpy(), "", "", extractor.device) for folder in (first, second)
    )
    return frechet_distance(a.moments.mean, a.moments.covariance, b.moments.mean, b.moments.covariance, a.root)


def _read(folder: Path) -> "np.ndarray":
    import numpy as np

    from mcm.data.images import decode

    return np.stack([np.asarray(decode(path.read_bytes(), path.name)) for path in sorted(folder.iterdir())])


def _resized(images: "np.ndarray", size: int, place: object) -> "Tensor":
    """What the network reads, float32 `[B, 3, size, size]`."""
    import torch
    from torch.nn.functional import interpolate

    pixels = torch.from_numpy(images).to(place).permute(0, 3, 1, 2).float()  # type: ignore[call-overload]
    return interpolate(pixels, size=(size, size), mode="bicubic", antialias=True).clamp(0, 255).sub(127).div(128)


def _pictures(folder: Path, count: int, seed: int) -> Path:
    """PNG files of coarse noise, which the network tells apart."""
    import numpy as np
    from PIL import Image

    folder.mkdir()
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    for index, picture in enumerate(coarse):
        Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(folder / f"{index:04d}.png")
    return folder


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the peers' bars and warnings."""
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


CASE = Case("evaluation", "Evaluation", ABOUT, run)
