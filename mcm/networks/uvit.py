"""The UViT of simple diffusion (Hoogeboom et al. 2023) as Appendix A of the paper sizes it.

A U-Net whose stages are ResNet blocks at high resolution and whole transformer blocks (attention and MLP, no
convolutions) at low resolution. One embedding of time and class gives every block a scale and a shift: in a ResNet
block over its channels, in a transformer block over the hidden layer of its MLP. Tensors are kept `[B, H, W, C]`, so
that attention, norms and projections read contiguous channels and convolutions run channels-last.
"""

import itertools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcm.errors import UserError
from mcm.networks.dropout import Dropout
from mcm.networks.recompute import run_block


@dataclass(frozen=True)
class Stage:
    """One row of the network's table: `blocks` blocks of `kind` at `channels`, with `dropout`."""

    kind: str  # "resnet" or "transformer"
    channels: int
    blocks: int = 3
    dropout: float = 0.0


@dataclass(frozen=True)
class UViTConfig:
    """Shape of a UViT. Each down stage ends with a 2x2 average pool; the up stages mirror them."""

    resolution: int
    down: tuple[Stage, ...]
    middle: Stage
    image_channels: int = 3
    patch: int = 1  # space-to-depth in front of the first stage
    embedding: int = 1024  # width of the time-plus-class embedding
    head_channels: int = 64
    num_classes: int = 0  # 0 is unconditional
    reads_end: bool = False  # whether the embedding takes the level where a step ends

    def __post_init__(self) -> None:
        factor = self.patch * 2 ** len(self.down)
        if self.resolution % factor:
            raise ValueError(f"resolution {self.resolution} is not a multiple of {factor}")


def fourier_features(logsnr: Tensor, width: int) -> Tensor:
    """Sines and cosines `[B, width]` of a clipped logsnr `[B]`, frequencies geometric from 2^-4 to 2^3."""
    made_on = "cpu" if logsnr.device.type in ("xla", "tpu") else logsnr.device  # XLA has no such operation
    frequencies = torch.logspace(-4, 3, width // 2, base=2.0, device=made_on).to(logsnr.device)
    angles = logsnr.float()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def _logsnr_embedding(features: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width))


def _zero(layer: nn.Module) -> nn.Module:
    """Zero the parameters, so that what they are part of starts as the identity."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class Embedding(nn.Module):
    """logsnr `[B]` and label `[B]` to one vector `[B, width]`. Label `num_classes` is the null class of guidance.

    With `reads_end` it takes a second logsnr `[B]`, that of the end of a step (Kim et al. 2023). What it says of that
    starts at 0, so that a network that begins with another's weights begins with the other's predictions.
    """

    def __init__(self, width: int, num_classes: int, reads_end: bool = False):
        super().__init__()
        self.fourier = min(256, width)
        self.time = _logsnr_embedding(self.fourier, width)
        self.label = nn.Embedding(num_classes + 1, width) if num_classes else None
        self.num_classes = num_classes
        self.end = _logsnr_embedding(self.fourier, width) if reads_end else None
        if self.end is not None:
            _zero(self.end[-1])

    def forward(self, logsnr: Tensor, labels: Tensor | None, end_logsnr: Tensor | None = None) -> Tensor:
        embedding = self.time(fourier_features(logsnr, self.fourier))
        if self.end is not None:
            # A step that ends where it begins is the diffusion model's: what is meant where no end is named.
            embedding = embedding + self.end(
                fourier_features(logsnr if end_logsnr is None else end_logsnr, self.fourier)
            )
        elif end_logsnr is not None:
            raise UserError("network: told where a step ends, and it has no input for that; set reads_end of its shape")
        if self.label is not None:
            if labels is None:
                labels = torch.full((len(logsnr),), self.num_classes, device=logsnr.device)
            embedding = embedding + self.label(labels)
        return F.silu(embedding)


EXPLICIT_ATTENTION_LIMIT = 256  # N up to which plain products win on a CPU


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax attention over `[B, heads, N, C]`.

    On a CPU, for sequences as short as those of the small networks, the backward pass of the fused kernel costs more
    than the two products it saves: `python -m benchmarks network`.
    """
    if query.device.type != "cpu" or query.shape[-2] > EXPLICIT_ATTENTION_LIMIT:
        return F.scaled_dot_product_attention(query, key, value)
    weights = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(dim=-1)
    return weights.to(value.dtype) @ value


