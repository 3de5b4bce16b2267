"""Pictures from a denoiser: one grid, or a folder with one PNG an image. Not a stage of the DAG."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from mcm.artifacts import atomic_file, atomic_folder
from mcm.errors import UserError
from mcm.model import Loaded, load_denoiser
from mcm.samplers import SamplerConfig, generate
from mcm.training.distributed import processes
from mcm.variance import XVar, XVarTable, analytic_x_var

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def sample_pictures(
    checkpoint: Path,
    sampler: SamplerConfig,
    count: int,
    seed: int,
    out: Path,
    ema: str | None = None,
    variance: Path | None = None,
    batch_size: int = 64,
    bf16: bool = False,
) -> str:
    """Write images 0 to `count - 1` of `seed` to `out`: a grid where it names a picture, else a folder of PNGs.

    Returns one line that says what was made. `variance` is the folder of estimate_variance, for samplers that read a
    measured x_var.
    """
    if count < 1 or batch_size < 1:
        raise UserError(f"number of images {count}, batch size {batch_size}: both are at least 1")
    table: XVar = analytic_x_var
    if sampler.needs_table:
        if variance is None:
            raise UserError(f"sampler {sampler.row} reads a measured x_var: name its folder with --variance")
        table = XVarTable.read(variance / "table.csv")
    if out.suffix and out.suffix.lower() not in PICTURE_SUFFIXES:
        raise UserError(f"{out}: not a picture this program writes; end it in .png, or name a folder")
    with processes() as group:
        loaded = load_denoiser(checkpoint, ema, group.device, bf16)
        batches = generate(
            loaded.denoiser,
            sampler,
            loaded.schedule,
            seed,
            count,
            loaded.shape,
            loaded.num_classes,
            batch_size,
            group.device,
            table,
        )
        pictures = np.concatenate([batch.cpu().numpy() for batch in _counted(batches, count)])
    if out.suffix:
        with atomic_file(out) as temporary:
            _image(grid(pictures)).save(temporary, format=Image.registered_extensions()[out.suffix.lower()])
    else:
        with atomic_folder(out) as folder:
            for index, picture in enumerate(pictures):
                _image(picture).save(folder / f"{index:06d}.png")
    return f"{out}: {count} images of seed {seed}, {sampler.row}, {loaded.ema}{_remark(loaded, sampler)}"


def _counted(batches: Iterator[Tensor], count: int) -> Iterator[Tensor]:
    with tqdm(total=count, desc="sample", unit="img", mininterval=1.0) as bar:
        for batch in batches:
            bar.update(len(batch))
            yield batch


def _remark(loaded: Loaded, sampler: SamplerConfig) -> str:
    trained = loaded.config.get("student_steps")
    own = (sampler.name, sampler.steps) == ("ddim", trained) or (sampler.name == "consistency" and trained == 1)
    if trained and not own:
        return f" (note: this student was trained for ddim with {trained} steps)"
    return ""


def _image(pixels: np.ndarray) -> Image.Image:
    """uint8 `[H, W, C]` as a picture, grey where C is 1."""
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[-1] == 1 else pixels)


def grid(pictures: np.ndarray) -> np.ndarray:
    """Pictures uint8 `[N, H, W, C]` on a near-square grid, row by row, on white; uint8 `[H', W', C]`."""
    count, height, width, channels = pictures.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    sheet = np.full((rows * height, columns * width, channels), 255, dtype=np.uint8)
    for index, picture in enumerate(pictures):
        top, left = index // columns * height, index % columns * width
        sheet[top : top + height, left : left + width] = picture
    return sheet
