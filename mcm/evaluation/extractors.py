"""Feature extractors: uint8 images to the features that FID, KID, precision and recall compare.

A figure is comparable only under one extractor, so each has its own name. The default ones arrive with a package and
work offline; the Inception features of published FIDs need a weights file that no package carries.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mcm.config import suggest
from mcm.errors import UserError
from mcm.evaluation.effnet import FEATURES, effnet_lite0

# uint8 images [B, H, W, 3] on the device to features [B, D]
Network = Callable[[Tensor], Tensor]

INCEPTION_FOLDER = Path("/tmp")  # where clean-fid keeps its weights
INCEPTION_FILE = "inception-2015-12-05.pt"


def _effnet_lite0(size: int) -> Callable[[torch.device], Network]:
    """EfficientNet-Lite0 (ImageNet) at `size` pixels: the mean over space of the last feature map, 1280 numbers."""

    def build(device: torch.device) -> Network:
        network = effnet_lite0(device)

        def features(images: Tensor) -> Tensor:
            x = images.permute(0, 3, 1, 2).float()
            if x.shape[-2:] != (size, size):
                x = F.interpolate(x, size=(size, size), mode="bicubic", antialias=True).clamp_(0, 255)
            return network(x.sub(127).div_(128))

        return features

    return build


def _inception(device: torch.device) -> Network:
    """clean-fid's Inception-v3 pool features, 2048 numbers, with its resize: bicubic by Pillow, not quantized."""
    path = INCEPTION_FOLDER / INCEPTION_FILE
    if not path.is_file():
        raise UserError(
            f"extractor inception: clean-fid's weights are not at {path}; fetch them where there is a network "
            f"(python -c \"from cleanfid.downloads_helper import *; check_download_inception('{INCEPTION_FOLDER}')\") "
            "or set evaluation.extractor to effnet-lite0@128"
        )
    from mcm.vision import import_cleanfid  # late: torchvision is half of what a stage imports

    network = import_cleanfid("inception_torchscript").InceptionV3W(str(INCEPTION_FOLDER), download=False).to(device)
    resize = import_cleanfid("resize").build_resizer("clean")

    def features(images: Tensor) -> Tensor:
        resized = np.stack([resize(image) for image in images.cpu().numpy()])
        return network(torch.from_numpy(resized).permute(0, 3, 1, 2).to(device))

    return features


@dataclass(frozen=True)
class ExtractorSpec:
    """A row of the table: how it is shown, how many features it has, and how its network is made."""

    display: str  # the name that a FID under it bears
    dimensions: int
    build: Callable[[torch.device], Network]


EXTRACTORS: dict[str, ExtractorSpec] = {
    "effnet-lite0@128": ExtractorSpec("FID (EffNet-Lite0@128)", FEATURES, _effnet_lite0(128)),
    "effnet-lite0@224": ExtractorSpec("FID (EffNet-Lite0@224)", FEATURES, _effnet_lite0(224)),
    "inception": ExtractorSpec("FID (Inception, clean)", 2048, _inception),
}
DEFAULT = "effnet-lite0@128"


def check_extractor(name: str) -> str:
    """The name itself; ValueError with the near one where it is unknown."""
    if name not in EXTRACTORS:
        raise ValueError(f"no such extractor; {suggest(name, list(EXTRACTORS))}")
    return name


class Extractor:
    """A loaded extractor on a device. Raises UserError for an unknown name or missing weights."""

    def __init__(self, name: str = DEFAULT, device: torch.device | str = "cpu"):
        try:
            spec = EXTRACTORS[check_extractor(name)]
        except ValueError as error:
            raise UserError(f"extractor '{name}': {error}") from None
        self.name, self.display, self.dimensions = name, spec.display, spec.dimensions
        self.device = torch.device(device)
        self.chunk = 16 if self.device.type == "cpu" else 256  # a few images at a time stay in a processor's cache
        self._network = spec.build(self.device)

    @torch.no_grad()  # XLA has no inference mode
    def __call__(self, images: np.ndarray | Tensor) -> Tensor:
        """uint8 `[B, H, W, C]`, C 1 (repeated to 3) or 3, to features float32 `[B, dimensions]` on the device.

        Images that are there already stay there. Products are float32 on every device, never TF32: figures compare.
        """
        if images.dtype not in (np.uint8, torch.uint8) or images.ndim != 4 or images.shape[-1] not in (1, 3):
            raise UserError(
                f"extractor '{self.name}': images are {images.dtype} {tuple(images.shape)}; "
                "give uint8 [B, H, W, 1 or 3]"
            )
        features = torch.empty(len(images), self.dimensions, device=self.device)
        with torch.backends.cudnn.flags(allow_tf32=False):
            for start in range(0, len(images), self.chunk):
                chunk = images[start : start + self.chunk]
                pixels = chunk if isinstance(chunk, Tensor) else torch.from_numpy(np.array(chunk))
                rgb = pixels.to(self.device, non_blocking=True).expand(-1, -1, -1, 3)
                features[start : start + len(chunk)] = self._network(rgb)
        return features