class ResNetBlock(nn.Module):
    """norm, SiLU, 3x3 convolution, norm with scale and shift, SiLU, dropout, 3x3 convolution; residual."""

    def __init__(self, config: UViTConfig, stage: Stage, layer: int):
        super().__init__()
        channels = stage.channels
        self.norm1 = nn.LayerNorm(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.condition = nn.Linear(config.embedding, 2 * channels)
        self.norm2 = nn.LayerNorm(channels, elementwise_affine=False)
        self.dropout = Dropout(stage.dropout, layer)
        self.conv2 = _zero(nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Tensor, embedding: Tensor, seeds: Tensor | None) -> Tensor:
        scale, shift = self.condition(embedding)[:, None, None].chunk(2, dim=-1)
        h = self._conv(self.conv1, F.silu(self.norm1(x)))
        h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        h = self.dropout(F.silu(h), seeds)
        return x + self._conv(self.conv2, h)

    @staticmethod
    def _conv(conv: nn.Module, x: Tensor) -> Tensor:
        return conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class TransformerBlock(nn.Module):
    """Self-attention, then an MLP whose hidden layer takes the scale, the shift and the dropout; both residual."""

    EXPANSION = 4

    def __init__(self, config: UViTConfig, stage: Stage, layer: int):
        super().__init__()
        channels = stage.channels
        hidden = self.EXPANSION * channels
        self.heads = max(1, channels // config.head_channels)
        self.norm1 = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = _zero(nn.Linear(channels, channels))
        self.norm2 = nn.LayerNorm(channels)
        self.up = nn.Linear(channels, hidden)
        self.condition = nn.Linear(config.embedding, 2 * hidden)
        self.dropout = Dropout(stage.dropout, layer)
        self.down = _zero(nn.Linear(hidden, channels))

    def forward(self, x: Tensor, embedding: Tensor, seeds: Tensor | None) -> Tensor:
        batch, height, width, channels = x.shape
        x = x.reshape(batch, height * width, channels)
        qkv = self.qkv(self.norm1(x)).view(batch, height * width, 3, self.heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        attended = attention(query, key, value)
        x = x + self.out(attended.transpose(1, 2).reshape(batch, height * width, channels))
        scale, shift = self.condition(embedding)[:, None].chunk(2, dim=-1)
        hidden = F.gelu(self.up(self.norm2(x)), approximate="tanh")
        hidden = torch.addcmul(shift, hidden, 1 + scale)
        x = x + self.down(self.dropout(hidden, seeds))
        return x.view(batch, height, width, channels)


BLOCKS = {"resnet": ResNetBlock, "transformer": TransformerBlock}


class UViT(nn.Module):
    """v-prediction network: noisy images, logsnr and label to v of the images' shape.

    `recompute` (False at first) is switched by who trains: see mcm.networks.recompute.
    """

    def __init__(self, config: UViTConfig):
        super().__init__()
        self.config = config
        self.reads_end = config.reads_end
        self.recompute = False
        stages = [*config.down, config.middle]
        resolutions = [config.resolution // config.patch // 2**i for i in range(len(stages))]
        layers = iter(range(10**6))

        def blocks(stage: Stage) -> nn.ModuleList:
            return nn.ModuleList(BLOCKS[stage.kind](config, stage, next(layers)) for _ in range(stage.blocks))

        def positions(stage: Stage, resolution: int) -> nn.Parameter | None:
            if stage.kind != "transformer":
                return None
            return nn.Parameter(0.02 * torch.randn(resolution, resolution, stage.channels))

        patch_channels = config.image_channels * config.patch**2
        self.embedding = Embedding(config.embedding, config.num_classes, config.reads_end)
        self.read = nn.Linear(patch_channels, stages[0].channels)
        self.down = nn.ModuleList(blocks(stage) for stage in config.down)
        self.middle = blocks(config.middle)
        self.up = nn.ModuleList(blocks(stage) for stage in config.down)
        self.positions = nn.ParameterList()
        self._has_position = [stage.kind == "transformer" for stage in stages]
        for stage, resolution in zip(stages, resolutions, strict=True):
            position = positions(stage, resolution)
            if position is not None:
                self.positions.append(position)
        pairs = list(itertools.pairwise(stages))
        self.widen = nn.ModuleList(nn.Linear(a.channels, b.channels) for a, b in pairs)
        self.narrow = nn.ModuleList(nn.Linear(b.channels, a.channels) for a, b in pairs)
        self.norm = nn.LayerNorm(stages[0].channels)
        self.write = _zero(nn.Linear(stages[0].channels, patch_channels))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # convolutions read it so

    def forward(
        self,
        z: Tensor,
        logsnr: Tensor,
        labels: Tensor | None = None,
        dropout_seeds: Tensor | None = None,
        end_logsnr: Tensor | None = None,
    ) -> Tensor:
        """z `[B, C, H, W]`, logsnr `[B]` (clipped, finite), labels int64 `[B]` or None, seeds int64 `[B]` or None.

        A network that reads ends takes the logsnr `[B]` where the step ends; None is `logsnr` itself.
        """
        embedding = self.embedding(logsnr, labels, end_logsnr)
        positions = iter(self.positions)
        h = self.read(_space_to_depth(z, self.config.patch))
        skips: list[list[Tensor]] = []
        for i, stage in enumerate(self.down):
            if self._has_position[i]:
                h = h + next(positions)
            skips.append([])
            for block in stage.children():
                h = run_block(block, h, embedding, dropout_seeds, self.recompute)
                skips[-1].append(h)
            h = self.widen[i](_pool(h))
        if self._has_position[-1]:
            h = h + next(positions)
        for block in self.middle:
            h = run_block(block, h, embedding, dropout_seeds, self.recompute)
        for i in reversed(range(len(self.up))):
            h = _upsample(self.narrow[i](h))
            for block in self.up[i].children():
                h = (h + skips[i].pop()) * math.sqrt(0.5)
                h = run_block(block, h, embedding, dropout_seeds, self.recompute)
        return _depth_to_space(self.write(F.silu(self.norm(h))), self.config.patch)


def _space_to_depth(z: Tensor, patch: int) -> Tensor:
    """`[B, C, H, W]` to `[B, H/p, W/p, C p p]`."""
    return F.pixel_unshuffle(z, patch).permute(0, 2, 3, 1)


def _depth_to_space(h: Tensor, patch: int) -> Tensor:
    """`[B, H, W, C p p]` to `[B, C, H p, W p]`, contiguous."""
    return F.pixel_shuffle(h.permute(0, 3, 1, 2), patch).contiguous()


def _pool(h: Tensor) -> Tensor:
    """2x2 average pool of `[B, H, W, C]`."""
    return F.avg_pool2d(h.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)


def _upsample(h: Tensor) -> Tensor:
    """Nearest-neighbour doubling of `[B, H, W, C]`."""
    if h.device.type == "xla":  # its CPU has no gradient of interpolate, and would leave the device in each step
        return h.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
    return F.interpolate(h.permute(0, 3, 1, 2), scale_factor=2, mode="nearest").permute(0, 2, 3, 1)
