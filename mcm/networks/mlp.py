"""A residual MLP for low-dimensional data, with the conditioning and the signature of the UViT.

Small enough that properties of the method, and Figure 1 of the paper, are shown by training it in seconds.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from mcm.networks.dropout import Dropout
from mcm.networks.recompute import run_block
from mcm.networks.uvit import Embedding


@dataclass(frozen=True)
class MLPConfig:
    """Shape of an MLP denoiser of points with `dimensions` coordinates."""

    dimensions: int
    width: int = 128
    blocks: int = 3
    embedding: int = 128  # width of the time-plus-class embedding
    num_classes: int = 0  # 0 is unconditional
    dropout: float = 0.0
    reads_end: bool = False  # whether the embedding takes the level where a step ends

    def __post_init__(self) -> None:
        if min(self.dimensions, self.width, self.blocks, self.embedding) < 1:
            raise ValueError("dimensions, width, blocks and embedding of an MLP are at least 1")


class MLPBlock(nn.Module):
    """norm, linear, SiLU, scale and shift by the embedding, dropout, linear; residual. `[B, W]` to `[B, W]`."""

    def __init__(self, config: MLPConfig, layer: int):
        super().__init__()
        self.norm = nn.LayerNorm(config.width)
        self.up = nn.Linear(config.width, 2 * config.width)
        self.condition = nn.Linear(config.embedding, 4 * config.width)
        self.dropout = Dropout(config.dropout, layer)
        self.down = nn.Linear(2 * config.width, config.width)

    def forward(self, h: Tensor, embedding: Tensor, seeds: Tensor | None) -> Tensor:
        scale, shift = self.condition(embedding).chunk(2, dim=-1)
        hidden = F.silu(self.up(self.norm(h))) * (1 + scale) + shift
        return h + self.down(self.dropout(hidden, seeds))


class MLP(nn.Module):
    """v-prediction network: noisy points, logsnr and label to v of the points' shape; `recompute` as in the UViT."""

    def __init__(self, config: MLPConfig):
        super().__init__()
        self.config = config
        self.reads_end = config.reads_end
        self.recompute = False
        self.embedding = Embedding(config.embedding, config.num_classes, config.reads_end)
        self.read = nn.Linear(config.dimensions, config.width)
        self.blocks = nn.ModuleList(MLPBlock(config, layer) for layer in range(config.blocks))
        self.norm = nn.LayerNorm(config.width)
        self.write = nn.Linear(config.width, config.dimensions)
        nn.init.zeros_(self.write.weight)  # v starts at 0, as the UViT's does
        nn.init.zeros_(self.write.bias)

    def forward(
        self,
        z: Tensor,
        logsnr: Tensor,
        labels: Tensor | None = None,
        dropout_seeds: Tensor | None = None,
        end_logsnr: Tensor | None = None,
    ) -> Tensor:
        """z `[B, D]`, the rest as the UViT's."""
        embedding = self.embedding(logsnr, labels, end_logsnr)
        h = self.read(z)
        for block in self.blocks:
            h = run_block(block, h, embedding, dropout_seeds, self.recompute)
        return self.write(F.silu(self.norm(h)))
