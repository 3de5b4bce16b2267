"""Memory of processes: how far this one grew, a tree of them sampled, a function measured in a process of its own.

Linux counts what is asked here: resident bytes, and their high-water mark, which can be set back.
"""

import gc
import multiprocessing
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

import psutil

MIB = 2**20

# Imported once by the process that others are forked from, so that each of them starts in milliseconds. `torch._dynamo`
# is what the first optimizer of a process imports.
PRELOADED = ["torch", "torch._dynamo", "psutil", "mcm.data.stream", "mcm.methods.diffusion", "mcm.networks.presets"]

P = ParamSpec("P")
T = TypeVar("T")


def alone(function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """`function` of a module, called in a process of its own, which ends with it: nothing measured before colours it.

    What the function returns or raises comes back.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with ProcessPoolExecutor(1, context) as pool:
        return pool.submit(function, *arguments, **options).result()


def status(field: str) -> int:
    """Bytes of this process under a name of /proc/self/status: `VmRSS` resident, `VmHWM` its highest, `RssAnon`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return 1024 * int(value.split()[0])
    raise KeyError(field)


class Growth:
    """Bytes by which the block's memory grew at its highest, above what was held when it began.

    Of this process, or, where the block works on a GPU, of torch's memory there.
    """

    def __init__(self, on_gpu: bool = False):
        self.on_gpu = on_gpu
        self.bytes = 0

    def __enter__(self) -> Self:
        gc.collect()
        if self.on_gpu:
            torch = sys.modules["torch"]
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated()
        else:
            Path("/proc/self/clear_refs").write_text("5")  # the high-water mark becomes what is resident now
            self._before = status("VmRSS")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        highest = sys.modules["torch"].cuda.max_memory_allocated() if self.on_gpu else status("VmHWM")
        self.bytes = highest - self._before


class Sampler:
    """A thread that reads the resident memory of a process and its children every `interval` seconds.

    What comes and goes between two samples is not seen. A child counts from the second sample that finds it, since
    until it has become another program it shares its parent's pages, which would count twice.
    """

    def __init__(self, pid: int | None = None, interval: float = 0.05):
        self._process = psutil.Process(pid)
        self._interval = interval
        self._children: set[int] = set()  # at the last sample
        self._lock = threading.Lock()
        self._highest = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory", daemon=True)

    def take(self) -> int:
        """The highest since the last call, this moment included: bytes."""
        self._sample()
        highest, self._highest = self._highest, 0
        return highest

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._end.wait(self._interval):
            self._sample()

    def _sample(self) -> None:
        with self._lock:
            try:
                children = self._process.children(recursive=True)
            except psutil.NoSuchProcess:
                return
            known = [child for child in children if child.pid in self._children]
            self._children = {child.pid for child in children}
            self._highest = max(self._highest, sum(_resident(process) for process in [self._process, *known]))


def _resident(process: psutil.Process) -> int:
    """Resident bytes of one process; 0 where it has ended meanwhile."""
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0
