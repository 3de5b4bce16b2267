"""Figure 1 of the paper, from models trained here: `python docs/figures/figure1.py` writes figure1.png beside itself.

A diffusion model of a mixture of two normals on a line, and its 1-, 2- and 4-step students, each a small MLP. Every
curve is a sample on its way from noise (bottom, t = 1) to data (top, t = 0): within a student's step its prediction
stays as it is, and DDIM draws the arc. Some minutes on a CPU.
"""

import argparse
import copy
import math
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.layout_engine import ConstrainedLayoutEngine
from torch import Tensor

from mcm.artifacts import atomic_file
from mcm.denoiser import Denoiser
from mcm.errors import UserError
from mcm.methods.consistency import Consistency, TeacherSteps
from mcm.methods.diffusion import Diffusion
from mcm.methods.interface import Batch, Draws, Method
from mcm.mixtures import GaussianMixture
from mcm.networks.mlp import MLPConfig
from mcm.networks.presets import build
from mcm.schedules import cosine, uniform_grid
from mcm.steps import ddim

MIXTURE = GaussianMixture(torch.tensor([0.5, 0.5]), torch.tensor([[-1.0], [1.0]]), torch.tensor([0.2, 0.2]))
SCHEDULE = cosine()
DIFFUSION_STEPS = 128  # "infinity" of the last panel
LEFT, RIGHT, GREY = "#2a6fbb", "#d9742b", "#c9ccd1"
HALF_WIDTH = 3.0


def train(method: Method, start: Denoiser, iterations: int, seed: int, batch_size: int = 256) -> Denoiser:
    """The EMA of `start` after training with `method` on fresh draws of the mixture."""
    model, ema = copy.deepcopy(start).requires_grad_(True), copy.deepcopy(start).requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=iterations)
    no_seeds = torch.zeros(batch_size, dtype=torch.long)
    for iteration in range(iterations):
        eps = torch.randn(batch_size, 1, generator=generator)
        segment, time, label = torch.rand(3, batch_size, generator=generator, dtype=torch.float64)
        batch = Batch(MIXTURE.sample(batch_size, generator).float(), None)
        loss = method.loss(model, batch, Draws(eps, segment, time, label, no_seeds), iteration).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            for averaged, value in zip(ema.parameters(), model.parameters(), strict=True):
                averaged.lerp_(value, 0.01)
    return ema


def trajectories(model: Denoiser, steps: int, z_1: Tensor, points: int) -> tuple[Tensor, Tensor]:
    """Times `[P]` from 1 to 0 and the sampler's way through them `[P, B]`, `points` of them inside every step."""
    z_t, times, path = z_1, [torch.ones(1)], [z_1]
    for k in range(steps):
        t = uniform_grid(SCHEDULE)(steps).at(torch.full((len(z_1),), k))
        x_hat = model(z_t, t)
        inside = 1 - (k + torch.arange(1, points + 1, dtype=torch.float64) / points) / steps
        way = [ddim(x_hat, z_t, t, SCHEDULE(u.expand(len(z_1)))) for u in inside]
        z_t = way[-1]
        times.append(inside)
        path += way
    return torch.cat(times), torch.stack(path)[..., 0]


def draw(panels: list[tuple[str, Denoiser, int]], path: Path) -> None:
    """One column a model: data density and the model's samples, trajectories, noise density."""
    layout = ConstrainedLayoutEngine(h_pad=0.01, hspace=0.0, w_pad=0.04)
    figure, axes = plt.subplots(
        3, len(panels), figsize=(11, 5.6), sharex=True, sharey="row", height_ratios=[1, 4, 1], layout=layout
    )
    z = torch.linspace(-HALF_WIDTH, HALF_WIDTH, 601, dtype=torch.float64)[:, None]
    densities = [MIXTURE.log_density(z, SCHEDULE(torch.full((len(z),), t))).exp() for t in (0.0, 1.0)]
    quantiles = torch.special.ndtri((torch.arange(32, dtype=torch.float64) + 0.5) / 32).float()[:, None]
    many = torch.special.ndtri((torch.arange(4000, dtype=torch.float64) + 0.5) / 4000).float()[:, None]
    for (top, middle, bottom), (title, model, steps) in zip(axes.T, panels, strict=True):
        times, way = trajectories(model, steps, quantiles, max(1, DIFFUSION_STEPS // steps))
        for points in way.T:
            middle.plot(points, times, color=LEFT if points[0] < 0 else RIGHT, linewidth=0.9, alpha=0.85)
        inner = [k / steps for k in range(1, steps)] if steps < DIFFUSION_STEPS else []
        for time in inner:
            middle.axhline(time, color="black", linewidth=0.7, linestyle=(0, (2, 3)))
        samples = trajectories(model, steps, many, 1)[1][-1].numpy()
        heights, edges = np.histogram(samples, bins=80, range=(-HALF_WIDTH, HALF_WIDTH), density=True)
        top.fill_between(z[:, 0], densities[0], color=GREY, linewidth=0, label="data")
        top.stairs(heights, edges, color="black", linewidth=0.9, label="samples")
        bottom.fill_between(z[:, 0], -densities[1], color=GREY, linewidth=0)
        top.set_title(title, fontsize=11)
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
    parser.add_argument("--iterations", type=int, default=3000, help="training iterations of each model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("figure1.png"))
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    fresh = Denoiser(build(MLPConfig(dimensions=1, width=64, blocks=2, embedding=64)))
    teacher = train(Diffusion(SCHEDULE), fresh, arguments.iterations, arguments.seed)
    exact = MIXTURE.flow_by_quantiles(probes := torch.linspace(-2.5, 2.5, 501)[:, None])
    panels = []
    for steps in (1, 2, 4):
        # x_var_frac 0: aDDIM mends the norm of vectors of many dimensions, and a number has only one.
        method = Consistency(SCHEDULE, steps, TeacherSteps(64, 64, 0), teacher, x_var_frac=0.0, distance="squared")
        student = train(method, teacher, arguments.iterations, arguments.seed + steps)
        panels.append((f"{steps} step{'s' * (steps > 1)}", student, steps))
    panels.append((r"$\infty$ steps (diffusion)", teacher, DIFFUSION_STEPS))
    for title, model, steps in panels:
        error = (trajectories(model, steps, probes, 1)[1][-1][:, None] - exact).square().mean().sqrt().item()
        if not math.isfinite(error):
            raise UserError(f"figure 1, {title}: training gave numbers that are not finite; choose another --seed")
        print(f"{title}: root mean square error to the exact flow {error:.4f}", flush=True)
    draw(panels, arguments.out)


if __name__ == "__main__":
    main()
