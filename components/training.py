"""What both training stages do around `mcm.training`: batches in, one denoiser artifact out, state kept beside."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from components.runner import fingerprint, work_folder
from components.storage import is_remote
from components.storage.checkpoints import MirroredCheckpoints
from mcm.artifacts import cache_folder
from mcm.config import Config
from mcm.data.arrays import ImageSet
from mcm.data.stream import TrainingStream, loader
from mcm.denoiser import Denoiser
from mcm.methods.interface import Batch, Draws, Method
from mcm.model import save_denoiser
from mcm.networks.uvit import UViTConfig
from mcm.samplers import SamplerConfig, generate
from mcm.schedules import CosineSchedule
from mcm.training.checkpoint import CheckpointFolder
from mcm.training.config import TrainingConfig
from mcm.training.distributed import Processes
from mcm.training.loop import train

PREVIEW_IMAGES, PREVIEW_COLUMNS = 16, 4

Publish = Callable[[], bool]  # copies an artifact to where it outlives this machine; whether there is such a place


class NetworkConfig(Config):
    """Which network; its resolution, channels and classes are the data set's."""

    preset: str
    dropout: float | None = None  # None keeps the preset's


class ScheduleConfig(Config):
    """Noise resolutions of the interpolated cosine schedule; None is the images' own resolution."""

    noise_low: int | None = None
    noise_high: int | None = None

    def schedule(self, resolution: int) -> CosineSchedule:
        return CosineSchedule(resolution, self.noise_low or resolution, self.noise_high or resolution)


def fit(
    name: str,
    denoiser: Denoiser,
    method: Method,
    images: ImageSet,
    network: UViTConfig,
    schedule: CosineSchedule,
    config: TrainingConfig,
    identity: Mapping[str, Any],
    sampler_steps: int,
    out: Path,
    work: Path | str,
    processes: Processes,
    publish: Publish | None = None,
    begin: int = 0,
) -> bool:
    """Train and write the artifact. `identity` (parameters, input hashes) is what its bytes are a function of.

    Checkpoints lie under `work`, a folder or a `gs://` prefix, and are removed once the artifact is as safe as they
    are: those in a bucket only after `publish()`, which is called by the leading process, has said so. Batches and
    draws are those of iterations `begin`, `begin + 1`, ...: those of earlier phases are not seen again. Whether the
    checkpoints went, in the leading process; False in others.
    """
    stream = TrainingStream(
        images,
        config.batch_size,
        config.seed,
        config.mirror,
        rank=processes.rank,
        world_size=processes.world_size,
    )

    def batches(start: int, stop: int) -> Iterable[tuple[Batch, Draws]]:
        return loader(stream, begin + start, begin + stop, config.workers, pinned=processes.device.type == "cuda")

    folder = local_work(work, name, identity)
    with _checkpoints(folder, work, identity, config.keep_checkpoints, processes) as checkpoints:
        trained = train(
            name,
            denoiser,
            method,
            batches,
            config,
            checkpoints,
            processes,
            logs=folder / "logs",
            preview=preview(network, schedule, sampler_steps, config.seed),
        )
        safe = False
        if processes.leads:
            save_denoiser(out, trained, network, schedule, identity)
            published = publish() if publish else False
            safe = published or not is_remote(work)
            if safe:
                checkpoints.clear()
        processes.barrier()
    return safe


def local_work(work: Path | str, name: str, identity: Mapping[str, Any]) -> Path:
    """The folder of a run's state on this machine; `work` may be a bucket's prefix."""
    return work_folder(cache_folder() / "work" if is_remote(work) else Path(work), name, identity)


@contextlib.contextmanager
def _checkpoints(
    folder: Path, work: Path | str, identity: Mapping[str, Any], keep: int, processes: Processes
) -> Iterator[CheckpointFolder]:
    """The checkpoints of a run, in `folder`; where `work` is a bucket's, they are kept there too."""
    here, key = folder / "checkpoints", fingerprint(identity)
    if not is_remote(work):
        yield CheckpointFolder(here, key, keep, processes)
        return
    uri = f"{str(work).rstrip('/')}/{folder.name}/checkpoints"
    with contextlib.closing(MirroredCheckpoints(here, key, keep, uri, processes)) as checkpoints:
        yield checkpoints


def preview(network: UViTConfig, schedule: CosineSchedule, steps: int, seed: int) -> Callable[[nn.Module], np.ndarray]:
    """Samples of a fixed seed as one uint8 grid `[H, W, C]`, for TensorBoard."""
    shape = (network.image_channels, network.resolution, network.resolution)
    sampler = SamplerConfig(name="ddim", steps=steps)

    def make(model: nn.Module) -> np.ndarray:
        device = next(model.parameters()).device
        batches = generate(
            model, sampler, schedule, seed, PREVIEW_IMAGES, shape, network.num_classes, PREVIEW_IMAGES, device
        )
        pictures = np.concatenate([batch.cpu().numpy() for batch in batches])
        rows = pictures.reshape(-1, PREVIEW_COLUMNS, *pictures.shape[1:])
        return np.concatenate([np.concatenate(list(row), axis=1) for row in rows])

    return make


def seeded(seed: int, build: Callable[[], Denoiser]) -> Denoiser:
    """Build a network whose initial weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()
