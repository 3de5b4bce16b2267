"""The one training loop: any method, one process or several, resumed at any iteration with the same bits."""

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mcm.errors import UserError
from mcm.methods.interface import Batch, Draws, FollowsEMAs, Method
from mcm.training.checkpoint import Checkpoint, CheckpointFolder
from mcm.training.config import TrainingConfig
from mcm.training.distributed import Processes
from mcm.training.ema import EMAs
from mcm.training.log import Progress
from mcm.training.stop import Stop, StoppedError

# loader(start, stop) yields this process's part of the batches of iterations start..stop-1.
Loader = Callable[[int, int], Iterable[tuple[Batch, Draws]]]
Preview = Callable[[nn.Module], np.ndarray]
T = TypeVar("T", Batch, Draws)


@dataclass(frozen=True)
class Trained:
    """What training leaves: raw weights, EMAs by name, and the loss curve (one row each `log_every` iterations)."""

    weights: dict[str, Tensor]
    emas: dict[str, dict[str, Tensor]]
    history: list[dict[str, float]]


def train(
    name: str,
    student: nn.Module,
    method: Method,
    loader: Loader,
    config: TrainingConfig,
    checkpoints: CheckpointFolder,
    processes: Processes,
    logs: Path | None = None,
    preview: Preview | None = None,
) -> Trained:
    """Train `student` (a Denoiser, moved to the device here) by `method` for `config.iterations`.

    Resumes from the newest whole checkpoint. `preview(student)` makes a uint8 `[H, W, C]` grid for TensorBoard. A loss
    or gradient that is not finite stops the run with a UserError before anything of it is kept. SIGTERM stops it with a
    StoppedError, in all processes at the same iteration, once a checkpoint of it is written.
    """
    student.to(processes.device).train()
    parameters: dict[str, Tensor] = dict(student.named_parameters())
    optimizer = torch.optim.Adam(
        parameters.values(), lr=config.learning_rate, betas=config.adam_betas, eps=config.adam_epsilon
    )
    emas = EMAs(parameters, config.emas)
    start, history = 0, []
    resumed = checkpoints.newest()
    if resumed is not None:
        start, history = resumed.iteration, list(resumed.history)
        _restore(resumed.tensors, parameters, emas, optimizer)
    watch = _Watch(config, processes, resumed.tensors["log/sums"] if resumed else None)
    call = _parallel(student, config, processes)
    if isinstance(method, FollowsEMAs):
        method.follow(emas.shadows)
    shown = Progress(name, start, config.iterations, config.batch_size, logs if processes.leads else None)
    with Stop(processes) as stop, shown as progress:
        for iteration, (batch, draws) in enumerate(loader(start, config.iterations), start):
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate_at(iteration)
            optimizer.zero_grad(set_to_none=True)
            loss = _backward(call, method, _to(batch, processes), _to(draws, processes), iteration, config.accumulate)
            norm = nn.utils.clip_grad_norm_(parameters.values(), config.clip_norm)
            optimizer.step()
            emas.update(parameters, iteration + 1)
            watch.add(iteration, loss, norm)
            progress.step()
            done = iteration + 1
            last = done == config.iterations
            stopping = stop.agreed() and not last
            if done % config.log_every == 0 or last:
                history.append({"iteration": done, **watch.row(), "learning_rate": config.learning_rate_at(iteration)})
                progress.scalars(done, history[-1])
            if config.sample_every and preview and processes.leads and (done % config.sample_every == 0 or last):
                progress.pictures(done, _with_ema(student, parameters, emas, preview))
            if done % config.checkpoint_every == 0 or last or stopping:
                sums = watch.total()
                if processes.leads:
                    tensors = {**_tensors(parameters, emas, optimizer), "log/sums": sums}
                    checkpoints.save(Checkpoint(done, tensors, history))
                processes.barrier()
            if stopping:
                raise StoppedError(done, config.iterations)
    return Trained({k: v.detach() for k, v in parameters.items()}, emas.shadows, history)


