"""Sampling with diffusers: its DDIMPipeline around its own network, and its scheduler's loop around ours."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.peers.diffusers_unet import autocast, diffusers, unet


def scheduler() -> Any:
    """DDIM over the cosine schedule in 1000 steps, down to clean data: ours on a grid."""
    return diffusers.DDIMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", clip_sample=False)


def pipeline(resolution: int, batch: int, steps: int, precision: str, device: torch.device) -> Callable[[], object]:
    """DDIMPipeline around the peer's network: one batch of arrays a call."""
    made = diffusers.DDIMPipeline(unet(resolution).eval(), scheduler()).to(device)
    made.set_progress_bar_config(disable=True)

    def batch_of_images() -> object:
        with autocast(device, precision):
            return made(batch_size=batch, num_inference_steps=steps, output_type="np").images

    return batch_of_images


def around(network: nn.Module, shape: tuple[int, ...], steps: int, precision: str, device: torch.device) -> Tensor:
    """The loop of DDIMPipeline around a network that reads logsnr, `shape` is `[B, C, H, W]`; uint8 `[B, H, W, C]`."""
    scheduled = scheduler()
    scheduled.set_timesteps(steps)
    alpha_sq = scheduled.alphas_cumprod
    logsnrs = (alpha_sq.log() - (1 - alpha_sq).log()).to(device)
    x = torch.randn(shape, device=device)
    with torch.inference_mode():
        for t in scheduled.timesteps:
            with autocast(device, precision):
                v = network(x, logsnrs[t].expand(len(x)))
            x = scheduled.step(v.float(), t, x).prev_sample
        pixels: Tensor = (x / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8).permute(0, 2, 3, 1)
    return pixels
