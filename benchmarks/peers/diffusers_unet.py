"""diffusers' UNet2DModel and its training loop, as its example `train_unconditional` has them, without accelerate.

The network is one whose parameters and FLOPs are both near those of the default network (tests/benchmarks holds them
within 10%); of those that are, it is among the fastest. The loop is given its images as ready tensors, which spares it
the decoding and the transforms of the example.
"""

import contextlib
import importlib
import sys
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from mcm.errors import UserError
from mcm.vision import torchvision

PACKAGE = "diffusers"
assert torchvision.__name__ in sys.modules  # mended where torch has no CUDA, before diffusers imports it too
try:
    diffusers: Any = importlib.import_module(PACKAGE)
    optimization: Any = importlib.import_module(f"{PACKAGE}.optimization")
    training_utils: Any = importlib.import_module(f"{PACKAGE}.training_utils")
except ImportError as missing:
    raise UserError(f"benchmarks: {PACKAGE}, the peer, is missing ({missing}); pip install -e '.[bench]'") from None

SHAPE: dict[str, Any] = {
    "block_out_channels": (16, 48, 48, 80),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D", "UpBlock2D", "UpBlock2D"),
    "norm_num_groups": 16,
}
NAME = f"diffusers {diffusers.__version__}"


def unet(resolution: int, channels: int = 3) -> Any:
    """The peer's network, on the default device."""
    return diffusers.UNet2DModel(sample_size=resolution, in_channels=channels, out_channels=channels, **SHAPE)


def counts(resolution: int, channels: int = 3) -> tuple[int, int, int]:
    """Parameters, FLOPs of an evaluation and of a training step, of one image; counted as ours are."""
    with torch.device("meta"):
        network = unet(resolution, channels)
        images, times = torch.empty(1, channels, resolution, resolution), torch.empty(1, dtype=torch.int64)
    with FlopCounterMode(display=False) as forward:
        noise: Tensor = network(images, times).sample
    with FlopCounterMode(display=False) as backward:
        noise.sum().backward()
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return parameters, forward.get_total_flops(), forward.get_total_flops() + backward.get_total_flops()


def training(images: Tensor, batch_size: int, precision: str, device: torch.device) -> Iterator[float]:
    """Train on `images` `[N, C, H, W]` in [-1, 1] for as long as it is asked: one step and its loss a time."""
    model = unet(images.shape[-1], images.shape[1]).to(device).train()
    scheduler = diffusers.DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
    ema = training_utils.EMAModel(
        model.parameters(),
        decay=0.9999,
        use_ema_warmup=True,
        inv_gamma=1.0,
        power=0.75,
        model_cls=diffusers.UNet2DModel,
        model_config=model.config,
    )
    ema.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
    rate = optimization.get_scheduler("cosine", optimizer, num_warmup_steps=500, num_training_steps=100_000)
    batches = DataLoader(TensorDataset(images), batch_size, shuffle=True, drop_last=True)
    while True:
        for (clean,) in batches:
            clean = clean.to(device)
            noise = torch.randn_like(clean)
            times = torch.randint(0, scheduler.config.num_train_timesteps, (len(clean),), device=device).long()
            noisy = scheduler.add_noise(clean, noise, times)
            with autocast(device, precision):
                output = model(noisy, times).sample
            loss = F.mse_loss(output.float(), noise.float())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            rate.step()
            optimizer.zero_grad()
            ema.step(model.parameters())
            yield loss.detach().item()


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """bf16 as accelerate's mixed precision sets it around the network's call; nothing in float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