def _backward(call: nn.Module, method: Method, batch: Batch, draws: Draws, iteration: int, accumulate: int) -> Tensor:
    """Gradients of the mean loss of this process's batch, in `accumulate` micro-batches; the mean loss, detached."""
    size = len(batch.images)
    total = torch.zeros((), device=batch.images.device)
    for part in range(accumulate):
        rows = slice(part * size // accumulate, (part + 1) * size // accumulate)
        sync: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if isinstance(call, DistributedDataParallel) and part < accumulate - 1:
            sync = call.no_sync()
        with sync:
            loss = method.loss(call, _rows(batch, rows), _rows(draws, rows), iteration).sum() / size
            loss.backward()
        total += loss.detach()
    return total


def _parallel(student: nn.Module, config: TrainingConfig, processes: Processes) -> nn.Module:
    """The student as the methods call it: compiled and replicated as configured, sharing `student`'s parameters."""
    call = student
    if config.compile:
        call = torch.compile(student)  # type: ignore[assignment]
    if processes.world_size > 1:
        ids = [processes.device.index] if processes.device.type == "cuda" else None
        call = DistributedDataParallel(call, device_ids=ids, broadcast_buffers=False)
    return call


class _Watch:
    """Sums of loss, gradient norm and count since the last log row, and the first step that was not finite.

    All stay on the device: a step never waits for them. Their total is part of a checkpoint, so that a resumed run logs
    the same rows: sums of float32 in float64 are exact, however they are split among processes.
    """

    def __init__(self, config: TrainingConfig, processes: Processes, total: Tensor | None):
        self.config = config
        self.processes = processes
        self.sums = torch.zeros(3, dtype=torch.float64, device=processes.device)
        if total is not None and processes.leads:
            self.sums += total.to(processes.device)
        self.bad = torch.full((), -1, dtype=torch.int64, device=processes.device)

    def add(self, iteration: int, loss: Tensor, norm: Tensor) -> None:
        finite = torch.isfinite(loss) & torch.isfinite(norm)
        self.bad = torch.where((self.bad < 0) & ~finite, iteration, self.bad)
        self.sums += torch.stack([loss, norm, torch.ones_like(loss)]).double()

    def total(self) -> Tensor:
        """Check the steps so far; the sums over all processes, `[3]`."""
        bad = int(self.bad)
        if bad >= 0:  # in every process alike: the gradient's norm is that of the averaged gradient
            raise UserError(
                f"training, iteration {bad} of seed {self.config.seed}: the loss or its gradient is not finite; "
                "lower learning_rate or clip_norm, or set precision to float32; checkpoints before it are kept"
            )
        return self.processes.total(self.sums)

    def row(self) -> dict[str, float]:
        """Mean loss and gradient norm since the last row, over all processes."""
        loss, norm, count = self.total().tolist()
        self.sums.zero_()
        return {"loss": loss / count, "gradient_norm": norm / count}


def _map(value: T, function: Callable[[Tensor], Tensor]) -> T:
    present = {f.name: getattr(value, f.name) for f in fields(value)}
    return replace(value, **{name: function(item) for name, item in present.items() if item is not None})


def _rows(value: T, rows: slice) -> T:
    return _map(value, lambda tensor: tensor[rows])


def _to(value: T, processes: Processes) -> T:
    return _map(value, lambda tensor: tensor.to(processes.device, non_blocking=True))


def _with_ema(student: nn.Module, parameters: dict[str, Tensor], emas: EMAs, preview: Preview) -> np.ndarray:
    """`preview` of the student with its first EMA as weights, which are put back afterwards."""
    kept = {name: value.detach().clone() for name, value in parameters.items()}
    with torch.no_grad():
        for name, value in next(iter(emas.shadows.values())).items():
            parameters[name].copy_(value)
        student.eval()
        grid = preview(student)
        for name, value in kept.items():
            parameters[name].copy_(value)
    student.train()
    return grid


def _tensors(parameters: dict[str, Tensor], emas: EMAs, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """All state as one flat dictionary: `weights/...`, `ema_0.999/...`, `adam.exp_avg/...`."""
    tensors = {f"weights/{name}": value for name, value in parameters.items()}
    for ema, shadow in emas.shadows.items():
        tensors |= {f"{ema}/{name}": value for name, value in shadow.items()}
    for name, value in parameters.items():
        tensors |= {f"adam.{key}/{name}": moment for key, moment in optimizer.state[value].items()}
    return tensors


def _restore(
    tensors: dict[str, Tensor], parameters: dict[str, Tensor], emas: EMAs, optimizer: torch.optim.Optimizer
) -> None:
    """The inverse of `_tensors`, in place."""
    with torch.no_grad():
        for name, value in parameters.items():
            value.copy_(tensors[f"weights/{name}"])
            for ema, shadow in emas.shadows.items():
                shadow[name].copy_(tensors[f"{ema}/{name}"])
    moments = [key for key in tensors if key.startswith("adam.")]
    for key in moments:
        moment, name = key.removeprefix("adam.").split("/", 1)
        # Laid out as the parameter is, so that the update reads memory in the same order and rounds alike.
        value = tensors[key] if moment == "step" else torch.empty_like(parameters[name]).copy_(tensors[key])
        optimizer.state[parameters[name]][moment] = value
