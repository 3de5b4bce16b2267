"""Figure 1 of the paper, from students trained here: `python docs/figures/figure1.py` writes figure1.png beside itself.

The exact diffusion model of a mixture of two normals on a line, and its 1-, 2- and 4-step students, each a small MLP.
Every curve is a sample on its way from noise (bottom, t = 1) to data (top, t = 0): within a student's step its
prediction stays as it is, and DDIM draws the arc. Parameters: studies/base/mixture1d.yaml. Some minutes on a CPU.
"""

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
import yaml
from matplotlib.layout_engine import ConstrainedLayoutEngine

from components.exact.stage import make_start, make_student, measure
from mcm.artifacts import atomic_file
from mcm.mixtures import mixture
from mcm.schedules import cosine

PARAMETERS = Path(__file__).parents[2] / "studies/base/mixture1d.yaml"
STUDENTS = (1, 2, 4)
DIFFUSION_STEPS = 128  # "infinity" of the last panel
LEFT, RIGHT, GREY = "#2a6fbb", "#d9742b", "#c9ccd1"
HALF_WIDTH = 3.0


@dataclass(frozen=True)
class Panel:
    """One model: the ways of its samples `[P, N]` at times `[P]`, its samples `[M]`, its error to the exact flow."""

    title: str
    steps: int
    times: np.ndarray
    ways: np.ndarray
    samples: np.ndarray
    error: float


def panel(title: str, steps: int, params: dict[str, Any], what: Path | dict[str, Any], out: Path) -> Panel:
    """Measure a student, or a sampler of the exact model."""
    measure(params, what, out)
    error = json.loads((out / "metrics.json").read_text())["metrics"]["flow_rmse"]
    times, ways, samples = (np.load(out / f"{name}.npy") for name in ("times", "trajectories", "points"))
    return Panel(title, steps, times, ways[..., 0], samples[:, 0], error)


def draw(panels: list[Panel], path: Path) -> None:
    """One column a model: data density and the model's samples, trajectories, noise density."""
    layout = ConstrainedLayoutEngine(h_pad=0.01, hspace=0.0, w_pad=0.04)
    figure, axes = plt.subplots(
        3, len(panels), figsize=(11, 5.6), sharex=True, sharey="row", height_ratios=[1, 4, 1], layout=layout
    )
    z, schedule = torch.linspace(-HALF_WIDTH, HALF_WIDTH, 601, dtype=torch.float64)[:, None], cosine()
    densities = [mixture("line-1d").log_density(z, schedule(torch.full((len(z),), t))).exp() for t in (0.0, 1.0)]
    for (top, middle, bottom), shown in zip(axes.T, panels, strict=True):
        for points in shown.ways.T:
            middle.plot(points, shown.times, color=LEFT if points[0] < 0 else RIGHT, linewidth=0.9, alpha=0.85)
        inner = [k / shown.steps for k in range(1, shown.steps)] if shown.steps < DIFFUSION_STEPS else []
        for time in inner:
            middle.axhline(time, color="black", linewidth=0.7, linestyle=(0, (2, 3)))
        heights, edges = np.histogram(shown.samples, bins=60, range=(-HALF_WIDTH, HALF_WIDTH), density=True)
        top.fill_between(z[:, 0], densities[0], color=GREY, linewidth=0, label="data")
        top.stairs(heights, edges, color="black", linewidth=0.9, label="samples")
        bottom.fill_between(z[:, 0], -densities[1], color=GREY, linewidth=0)
        top.set_title(shown.title, fontsize=11)
        top.set_ylim(0, 1.6)
        middle.set_ylim(1, 0)
        middle.set_yticks([0, 0.25, 0.5, 0.75, 1])
        middle.set_xlim(-HALF_WIDTH, HALF_WIDTH)
        bottom.set_xlabel("$z_t$")
        for axis in (top, bottom):
            axis.set_yticks([])
            axis.spines[["left", "right", "top", "bottom"]].set_visible(False)
        top.tick_params(axis="x", length=0)
        middle.tick_params(axis="x", length=0)
        middle.spines[["right"]].set_visible(False)
    axes[0, -1].legend(frameon=False, fontsize=8, loc="upper left", handlelength=1.2, borderpad=0)
    axes[0, 0].set_ylabel("data\n$t = 0$", rotation=0, ha="right", va="center")
    axes[1, 0].set_ylabel("time $t$")
    axes[2, 0].set_ylabel("noise\n$t = 1$", rotation=0, ha="right", va="center")
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png", metadata={"Software": None})
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("work"), help="folder for checkpoints")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("figure1.png"))
    arguments = parser.parse_args()
    params = yaml.safe_load(PARAMETERS.read_text())
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder)
        make_start(params, made / "start", arguments.work)
        panels = []
        for steps in STUDENTS:
            student = made / f"cd-{steps}"
            make_student(params, "cd", steps, made / "start", student, arguments.work)
            title = f"{steps} step{'s' * (steps > 1)}"
            panels.append(panel(title, steps, params, student, made / f"exact-{steps}"))
        teacher = {"name": "ddim", "steps": DIFFUSION_STEPS}
        panels.append(panel(r"$\infty$ steps (diffusion)", DIFFUSION_STEPS, params, teacher, made / "exact"))
    for shown in panels:
        print(f"{shown.title}: root mean square error to the exact flow {shown.error:.4f}", flush=True)
    draw(panels, arguments.out)


if __name__ == "__main__":
    main()
