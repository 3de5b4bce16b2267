"""What the benchmark of sampling times: as many evaluations on both sides, and a peer that samples what it should."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.cases.sampling import _Ours
from mcm.denoiser import Denoiser
from mcm.networks.presets import PRESETS, build
from mcm.networks.uvit import UViTConfig
from mcm.schedules import cosine


def counted(network: nn.Module) -> list[int]:
    """Batch sizes of the calls of a network from now on."""
    sizes: list[int] = []
    network.register_forward_hook(lambda module, inputs, output: sizes.append(len(inputs[0])))
    return sizes


@pytest.mark.parametrize("turn", [lambda ours: ours.turn(4, 3, batches=2), lambda ours: ours.bare(8, 3)])
def test_a_turn_evaluates_the_network_as_often_as_it_says(turn: Callable[[_Ours], Callable[[], object]]) -> None:
    network = PRESETS["uvit_tiny"]
    assert isinstance(network, UViTConfig)
    denoiser = Denoiser(build(network)).eval()
    ours = _Ours(denoiser, network, cosine(network.resolution), torch.device("cpu"))
    sizes = counted(denoiser.network)
    turn(ours)()
    assert sizes == [3] * 8


class Knows(nn.Module):
    """The v-prediction of a network that knows the image."""

    def __init__(self, image: Tensor):
        super().__init__()
        self.image = image

    def forward(self, z: Tensor, logsnr: Tensor) -> Tensor:
        alpha, sigma = (value.sqrt()[:, None, None, None] for value in (logsnr.sigmoid(), (-logsnr).sigmoid()))
        v: Tensor = (alpha * z - self.image) / sigma
        return v


def test_diffusers_loop_around_our_network_ends_at_the_image_it_predicts() -> None:
    pytest.importorskip("diffusers", reason="the peer comes with the extra 'bench'", exc_type=Exception)
    from benchmarks.peers import diffusers_sampling

    image = torch.linspace(-1, 1, 3 * 8 * 8).view(3, 8, 8)
    network = Knows(image)
    sizes = counted(network)
    found: Any = diffusers_sampling.around(network, (2, 3, 8, 8), 8, "float32", torch.device("cpu"))
    expected = ((image + 1) * 127.5).permute(1, 2, 0)
    assert (found.float() - expected).abs().max() <= 1
    assert sizes == [2] * 8
