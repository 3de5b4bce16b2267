"""Named network shapes, one row each, and how a shape becomes a network, a parameter count or JSON."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from mcm.config import suggest
from mcm.errors import UserError
from mcm.networks.mlp import MLP, MLPConfig
from mcm.networks.uvit import BLOCKS, Stage, UViT, UViTConfig

NetworkConfig = UViTConfig | MLPConfig

# App. A of the paper. The large models double every channel; the embedding stays 1024 wide.
PRESETS: dict[str, NetworkConfig] = {
    "imagenet64_small": UViTConfig(
        64,
        down=(Stage("resnet", 256), Stage("transformer", 512)),
        middle=Stage("transformer", 1024, 16, dropout=0.2),
    ),
    "imagenet64_large": UViTConfig(
        64,
        down=(Stage("resnet", 512), Stage("transformer", 1024, dropout=0.1)),
        middle=Stage("transformer", 2048, 16, dropout=0.1),
    ),
    "imagenet128_small": UViTConfig(
        128,
        down=(Stage("resnet", 128), Stage("resnet", 256), Stage("transformer", 512)),
        middle=Stage("transformer", 1024, 16, dropout=0.1),
    ),
    "imagenet128_large": UViTConfig(
        128,
        down=(Stage("resnet", 256), Stage("resnet", 512, dropout=0.1), Stage("transformer", 1024, dropout=0.1)),
        middle=Stage("transformer", 2048, 16, dropout=0.1),
    ),
    # Sizes of this project: one GPU, a CPU, a test, points instead of images.
    "uvit64": UViTConfig(
        64,
        down=(Stage("resnet", 128), Stage("transformer", 256)),
        middle=Stage("transformer", 384, 8),
        embedding=256,
    ),
    "uvit_cpu32": UViTConfig(
        32,
        down=(Stage("resnet", 32, 1), Stage("resnet", 64, 1)),
        middle=Stage("transformer", 128, 3),
        embedding=128,
    ),
    "uvit_cpu32_lean": UViTConfig(
        32,
        patch=2,
        down=(Stage("resnet", 32, 1),),
        middle=Stage("transformer", 96, 3),
        embedding=96,
        head_channels=48,
    ),
    "uvit_tiny": UViTConfig(
        16, down=(Stage("resnet", 16, 1),), middle=Stage("transformer", 32, 1), patch=2, embedding=32, head_channels=16
    ),
    "mlp": MLPConfig(dimensions=2),
}

_NAMES: dict[str, type[UViTConfig] | type[MLPConfig]] = {"uvit": UViTConfig, "mlp": MLPConfig}


def network_config(
    preset: str,
    resolution: int | None = None,
    image_channels: int = 3,
    num_classes: int = 0,
    dropout: float | None = None,
) -> NetworkConfig:
    """The row `preset` of PRESETS, at the size of the data.

    `resolution` None keeps the row's. `dropout` None keeps the rows' rates; a number replaces that of the middle and of
    every stage that has one. The MLP is for points: it takes no resolution, and its dimensions are `image_channels`.
    Raises UserError on an unknown preset, on a resolution that does not fit, on a rate outside [0, 1).
    """
    if preset not in PRESETS:
        raise UserError(f"network preset '{preset}' is unknown; {suggest(preset, list(PRESETS))}")
    if dropout is not None and not 0 <= dropout < 1:
        raise UserError(f"dropout of network '{preset}' is {dropout}; give a rate of at least 0 and below 1")
    row = PRESETS[preset]
    if isinstance(row, MLPConfig):
        if resolution is not None:
            raise UserError(f"network preset '{preset}' is for points, not for images; choose a 'uvit' preset")
        rate = row.dropout if dropout is None else dropout
        return replace(row, dimensions=image_channels, num_classes=num_classes, dropout=rate)

    def rated(stage: Stage, always: bool = False) -> Stage:
        return stage if dropout is None or not (always or stage.dropout) else replace(stage, dropout=dropout)

    config = replace(
        row,
        down=tuple(rated(stage) for stage in row.down),
        middle=rated(row.middle, always=True),
        image_channels=image_channels,
        num_classes=num_classes,
    )
    if resolution is None:
        return config
    factor = row.patch * 2 ** len(row.down)
    if resolution < factor or resolution % factor:
        raise UserError(
            f"network preset '{preset}' takes a resolution that is a multiple of {factor}, not {resolution}; "
            "resize the images or choose another preset"
        )
    return replace(config, resolution=resolution)


def build(config: NetworkConfig, recompute: bool = False) -> nn.Module:
    """The network of a shape, with fresh weights on the default device; `recompute` as in `mcm.networks.recompute`."""
    network = MLP(config) if isinstance(config, MLPConfig) else UViT(config)
    network.recompute = recompute
    return network


def parameter_count(config: NetworkConfig) -> int:
    """Number of parameters, counted without allocating them."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build(config).parameters())


def to_json(config: NetworkConfig) -> dict[str, Any]:
    """A shape as JSON holds it: its fields, and under "network" which network it is of.

    `reads_end` is there only where it is True.
    """
    name = "mlp" if isinstance(config, MLPConfig) else "uvit"
    values = asdict(config)
    if isinstance(config, UViTConfig):
        values["down"] = list(values["down"])
    if not config.reads_end:
        del values["reads_end"]
    return {"network": name, **values}


def from_json(values: Mapping[str, Any], where: str) -> NetworkConfig:
    """The inverse of `to_json`. `where` names the values' place in the UserError that unfit ones raise."""
    name = values.get("network")
    if name not in _NAMES:
        raise UserError(f"{where}: network is {name!r}; {suggest(str(name), list(_NAMES))}")
    fields = {key: value for key, value in values.items() if key != "network"}
    try:
        config: NetworkConfig = TypeAdapter(_NAMES[name]).validate_python(fields)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or name
        raise UserError(f"{where}: '{key}' of the network: {first['msg']}; write the folder anew") from None
    if isinstance(config, UViTConfig):
        for stage in (*config.down, config.middle):
            if stage.kind not in BLOCKS:
                raise UserError(f"{where}: stage kind '{stage.kind}' is unknown; {suggest(stage.kind, list(BLOCKS))}")
    if to_json(config) != dict(values):
        raise UserError(f"{where}: the network has unknown, missing or oddly typed keys; write the folder anew")
    return config
