"""Activation checkpointing: a block keeps its input alone, and its forward pass runs again in the backward pass.

Memory for time: of a network as deep as the large ones the activations inside blocks are most of what training holds.
The gradients keep their bits, because nothing in a block is random: dropout is a function of seeds that it is given.
"""

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def run_block(block: nn.Module, h: Tensor, embedding: Tensor, seeds: Tensor | None, recompute: bool) -> Tensor:
    """`block(h, embedding, seeds)`; with `recompute` nothing but its inputs is kept for the backward pass."""
    if not recompute:
        return block(h, embedding, seeds)
    # No random state is kept: there is none. Without a graph checkpoint() runs the block as it is.
    result: Tensor = checkpoint(block, h, embedding, seeds, use_reentrant=False, preserve_rng_state=False)
    return result
