"""One process or several under torchrun: who am I, on which device, and how do numbers meet."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from mcm.training.devices import DEVICES, DeviceKind, chosen


@dataclass(frozen=True)
class Processes:
    """This process among all: rank 0 writes files and speaks."""

    rank: int
    world_size: int
    device: torch.device
    local_rank: int = 0  # among the processes of this machine
    local_size: int = 1  # processes of this machine

    @property
    def leads(self) -> bool:
        return self.rank == 0

    @property
    def kind(self) -> DeviceKind:
        return DEVICES[self.device.type]

    def number(self, value: float) -> float | Tensor:
        """A number that changes from step to step, as a step of this device takes it.

        A tensor where Python's numbers would be compiled into the step, and so compile it again each time; one that was
        no scalar on the host, since torch_xla looks at the value of those and compiles 0 and 1 in as well.
        """
        return torch.tensor([value]).to(self.device).squeeze(0) if self.kind.fixed_shapes else value

    def total(self, value: Tensor) -> Tensor:
        """Sum of a tensor over all processes; a collective call where there are several."""
        if self.world_size > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def agree(self, value: int) -> int:
        """The value that the leading process gives; a collective call where there are several."""
        if self.world_size > 1:
            given = torch.tensor(value, device=self.device)
            dist.broadcast(given, 0)
            value = int(given)
        return value

    def all_agree(self, yes: bool) -> bool:
        """Whether every process says yes; a collective call where there are several."""
        return int(self.total(torch.tensor(int(not yes), device=self.device))) == 0

    def vote(self) -> "Vote":
        """A new vote among all processes; a collective call where there are several."""
        return Vote(dist.new_group(backend="gloo") if self.world_size > 1 else None)

    def barrier(self) -> None:
        if self.world_size > 1:
            dist.barrier()


class Vote:
    """Whether any process says yes, asked once an iteration: the answer is that of one call before.

    So nobody waits for an answer that is still on its way, and none of it meets a GPU: the group is one of CPUs. Alone,
    the answer is at once.
    """

    def __init__(self, group: dist.ProcessGroup | None):
        self._group = group
        self._ballot: Tensor | None = None
        self._counting: dist.Work | None = None

    def cast(self, yes: bool) -> bool:
        """Say yes or no; whether anybody said yes. Every process has the same answer to the same call."""
        if self._group is None:
            return yes
        answer = False
        if self._counting is not None and self._ballot is not None:
            self._counting.wait()
            answer = bool(self._ballot)
        self._ballot = torch.tensor(int(yes))
        self._counting = dist.all_reduce(self._ballot, dist.ReduceOp.MAX, group=self._group, async_op=True)
        return answer


@contextlib.contextmanager
def processes() -> Iterator[Processes]:
    """Join the group that torchrun describes in the environment, or run alone; `mcm.training.devices` says where."""
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    local_rank, local_size = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    kind = DEVICES[chosen(world_size=world_size)]
    joins = world_size > 1 and not dist.is_initialized()
    if joins:
        _join(kind)
        rank = dist.get_rank()  # by the place in the slice on a TPU
    yield Processes(rank, world_size, kind.place(local_rank), local_rank, local_size)
    if joins:  # not after an error: who waits there for a process that is gone waits for ever
        dist.destroy_process_group()


def _join(kind: DeviceKind) -> None:
    """Meet the other processes where torchrun says, which keeps one store for all its starts (torch 2.13).

    Each start has a room of its own there: else its processes read addresses of those that were killed before.
    """
    if kind.init_method or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        dist.init_process_group(kind.backend, init_method=kind.init_method)
        return
    store, rank, world_size = next(dist.rendezvous("env://"))
    room = dist.PrefixStore(f"start-{os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    dist.init_process_group(kind.backend, store=room, rank=rank, world_size=world_size)
