"""What a run tells while it goes: a progress bar with images/s and time left, TensorBoard scalars and grids."""

import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from tqdm import tqdm


class Progress:
    """Progress bar and TensorBoard writer of the leading process; silent elsewhere (`folder` None)."""

    def __init__(self, name: str, start: int, iterations: int, batch_size: int, folder: Path | None):
        self.batch_size = batch_size
        self.writer = None
        quiet = 0.5 if sys.stderr.isatty() else 20.0  # seconds between lines where each redraw is a line of a log
        self.bar = tqdm(
            total=iterations,
            initial=start,
            desc=name,
            unit="it",
            mininterval=quiet,
            miniters=0,
            disable=folder is None,
            dynamic_ncols=True,
        )
        if folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(folder), purge_step=start)

    def step(self) -> None:
        self.bar.update(1)

    def scalars(self, iteration: int, values: Mapping[str, float]) -> None:
        rate = self.bar.format_dict["rate"]
        speed = {"img/s": f"{rate * self.batch_size:.0f}"} if rate else {}
        self.bar.set_postfix({"loss": f"{values['loss']:.4f}", **speed}, refresh=False)
        if self.writer is not None:
            for key, value in values.items():
                self.writer.add_scalar(key, value, iteration)

    def pictures(self, iteration: int, grid: np.ndarray) -> None:
        """A grid uint8 `[H, W, C]`."""
        if self.writer is not None:
            self.writer.add_image("samples", grid, iteration, dataformats="HWC")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.close()
        if self.writer is not None:
            self.writer.close()
