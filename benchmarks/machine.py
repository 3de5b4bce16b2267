"""The machine that a benchmark ran on, without its name, and the peak of its matrix products, measured."""

import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from mcm.errors import UserError

PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16}

# M, K, N of the products tried: square ones, the tall ones of a network's layers, and thin ones of its gradients.
SHAPES = [
    (512, 512, 512),
    (1024, 1024, 1024),
    (2048, 2048, 2048),
    (4096, 512, 2048),
    (1024, 4096, 1024),
    (16384, 128, 512),
    (4096, 128, 512),
    (2048, 512, 128),
]
LARGE_SHAPES = [(4096, 4096, 4096), (8192, 8192, 8192), (16384, 1024, 4096), (131072, 1024, 1024)]  # of a GPU

_HIGHEST: dict[tuple[str, torch.device], "Peak"] = {}


@dataclass(frozen=True)
class Machine:
    """What figures depend on."""

    device: str
    processor: str
    cores: int  # that this process may use
    threads: int  # of torch
    memory_gib: float
    python: str
    torch: str
    system: str


@dataclass(frozen=True)
class Peak:
    """The fastest matrix product found: `flops` a second, 2 M K N a product."""

    precision: str
    flops: float
    shape: tuple[int, int, int]


def device() -> torch.device:
    """The GPU where torch has one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def this_machine() -> Machine:
    """What this process runs on."""
    place = device()
    return Machine(
        device=torch.cuda.get_device_name(place) if place.type == "cuda" else "CPU",
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)),
        threads=torch.get_num_threads(),
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        python=platform.python_version(),
        torch=torch.__version__,
        system=f"{platform.system()} {platform.machine()}",
    )


def _processor() -> str:
    """The processor's name, and those of its instructions that decide how fast it multiplies matrices."""
    information = Path("/proc/cpuinfo")
    if not information.exists():
        return platform.processor() or platform.machine()
    rows: dict[str, str] = {}
    for line in information.read_text().splitlines():
        key, _, value = line.partition(":")
        rows[key.strip()] = value.strip()
    name = rows.get("model name", platform.machine())
    flags = {"avx2", "avx512f", "avx512_bf16", "amx_bf16"} & set(rows.get("flags", "").split())
    return f"{name} ({', '.join(sorted(flags))})" if flags else name


class Product:
    """One matrix product of a shape, as a function to be timed beside others. `flops` is of one call."""

    def __init__(self, shape: tuple[int, int, int], precision: str, place: torch.device):
        rows, inner, columns = self.shape = shape
        make = torch.Generator(device=place).manual_seed(0)
        dtype = PRECISIONS[precision]
        self.left = torch.randn(rows, inner, generator=make, dtype=dtype, device=place)
        self.right = torch.randn(columns, inner, generator=make, dtype=dtype, device=place).T  # as a layer's weights
        self.out = torch.empty(rows, columns, dtype=dtype, device=place)
        self.flops = 2 * rows * inner * columns

    def __call__(self) -> None:
        torch.mm(self.left, self.right, out=self.out)

    def times(self, count: int) -> None:
        """The product, so many times."""
        for _ in range(count):
            self()


def peak(precision: str, place: torch.device | None = None, seconds: float = 1.0) -> Peak:
    """The fastest product over SHAPES (on a GPU, LARGE_SHAPES too), each repeated for its part of `seconds`.

    The best time counts, not the median: a share of the peak is to be a share of what the machine can do.
    Raises UserError at an unknown precision.
    """
    if precision not in PRECISIONS:
        raise UserError(f"peak: precision '{precision}' is unknown; known: {', '.join(PRECISIONS)}")
    place = place or device()
    shapes = SHAPES + LARGE_SHAPES * (place.type == "cuda")
    best = Peak(precision, 0.0, shapes[0])
    with torch.inference_mode():
        for shape in shapes:
            product = Product(shape, precision, place)
            product()
            until = time.perf_counter() + seconds / len(shapes)
            while True:
                taken = _once(product, place)
                if product.flops / taken > best.flops:
                    best = Peak(precision, product.flops / taken, shape)
                if time.perf_counter() > until:
                    break
    highest = _HIGHEST.get((precision, place))
    _HIGHEST[precision, place] = best if highest is None or best.flops > highest.flops else highest
    return best


def highest(precision: str, place: torch.device) -> Peak:
    """The highest peak of this process, measured once more now: a loaded minute must not make the peak a low one."""
    peak(precision, place)
    return _HIGHEST[precision, place]


def _once(product: Product, place: torch.device) -> float:
    """Seconds of one product, by the device's own clock where it has one."""
    if place.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        product()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000
    began = time.perf_counter()
    product()
    return time.perf_counter() - began
