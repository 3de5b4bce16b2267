"""Stage estimate_variance: dataset and teacher -> x_var(t), measured on a grid of t, beside the analytic form."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from tqdm import tqdm

from components.estimate_variance.plot import plot
from components.runner import section
from mcm.artifacts import atomic_folder, folder_md5, write_config
from mcm.config import Config
from mcm.data.arrays import ImageSet
from mcm.data.stream import TrainingStream
from mcm.methods.interface import Batch
from mcm.model import load_denoiser
from mcm.training.distributed import processes
from mcm.variance import measure_x_var

KIND, VERSION = "variance", 1


class VarianceConfig(Config):
    """Section `variance`: x_var on the grid t = 1/steps, ..., 1."""

    seed: int = Field(0, ge=0)
    steps: int = Field(64, ge=1, description="grid points")
    images: int = Field(128, ge=2, description="images drawn for each grid point")
    batch_size: int = Field(64, ge=1)
    eta: float = Field(0.75, gt=0, le=1)
    ema: str | None = Field(None, description="weights of the teacher; null is its first EMA")
    precision: str = Field("float32", pattern="^(float32|bf16)$")


def estimate_variance(params: Mapping[str, Any], dataset: Path, teacher: Path, out: Path) -> None:
    """Measure x_var of `teacher` over the training split of `dataset` and write table and plot to `out`."""
    config = section(params, "variance", VarianceConfig)
    images = ImageSet.open(dataset, "train")
    count = min(config.images, len(images))
    size = min(config.batch_size, count)
    with processes() as group:
        if not group.leads:
            return
        loaded = load_denoiser(teacher, config.ema, group.device, config.precision == "bf16")
        stream = TrainingStream(images, size, config.seed, mirror=False)
        per_row = -(-count // size)

        def batches(row: int) -> Iterator[tuple[Batch, Tensor]]:
            for iteration in range(row * per_row, (row + 1) * per_row):
                batch, draws = stream[iteration]
                labels = None if batch.labels is None else batch.labels.to(group.device)
                yield Batch(batch.images.to(group.device), labels), draws.eps.to(group.device)

        grid = np.arange(1, config.steps + 1) / config.steps
        with tqdm(total=config.steps, desc="variance", unit="t", mininterval=2.0) as bar, torch.no_grad():
            table = measure_x_var(
                loaded.denoiser, loaded.schedule, grid, batches, config.eta, lambda rows: bar.update(rows - bar.n)
            )
    with atomic_folder(out) as temporary:
        table.write(temporary / "table.csv")
        plot(table, temporary / "x_var.png")
        write_config(
            temporary,
            KIND,
            VERSION,
            {
                "variance": config.resolved(),
                "ema": loaded.ema,
                "inputs": {"dataset": folder_md5(dataset), "teacher": folder_md5(teacher)},
            },
        )
