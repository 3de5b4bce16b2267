"""Sampling: students against the ideal N / S, and what a sampler adds to its network, beside diffusers."""

from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.harness import Case, Figure, Options, Plot, Results, Timings, at_least, in_turn

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from matplotlib.axes import Axes

    from mcm.denoiser import Denoiser
    from mcm.networks.uvit import UViTConfig
    from mcm.schedules import CosineSchedule

PARAMS = Path(__file__).parents[2] / "params.yaml"
TEACHER = 64  # evaluations
STUDENTS = {8: 2, 4: 2, 2: 4, 1: 8}  # evaluations: batches of a turn
QUICK_BATCH = 8
STEPS = 8  # where samplers are compared

ABOUT = (
    "mcm.samplers.generate with the network, batch and precision of params.yaml's evaluation, from seeded noise to "
    "uint8 pixels: a teacher at 64 evaluations and students at 8, 4, 2 and 1, whose network is the same, so that the "
    "ideal is 64 / S. Peers at 8 evaluations: diffusers' DDIMPipeline around its UNet2DModel of the same FLOPs; and "
    "its DDIMScheduler's loop around our network, so that the samplers alone differ: what each adds is counted from "
    "the time of as many evaluations of the bare network."
)


def run(options: Options) -> Results:
    import torch

    from benchmarks.machine import device
    from components.runner import read_params, section
    from components.training import NetworkConfig, ScheduleConfig
    from mcm.denoiser import Denoiser
    from mcm.networks.presets import build, network_config
    from mcm.networks.uvit import UViTConfig

    params = read_params(PARAMS)
    resolution = params["data"].get("resolution", 32)
    batch = QUICK_BATCH if options.quick else params["evaluation"]["batch_size"]
    precision = params["evaluation"].get("precision", "float32")
    network = network_config(section(params, "network", NetworkConfig).preset, resolution)
    assert isinstance(network, UViTConfig)
    place = device()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        denoiser = Denoiser(build(network), precision == "bf16").to(place).eval().requires_grad_(False)
    ours = _Ours(denoiser, network, section(params, "schedule", ScheduleConfig).schedule(resolution), place)
    found = Results([])
    _students(ours, batch, precision, options, found)
    _samplers(ours, batch, precision, options, found)
    return found


class _Ours:
    """Our sampler around one denoiser."""

    def __init__(self, denoiser: "Denoiser", network: "UViTConfig", schedule: "CosineSchedule", place: "torch.device"):
        self.denoiser, self.network, self.schedule, self.place = denoiser, network, schedule, place

    def turn(self, steps: int, batch: int, batches: int = 1) -> "Callable[[], object]":
        """So many batches of images at `steps` evaluations, as a function."""
        from mcm.samplers import SamplerConfig, generate

        sampler = SamplerConfig(name="ddim", steps=steps, clip=False)
        shape = (self.network.image_channels, self.network.resolution, self.network.resolution)

        def images() -> object:
            count = batches * batch
            return list(generate(self.denoiser, sampler, self.schedule, 0, count, shape, 0, batch, self.place))

        return images

    def bare(self, steps: int, batch: int) -> "Callable[[], None]":
        """As many evaluations of the network and nothing else."""
        import torch

        shape = (batch, self.network.image_channels, self.network.resolution, self.network.resolution)
        z, logsnr = torch.randn(shape, device=self.place), torch.zeros(batch, device=self.place)

        def evaluations() -> None:
            with torch.inference_mode():
                for _ in range(steps):
                    with torch.autocast(self.place.type, torch.bfloat16, enabled=self.denoiser.bf16):
                        self.denoiser.network(z, logsnr)

        return evaluations


