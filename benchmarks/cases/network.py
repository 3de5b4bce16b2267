"""What makes the network itself fast: each choice beside what it replaced, in turn."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.harness import Case, Figure, Options, Results, in_turn

if TYPE_CHECKING:
    from torch import Tensor

    from mcm.networks.uvit import UViT

BATCH = 16
ATTENTION = ((16, 2, 64, 64), (16, 4, 256, 64), (4, 8, 1024, 64))  # images, heads, N, channels of a head
PARAMS = Path(__file__).parents[2] / "params.yaml"

ABOUT = (
    "Forward and backward pass of the network of params.yaml, or of a part of it, at batch 16: with a choice of ours "
    "and without it. Attention, pool and upsampling are bfloat16, as in its training."
)


def run(options: Options) -> Results:
    rounds = options.rounds(15)
    figures = [*_attention(rounds), *_resizing(rounds), *_optimizer(rounds), *_batches(options.rounds(7))]
    figures += _recomputation(options.rounds(7))
    if not options.quick:
        figures += _compiled(rounds)
    return Results(figures)


def _attention(rounds: int) -> list[Figure]:
    import torch
    import torch.nn.functional as F

    from mcm.networks.uvit import EXPLICIT_ATTENTION_LIMIT, attention

    figures = []
    for shape in ATTENTION:
        inputs = [torch.randn(shape, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
        calls = {"ours": attention, "fused": F.scaled_dot_product_attention}
        both = {name: _passes(partial(call, *inputs)) for name, call in calls.items()}
        note = f"ours is two plain products up to N = {EXPLICIT_ATTENTION_LIMIT} on a CPU, and the fused kernel beyond"
        figures.append(_figure(f"attention {'x'.join(map(str, shape))}", both, "fused", rounds, note))
    return figures


def _resizing(rounds: int) -> list[Figure]:
    import torch

    from mcm.networks.uvit import _pool, _upsample

    def pool(h: "Tensor") -> "Tensor":
        batch, height, width, channels = h.shape
        return h.reshape(batch, height // 2, 2, width // 2, 2, channels).mean(dim=(2, 4))

    def upsample(h: "Tensor") -> "Tensor":
        return h.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)

    h = torch.randn(BATCH, 32, 32, 32, dtype=torch.bfloat16, requires_grad=True)
    half = torch.randn(BATCH, 16, 16, 32, dtype=torch.bfloat16, requires_grad=True)
    pools = {"ours": _passes(lambda: _pool(h)), "reshape and mean": _passes(lambda: pool(h))}
    ups = {"ours": _passes(lambda: _upsample(half)), "repeat_interleave": _passes(lambda: upsample(half))}
    return [
        _figure("2x2 pool 32x32", pools, "reshape and mean", rounds, "avg_pool2d, channels-last"),
        _figure("doubling 16x16", ups, "repeat_interleave", rounds, "interpolate, channels-last"),
    ]


def _optimizer(rounds: int) -> list[Figure]:
    import torch

    steps = {}
    for name, fused in (("ours", True), ("one operation after the other", None)):
        network = _network()
        _step(network, BATCH, bf16=True)()
        steps[name] = torch.optim.Adam(network.parameters(), lr=1e-4, fused=fused).step
    return [_figure("Adam", steps, "one operation after the other", rounds, "fused=True")]


def _batches(rounds: int) -> list[Figure]:
    """Images a second by precision and batch, over those of bfloat16 at BATCH."""
    from mcm.networks.presets import parameter_count

    base = _network()
    kinds = [(precision, batch) for precision in ("bf16", "float32") for batch in (BATCH, 4 * BATCH)]
    steps = {f"{precision}, batch {batch}": _step(base, batch, precision == "bf16") for precision, batch in kinds}
    taken = in_turn(steps, rounds, warmup=2)
    first = next(iter(steps))
    note = f"{parameter_count(base.config) / 1e6:.1f}M parameters; forward and backward alone"
    figures = []
    for (name, _), (_, batch) in zip(steps.items(), kinds, strict=True):
        ratio = taken.ratio(first, name).scaled(batch / BATCH)
        of = f"images/s, {name} / {first}"
        figures.append(Figure(name, taken.rate(name, batch), "images/s", ratio=ratio, ratio_of=of, note=note))
    return figures


def _recomputation(rounds: int) -> list[Figure]:
    from torch.distributed._tools.mem_tracker import MemTracker

    peaks, steps = {}, {}
    for name, recompute in (("ours", True), ("activations kept", False)):
        network = _network()
        network.recompute = recompute
        steps[name] = _step(network, BATCH, bf16=True)
        steps[name]()
        tracker = MemTracker()
        tracker.track_external(network)
        with tracker:
            steps[name]()
        peaks[name] = max(total["Total"] for total in tracker.get_tracker_snapshot("peak").values()) / 2**20
    time = _figure("recompute: true, time", steps, "activations kept", rounds, "the price of the memory")
    kept = Figure("recompute: true, peak", peaks["ours"], "MiB", peaks["activations kept"], "activations kept")
    return [time, kept]


def _compiled(rounds: int) -> list[Figure]:
    import time

    from mcm.compiled import compiled

    network = _network()
    fast = _step(network, BATCH, bf16=True, call=compiled(network))
    began = time.perf_counter()
    fast()
    first = time.perf_counter() - began
    both = {"ours": fast, "eager": _step(network, BATCH, bf16=True)}
    return [_figure("compile: true", both, "eager", rounds, f"first call {first:.0f} s")]


def _network() -> "UViT":
    """The network of params.yaml with weights off zero, without classes."""
    import torch

    from components.runner import read_params
    from mcm.networks.presets import build, network_config
    from mcm.networks.uvit import UViT

    params = read_params(PARAMS)
    network = build(network_config(params["network"]["preset"], params["data"].get("resolution", 32)))
    assert isinstance(network, UViT)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return network


def _step(network: "UViT", batch: int, bf16: bool, call: "Callable[..., Tensor] | None" = None) -> Callable[[], None]:
    """Forward and backward pass of the network, or of `call` that shares its parameters, on one batch."""
    import torch

    z = torch.randn(batch, network.config.image_channels, *2 * [network.config.resolution])
    logsnr, seeds = torch.linspace(-20, 20, batch), torch.arange(batch)

    def step() -> None:
        for parameter in network.parameters():
            parameter.grad = None
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            v = (call or network)(z, logsnr, None, seeds)
        v.float().square().mean().backward()

    return step


def _passes(call: "Callable[[], Tensor]") -> Callable[[], None]:
    return lambda: call().float().sum().backward()


def _figure(name: str, both: Mapping[str, Callable[[], object]], peer: str, rounds: int, note: str) -> Figure:
    """Milliseconds of "ours" beside the peer's, and how much faster ours is."""
    taken = in_turn(both, rounds, warmup=3)
    return Figure(
        name,
        1e3 * taken.median("ours"),
        "ms",
        1e3 * taken.median(peer),
        peer,
        taken.ratio(peer, "ours"),
        f"time, {peer} / ours",
        note=note,
    )


CASE = Case("network", "What makes the network fast", ABOUT, run)
