"""Where the time of a training step goes on a CPU, by torch's profiler."""

import contextlib
import io
import time
from pathlib import Path
from typing import TYPE_CHECKING

from torch.profiler import ProfilerActivity, profile

from benchmarks.harness import Plot
from benchmarks.plots import bars, plot
from benchmarks.training import Run
from mcm.training.distributed import Processes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

REST = "calls, data, Python"
# Operators by what they do.
KINDS = {
    "convolutions": ("mkldnn_convolution", "convolution_backward"),
    "matrix products": ("mm", "addmm", "bmm", "baddbmm", "mkldnn_linear"),
    "norms, activations, sums": (
        "native_layer_norm", "native_layer_norm_backward", "native_group_norm", "native_group_norm_backward",
        "gelu", "gelu_backward", "silu", "silu_backward", "_softmax", "_softmax_backward_data",
        "mul", "add", "addcmul", "sub", "div", "sum", "avg_pool2d", "avg_pool2d_backward",
        "upsample_nearest2d", "upsample_nearest2d_backward",
    ),
    "copies, casts": ("copy_", "cat", "pixel_shuffle", "pixel_unshuffle", "clone"),
    "clipping, Adam, EMA": ("_fused_adam_", "lerp_", "linalg_vector_norm", "mul_"),
}  # fmt: skip


def shares(run: Run, group: Processes, folder: Path, steps: int) -> dict[str, float]:
    """Shares of the seconds of `steps` steps by kind of work, with REST as what is left; they sum to 1."""
    with contextlib.redirect_stderr(io.StringIO()):  # its bar
        run.train(group, folder / "warm", iterations=2)
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            began = time.perf_counter()
            run.train(group, folder / "profiled", iterations=steps)
            taken = time.perf_counter() - began
    found = dict.fromkeys(KINDS, 0.0)
    for event in seen.key_averages():
        kind = _kind(event.key.removeprefix("aten::"))
        if kind:
            found[kind] += event.self_cpu_time_total / 1e6 / taken
    return {**found, REST: 1.0 - sum(found.values())}


def _kind(operator: str) -> str | None:
    return next((kind for kind, names in KINDS.items() if operator in names), None)


def note(precision: str, found: dict[str, float], share_of_peak: float) -> str:
    """What the profile says of the distance to the peak."""
    listed = ", ".join(f"{100 * share:.0f}% {kind}" for kind, share in found.items())
    counted = found["convolutions"] + found["matrix products"]
    return (
        f"The teacher's step in {precision}, by the profiler: {listed}. FLOPs are counted in the first two alone, "
        f"which run at {100 * share_of_peak / counted:.0f}% of the peak while they run."
    )


def picture(by_precision: dict[str, dict[str, float]]) -> Plot:
    """One bar for each precision, its parts in the order of KINDS."""

    def draw(axes: "Axes") -> None:
        left = dict.fromkeys(by_precision, 0.0)
        for number, kind in enumerate([*KINDS, REST]):
            values = [100 * by_precision[precision][kind] for precision in by_precision]
            axes.barh(list(by_precision), values, left=list(left.values()), label=kind, height=0.5, **bars(number))
            left = {name: start + value for (name, start), value in zip(left.items(), values, strict=True)}
        axes.set(xlabel="% of the step's time", xlim=(0, 100))
        axes.grid(visible=False, axis="y")
        axes.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=9)

    return plot("time", "Where the time of the teacher's step goes.", draw, height=2.6)