def _students(ours: _Ours, batch: int, precision: str, options: Options, found: Results) -> None:
    """Images/s at each number of evaluations, against the teacher's times N / S."""
    turns = {str(steps): ours.turn(steps, batch, batches) for steps, batches in STUDENTS.items()}
    taken = in_turn({str(TEACHER): ours.turn(TEACHER, batch), **turns}, options.rounds(4, quick=2), warmup=1)
    rates = {TEACHER: taken.rate(str(TEACHER), batch)}
    words = f"{precision}, batch {batch}"
    found.figures.append(Figure(f"teacher, {TEACHER} evaluations, {words}", rates[TEACHER], "images/s"))
    for steps, batches in STUDENTS.items():
        rates[steps] = taken.rate(str(steps), batches * batch)
        found.figures.append(
            Figure(
                f"student, {steps} evaluation{'s' * (steps > 1)}, {words}",
                rates[steps],
                "images/s",
                rates[TEACHER] * TEACHER / steps,
                f"ideal: the teacher's times {TEACHER // steps}",
                taken.ratio(str(TEACHER), str(steps)).scaled(batches * steps / TEACHER),
                "images/s, student / ideal",
                at_least(0.95),
            )
        )
    found.plots.append(_curve(rates))
    found.data["students"] = taken.seconds


def _samplers(ours: _Ours, batch: int, precision: str, options: Options, found: Results) -> None:
    """At STEPS evaluations: the pipeline of the peer, and the two samplers around one network."""
    from benchmarks.peers import diffusers_sampling, diffusers_unet
    from mcm.planning.flops import forward_flops

    network, place = ours.network, ours.place
    shape = (network.image_channels, network.resolution, network.resolution)
    _, peer_flops, _ = diffusers_unet.counts(network.resolution, network.image_channels)
    functions = {"ours": ours.turn(STEPS, batch), "bare": ours.bare(STEPS, batch)}
    functions["scheduler"] = lambda: diffusers_sampling.around(
        ours.denoiser.network, (batch, *shape), STEPS, precision, place
    )
    functions["pipeline"] = diffusers_sampling.pipeline(network.resolution, batch, STEPS, precision, place)
    taken = in_turn(functions, options.rounds(7), warmup=1)
    flops = forward_flops(network)
    found.figures.append(
        Figure(
            f"{STEPS} evaluations, {precision}, batch {batch}",
            taken.rate("ours", batch),
            "images/s",
            taken.rate("pipeline", batch),
            f"DDIMPipeline of {diffusers_unet.NAME}",
            taken.ratio("pipeline", "ours").scaled(flops / peer_flops),
            "images/s at equal FLOPs, ours / diffusers",
            note=f"FLOPs of an evaluation: ours {flops / 1e9:.3f} G, diffusers' {peer_flops / 1e9:.3f} G",
        )
    )
    found.figures.append(_overhead(taken, f"batch {batch}, {precision}", diffusers_unet.NAME))
    one = {"ours": ours.turn(STEPS, 1), "bare": ours.bare(STEPS, 1)}
    one["scheduler"] = lambda: diffusers_sampling.around(ours.denoiser.network, (1, *shape), STEPS, precision, place)
    single = in_turn(one, options.rounds(25, quick=5), warmup=2)
    found.figures.append(_overhead(single, f"one image, {precision}", diffusers_unet.NAME))
    found.data.update({"samplers": taken.seconds, "one image": single.seconds})


def _overhead(taken: Timings, words: str, peer: str) -> Figure:
    """What each sampler adds to the bare network, and their times against each other."""
    return Figure(
        f"{STEPS} evaluations of our network, {words}: what the sampler adds",
        100 * (taken.ratio("ours", "bare").median - 1),
        "%",
        100 * (taken.ratio("scheduler", "bare").median - 1),
        f"DDIMScheduler's loop of {peer}",
        taken.ratio("scheduler", "ours"),
        "images/s, our sampler / theirs, the same network",
        note="noise, steps and pixels included, each in its own way",
    )


def _curve(rates: dict[int, float]) -> Plot:
    from benchmarks.plots import plot, series

    def draw(axes: "Axes") -> None:
        steps = sorted(rates)
        axes.loglog(steps, [rates[n] for n in steps], **series(0), label="measured")
        ideal = {"color": "black", "linestyle": "--", "label": f"ideal: as at {TEACHER}, times {TEACHER} / S"}
        axes.loglog(steps, [rates[TEACHER] * TEACHER / n for n in steps], **ideal)
        axes.set_xticks(steps, [str(n) for n in steps])
        axes.minorticks_off()
        axes.set(xlabel="evaluations of the network for an image", ylabel="images/s")
        axes.legend()

    return plot("evaluations", "Images per second against evaluations for an image, and the ideal.", draw)


CASE = Case("sampling", "Sampling", ABOUT, run)
