"""The plain loop: one file, as minDiffusion, denoising-diffusion-pytorch and nanoGPT have made familiar.

The network is ours, in eager PyTorch, so that the two differ in the loop alone: autocast over float32 weights, Adam as
it comes, the EMA parameter by parameter, the loss read in each step, images from a DataLoader. It trains the same
v-loss on the same schedule, with draws from torch's global random state.
"""

import copy
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


def log_snr(t: Tensor, image: int, noise_low: int, noise_high: int) -> Tensor:
    """The interpolated cosine schedule, float32 `[B]`."""
    shift = t * 2 * math.log(noise_low / image) + (1 - t) * 2 * math.log(noise_high / image)
    return (-2 * torch.log(torch.tan(t * math.pi / 2)) + shift).clamp(-20, 20)


def loss(network: nn.Module, x: Tensor, eps: Tensor, logsnr: Tensor, bf16: bool) -> Tensor:
    """Mean square of the difference in v; x and eps `[B, C, H, W]`, logsnr `[B]`."""
    alpha, sigma = (value.sqrt()[:, None, None, None] for value in (logsnr.sigmoid(), (-logsnr).sigmoid()))
    with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
        v = network(alpha * x + sigma * eps, logsnr)
    return (v.float() - (alpha * eps - sigma * x)).square().mean()


def training(
    network: nn.Module, images: Tensor, batch_size: int, noise: tuple[int, int], precision: str, device: torch.device
) -> Iterator[float]:
    """Train on `images` `[N, C, H, W]` in [-1, 1] for as long as it is asked: one step and its loss a time."""
    network = network.to(device).train()
    average = copy.deepcopy(network).requires_grad_(False)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, betas=(0.9, 0.99))
    batches = DataLoader(TensorDataset(images), batch_size, shuffle=True, drop_last=True)
    while True:
        for (x,) in batches:
            x = x.to(device)
            t = torch.rand(len(x), device=device).clamp(1e-5, 1 - 1e-5)
            optimizer.zero_grad()
            value = loss(network, x, torch.randn_like(x), log_snr(t, x.shape[-1], *noise), precision == "bf16")
            value.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            with torch.no_grad():
                for mean, parameter in zip(average.parameters(), network.parameters(), strict=True):
                    mean.mul_(0.9999).add_(parameter, alpha=1 - 0.9999)
            yield value.item()
