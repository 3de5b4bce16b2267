"""What the Kubeflow UI shows of a task: figures as Metrics, pictures as Markdown."""

import base64
import io
import json
from pathlib import Path

import numpy as np
from kfp.dsl import Artifact, Metrics, PipelineTaskFinalStatus
from PIL import Image

from mcm.artifacts import read_config

FIGURES = ("fid", "kid", "precision", "recall")
COLUMNS = 6
ENDED_BADLY = ("FAILED", "CANCELLED")


def log_evaluation(folder: Path, metrics: Metrics) -> None:
    """The figures of every sampler of an evaluation, named by sampler and number of evaluations: `ddim-4.fid`."""
    for row, figures in json.loads((Path(folder) / "metrics.json").read_text()).items():
        for name in FIGURES:
            metrics.log_metric(f"{row}.{name}", figures[name])
        metrics.metadata["extractor"] = figures["extractor"]


def log_summary(folder: Path, metrics: Metrics) -> None:
    """The report's flat figures."""
    for name, value in json.loads((Path(folder) / "summary.json").read_text()).items():
        metrics.log_metric(name, value)


def write_grids(folder: Path, page: Artifact) -> None:
    """The pictures of an evaluation, one grid a sampler, as a Markdown page that holds them."""
    parts = []
    for file in sorted(Path(folder).glob("samples*.npy")):
        title = file.stem.removeprefix("samples").removeprefix("-") or "samples"
        uri = base64.b64encode(_png(np.load(file, allow_pickle=False))).decode()
        parts.append(f"### {title}\n\n![{title}](data:image/png;base64,{uri})\n")
    Path(page.path).write_text("\n".join(parts), encoding="utf-8")


def write_markdown(folder: Path, page: Artifact) -> None:
    """The report's Markdown twin with its pictures held in it."""
    text = (Path(folder) / "report.md").read_text(encoding="utf-8")
    for image in sorted((Path(folder) / "images").glob("*.png")):
        uri = base64.b64encode(image.read_bytes()).decode()
        text = text.replace(f"(images/{image.name})", f"(data:image/png;base64,{uri})")
    Path(page.path).write_text(text, encoding="utf-8")


def write_ending(status: PipelineTaskFinalStatus, page: Artifact) -> None:
    """How a run ended, in one line, on stdout and as a page."""
    if status.state == "SUCCEEDED":
        line = "The run ended SUCCEEDED."
    elif status.state in ENDED_BADLY:
        said = f": {status.error_message}" if status.error_message else ""
        line = f"The run ended {status.state}{said}. What was made is kept: `mcm pipeline resume` goes on from there."
    else:  # servers before 2.17 do not tell the group around a loop that the loop is over
        line = f"The run is over; Kubeflow gives its state as {status.state}, so see the tasks."
    print(line, flush=True)
    Path(page.path).write_text(line + "\n", encoding="utf-8")


def model_name(folder: Path) -> str:
    """What a model is called in reports: `teacher`, or method and steps, `cd-4`."""
    config = read_config(Path(folder), "denoiser", 1)
    return "teacher" if config["student_steps"] is None else f"{config['method']}-{config['student_steps']}"


def _png(pictures: np.ndarray) -> bytes:
    """uint8 `[K, H, W, C]` as one PNG, in rows of `COLUMNS`; what is left of the last row stays white."""
    count, height, width, channels = pictures.shape
    rows = -(-count // COLUMNS)
    padded = np.full((rows * COLUMNS, height, width, channels), 255, np.uint8)
    padded[:count] = pictures
    grid = padded.reshape(rows, COLUMNS, height, width, channels).swapaxes(1, 2)
    image = grid.reshape(rows * height, COLUMNS * width, channels)
    stream = io.BytesIO()
    Image.fromarray(image[..., 0] if channels == 1 else image).save(stream, "png")
    return stream.getvalue()
