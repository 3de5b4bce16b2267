"""FLOPs are those of the network's own products: a hand count, layer by layer, agrees exactly."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from mcm.networks.mlp import MLPConfig
from mcm.networks.presets import PRESETS, NetworkConfig, build
from mcm.networks.uvit import Stage, UViTConfig
from mcm.planning.flops import Passes, forward_flops, image_shape, step_flops

SMALL = UViTConfig(
    16,
    down=(Stage("resnet", 8, 2), Stage("transformer", 16, 1)),
    middle=Stage("transformer", 32, 3),
    embedding=24,
    head_channels=16,
)
# 1 024 tokens: a CPU's attention is the fused kernel, which torch's counter does not know.
FUSED = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v)}
LONG = UViTConfig(32, down=(), middle=Stage("transformer", 32, 1), embedding=16)


def linear(rows: int, inputs: int, outputs: int) -> int:
    return 2 * rows * inputs * outputs


def resnet(side: int, channels: int, embedding: int) -> int:
    convolution = 2 * side * side * 9 * channels * channels
    return 2 * convolution + linear(1, embedding, 2 * channels)


def transformer(tokens: int, channels: int, embedding: int) -> int:
    attention = 2 * (2 * tokens * tokens * channels)  # scores, and their product with the values
    projections = linear(tokens, channels, 3 * channels) + linear(tokens, channels, channels)
    mlp = 2 * linear(tokens, channels, 4 * channels) + linear(1, embedding, 8 * channels)
    return attention + projections + mlp


def counted_on_the_cpu(config: NetworkConfig) -> int:
    network = build(config)
    with FlopCounterMode(display=False, custom_mapping=FUSED) as counter:
        network(torch.zeros(1, *image_shape(config)), torch.zeros(1))
    return counter.get_total_flops()


def test_a_uvit_counts_what_its_layers_do() -> None:
    time = linear(1, 24, 24) + linear(1, 24, 24)
    ends = linear(16 * 16, 3, 8) + linear(16 * 16, 8, 3)
    widen_and_narrow = 2 * (linear(8 * 8, 8, 16) + linear(4 * 4, 16, 32))
    blocks = 2 * 2 * resnet(16, 8, 24) + 2 * transformer(8 * 8, 16, 24) + 3 * transformer(4 * 4, 32, 24)
    assert forward_flops(SMALL) == time + ends + widen_and_narrow + blocks


def test_an_mlp_counts_what_its_layers_do() -> None:
    config = MLPConfig(dimensions=3, width=20, blocks=2, embedding=12)
    block = linear(1, 20, 40) + linear(1, 12, 80) + linear(1, 40, 20)
    assert forward_flops(config) == 2 * linear(1, 12, 12) + linear(1, 3, 20) + 2 * block + linear(1, 20, 3)


@pytest.mark.parametrize("config", [SMALL, LONG, PRESETS["uvit_tiny"]], ids=["small", "long", "tiny"])
def test_a_cpu_counts_as_the_meta_device_does(config: UViTConfig) -> None:
    """Whatever attention a device chooses: explicit products and the fused kernel are the same model FLOPs."""
    assert counted_on_the_cpu(config) == forward_flops(config)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_the_backward_pass_is_nearly_twice_the_forward_pass(name: str) -> None:
    """Every product has two in the backward pass, but the first layers: nobody asks for the gradient of the images."""
    config = PRESETS[name]
    backward = step_flops(config, Passes()) - forward_flops(config)
    assert 1.9 < backward / forward_flops(config) <= 2


def test_passes_without_graph_add_forward_passes() -> None:
    forward, diffusion = forward_flops(SMALL), step_flops(SMALL, Passes())
    assert step_flops(SMALL, Passes(1, 1)) == diffusion + forward
    assert step_flops(SMALL, Passes(1, 2)) == diffusion + 2 * forward
    assert step_flops(SMALL, Passes(0, 3)) == 3 * forward
