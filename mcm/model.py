"""Denoisers on disk: an artifact with `config.json`, raw weights and EMAs, all safetensors."""

import csv
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mcm.artifacts import atomic_folder, read_config, write_config
from mcm.config import suggest
from mcm.denoiser import Denoiser
from mcm.errors import UserError
from mcm.networks.mlp import MLPConfig
from mcm.networks.presets import build, from_json, to_json
from mcm.networks.uvit import UViTConfig
from mcm.schedules import CosineSchedule
from mcm.tensors import read_tensors, write_tensors
from mcm.training.loop import Trained

KIND, VERSION = "denoiser", 1

_END = "network.embedding.end."  # parameters that only a network with reads_end has


@dataclass(frozen=True)
class Loaded:
    """A denoiser read from disk, with what is needed to sample it."""

    denoiser: Denoiser
    schedule: CosineSchedule
    config: dict[str, Any]  # its config.json
    ema: str  # which weights: "ema_0.999" or "weights"
    num_classes: int  # 0 is unconditional; the null label of guidance is num_classes
    shape: tuple[int, ...]  # (C, H, W)


def save_denoiser(
    folder: Path,
    trained: Trained,
    network: UViTConfig | MLPConfig,
    schedule: CosineSchedule,
    values: Mapping[str, Any],
) -> None:
    """Write the artifact: `values` (method, student_steps, parameters, input hashes) go to its config.json."""
    with atomic_folder(folder) as temporary:
        emas = list(trained.emas)
        for name, tensors in {**trained.emas, "weights": trained.weights}.items():
            write_tensors(temporary / f"{name}.safetensors", tensors)
        with (temporary / "loss.csv").open("w", newline="") as opened:
            writer = csv.DictWriter(opened, list(trained.history[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(trained.history)
        write_config(
            temporary,
            KIND,
            VERSION,
            {"network": to_json(network), "schedule": asdict(schedule), "emas": emas, **values},
        )


def load_denoiser(
    folder: Path, ema: str | None = None, device: torch.device | str = "cpu", bf16: bool = False
) -> Loaded:
    """Read a teacher or student for evaluation. `ema` is one of its EMAs or "weights"; None is its first EMA."""
    folder = Path(folder)
    config = read_config(folder, KIND, VERSION)
    known = [*config["emas"], "weights"]
    ema = ema or known[0]
    if ema not in known:
        raise UserError(f"{folder}: no weights called '{ema}' in it; {suggest(ema, known)}")
    network = from_json(config["network"], f"{folder}/config.json")
    denoiser = Denoiser(build(network), bf16)
    load_weights(denoiser, folder / f"{ema}.safetensors")
    shape = (
        (network.image_channels, network.resolution, network.resolution)
        if isinstance(network, UViTConfig)
        else (network.dimensions,)
    )
    denoiser.to(device).eval().requires_grad_(False)
    return Loaded(denoiser, CosineSchedule(**config["schedule"]), config, ema, network.num_classes, shape)


def load_weights(denoiser: Denoiser, path: Path) -> None:
    """Copy weights from a safetensors file into a denoiser of the same shape."""
    _fill(dict(denoiser.named_parameters()), read_tensors(path), path)


def start_from(denoiser: Denoiser, path: Path) -> None:
    """Copy a teacher's weights into a student that is to be trained from them.

    A student that reads ends may have a teacher that does not: its embedding of them stays as it is, and, fresh, leaves
    the student with the teacher's predictions for any end. UserError where anything else is missing or too much.
    """
    tensors, wanted = read_tensors(path), dict(denoiser.named_parameters())
    of_ends = {name for name in {*wanted, *tensors} if name.startswith(_END)}
    if of_ends and not denoiser.reads_end:
        raise UserError(
            f"{path}: this teacher is told where its steps end, and the student's method tells it nothing of that; "
            "choose a teacher that is not (diffusion, cd, gd, ...), or a method that does (ctm)"
        )
    if not of_ends & set(tensors):
        wanted = {name: value for name, value in wanted.items() if name not in of_ends}
    _fill(wanted, tensors, path)


def _fill(wanted: dict[str, nn.Parameter], tensors: dict[str, Tensor], path: Path) -> None:
    """Copy tensors into the parameters of their names; UserError unless each has one, of its shape."""
    for name in sorted(set(wanted) | set(tensors)):
        have = tuple(tensors[name].shape) if name in tensors else None
        need = tuple(wanted[name].shape) if name in wanted else None
        if have != need:
            raise UserError(
                f"{path}: '{name}' has shape {have} and the network needs {need}; "
                "use a checkpoint of this network, or the network preset that made the checkpoint"
            )
    with torch.no_grad():
        for name, value in wanted.items():
            value.copy_(tensors[name])
