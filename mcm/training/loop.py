"""The one training loop: any method, one process or several, resumed at any iteration with the same bits."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mcm.methods.interface import Batch, Draws, FollowsEMAs, Method
from mcm.training.background import BackgroundCheckpoints
from mcm.training.checkpoint import Checkpoint, CheckpointFolder
from mcm.training.config import TrainingConfig
from mcm.training.distributed import Processes
from mcm.training.ema import EMAs
from mcm.training.log import Progress
from mcm.training.parallel import clip_gradients, gathered, in_parts, parallelize, synchronized
from mcm.training.state import restore, state_tensors
from mcm.training.stop import Stop, StoppedError
from mcm.training.watch import Watch

# loader(start, stop) yields this process's part of the batches of iterations start..stop-1.
Loader = Callable[[int, int], Iterable[tuple[Batch, Draws]]]
Preview = Callable[[nn.Module], np.ndarray]


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
    call = parallelize(student.train(), config, processes)
    takes_part = processes.leads or in_parts(call)  # in previews and checkpoints
    parameters: dict[str, Tensor] = dict(student.named_parameters())
    optimizer = torch.optim.Adam(
        parameters.values(),
        lr=processes.number(config.learning_rate),
        betas=config.adam_betas,
        eps=config.adam_epsilon,
        fused=processes.kind.fused_optimizer,
        capturable=processes.kind.fixed_shapes,  # its number of steps and its rate stay on the device
    )
    emas = EMAs(parameters, config.emas)
    start, history = 0, []
    resumed = checkpoints.newest()
    if resumed is not None:
        start, history = resumed.iteration, list(resumed.history)
        restore(resumed.tensors, parameters, emas, optimizer)
    since = start - int(history[-1]["iteration"] if history else 0)
    watch = Watch(config, processes, resumed.tensors["log/sums"] if resumed else None, since)
    if isinstance(method, FollowsEMAs):
        method.follow(emas.shadows)
    shown = Progress(name, start, config.iterations, config.batch_size, logs if processes.leads else None)
    device = processes.device
    with Stop(processes) as stop, shown as progress, BackgroundCheckpoints(checkpoints) as background:
        for iteration, (batch, draws) in enumerate(loader(start, config.iterations), start):
            for group in optimizer.param_groups:
                group["lr"] = processes.number(config.learning_rate_at(iteration))
            optimizer.zero_grad(set_to_none=True)
            loss = _backward(call, method, batch.to(device), draws.to(device), iteration, config.accumulate)
            norm = clip_gradients(parameters.values(), config.clip_norm)
            optimizer.step()
            emas.update(parameters, iteration + 1, processes.number)
            watch.add(iteration, loss, norm)
            processes.kind.end_step()
            progress.step()
            done = iteration + 1
            last = done == config.iterations
            stopping = stop.agreed() and not last
            if done % config.log_every == 0 or last:
                history.append({"iteration": done, **watch.row(), "learning_rate": config.learning_rate_at(iteration)})
                progress.scalars(done, history[-1])
            if config.sample_every and preview and takes_part and (done % config.sample_every == 0 or last):
                progress.pictures(done, _with_ema(student, parameters, emas, preview))
            if done % config.checkpoint_every == 0 or last or stopping:
                sums = watch.total()
                if takes_part:
                    tensors = {**state_tensors(parameters, emas, optimizer), "log/sums": sums}
                    background.save(Checkpoint(done, tensors, history))
            if stopping:
                background.wait()
                processes.barrier()  # who leaves first would have the others killed before they have written
                raise StoppedError(done, config.iterations)
    processes.barrier()
    shadows = {ema: gathered(shadow, processes) for ema, shadow in emas.shadows.items()}
    return Trained(gathered(parameters, processes), shadows, history)


def _backward(call: nn.Module, method: Method, batch: Batch, draws: Draws, iteration: int, accumulate: int) -> Tensor:
    """Gradients of the mean loss of this process's batch, in `accumulate` micro-batches; the mean loss, detached."""
    size = len(batch.images)
    total = torch.zeros((), device=batch.images.device)
    for part in range(accumulate):
        rows = slice(part * size // accumulate, (part + 1) * size // accumulate)
        with synchronized(call, part == accumulate - 1):
            loss = method.loss(call, batch.rows(rows), draws.rows(rows), iteration).sum() / size
            loss.backward()
        total += loss.detach()
    return total


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
