"""What `mcm plan` says a training step holds, against what it does hold: live bytes at the peak, on a CPU."""

from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.harness import Case, Figure, Options, Results, at_most
from mcm.denoiser import Denoiser
from mcm.methods.interface import Batch, Draws
from mcm.networks.presets import PRESETS, NetworkConfig, build
from mcm.networks.uvit import Stage, UViTConfig
from mcm.planning.flops import image_shape
from mcm.planning.memory import Setting, memory
from mcm.planning.trace import MethodName, consistency_or_diffusion
from mcm.training.ema import EMAs

MIB = 2**20
EMA_DECAYS = (0.999, 0.99)

# Weights outweigh activations here, as in the large networks on many devices.
WIDE = UViTConfig(16, (Stage("resnet", 32, 1),), Stage("transformer", 256, 3), patch=2, embedding=256)
NETWORKS: dict[str, NetworkConfig] = {
    "uvit_tiny": PRESETS["uvit_tiny"],
    "wide": WIDE,
    "uvit_cpu32": PRESETS["uvit_cpu32"],
}


def run(options: Options) -> Results:
    settings: list[tuple[str, Setting]] = []
    for name, method, batch, bf16, recompute, accumulate in _grid(options):
        setting = Setting(
            NETWORKS[name],
            method,
            batch,
            accumulate=accumulate,
            recompute=recompute,
            bf16=bf16,
            emas=len(EMA_DECAYS),
            kind="cpu",
        )
        words = [name, method, f"batch {batch}", "bf16" if bf16 else "float32"]
        words += ["recompute"] * recompute + [f"{accumulate} micro-batches"] * (accumulate > 1)
        settings.append((", ".join(words), setting))
    figures = []
    for name, setting in settings:
        planned, measured = sum(memory(setting).values()), measured_peak(setting)
        figures.append(
            Figure(
                name=name,
                value=100 * abs(planned / measured - 1),
                unit="% off",
                aim=at_most(15),
                note=f"planned {planned / MIB:.1f} MiB, measured {measured / MIB:.1f} MiB",
            )
        )
    note = (
        "Measured is the largest sum of what torch's CPU allocator has given out and not got back, by torch.profiler, "
        "over two training steps (forward, backward, clipping, Adam, EMAs). What a library keeps "
        "outside of that allocator is in neither figure."
    )
    return Results(figures, notes=[note])


def _grid(options: Options) -> list[tuple[str, MethodName, int, bool, bool, int]]:
    """(network, method, batch, bf16, recompute, micro-batches)."""
    quick: list[tuple[str, MethodName, int, bool, bool, int]] = [
        ("uvit_tiny", "diffusion", 64, False, False, 1),
        ("uvit_tiny", "cd", 64, True, False, 1),
        ("wide", "ct", 32, False, False, 1),
    ]
    if options.quick:
        return quick
    return [
        *quick,
        ("uvit_tiny", "diffusion", 256, True, False, 1),
        ("uvit_tiny", "cd", 64, False, True, 1),
        ("uvit_tiny", "ct", 64, False, False, 2),
        ("wide", "cd", 32, True, False, 1),
        ("wide", "diffusion", 32, False, False, 4),
        ("wide", "cd", 64, False, True, 1),
        ("uvit_cpu32", "diffusion", 16, False, False, 1),
        ("uvit_cpu32", "cd", 16, True, False, 1),
        ("uvit_cpu32", "cd", 32, True, True, 1),
    ]


def measured_peak(setting: Setting) -> int:
    """Bytes at the peak of two real training steps; the second has the optimizer's moments from its start."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step = _training(setting)
        step()
        step()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]  # type: ignore[union-attr]
    alive = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak


def _training(setting: Setting) -> Callable[[], None]:
    """One step of the training loop on real tensors."""
    network, generator = setting.network, torch.Generator().manual_seed(0)
    student = Denoiser(build(network, setting.recompute), setting.bf16)
    teacher = Denoiser(build(network), setting.bf16)
    method = consistency_or_diffusion(setting.method, network, teacher.requires_grad_(False))
    if setting.method not in ("cd", "guided"):
        del teacher
    parameters: dict[str, torch.Tensor] = dict(student.named_parameters())
    optimizer = torch.optim.Adam(parameters.values(), lr=1e-4, fused=True)
    emas = EMAs(parameters, EMA_DECAYS)

    def step() -> None:
        uniform = torch.rand(setting.batch, dtype=torch.float64, generator=generator)
        images = torch.randn(setting.batch, *image_shape(network), generator=generator)
        batch = Batch(images, None)
        draws = Draws(torch.randn_like(images), uniform, uniform, uniform, torch.arange(setting.batch))
        optimizer.zero_grad(set_to_none=True)
        for part in range(setting.accumulate):
            rows = slice(part * setting.images, (part + 1) * setting.images)
            method.loss(student, batch.rows(rows), draws.rows(rows), 0).sum().backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimizer.step()
        emas.update(parameters, 1)

    return step


CASE = Case(
    name="plan",
    title="Memory on paper and in memory",
    about="Peak memory of a training step as `mcm plan` counts it, against the peak that torch.profiler measures.",
    run=run,
)
