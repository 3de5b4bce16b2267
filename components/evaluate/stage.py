"""Stage evaluate: dataset and a model -> figures and pictures of its samples, and beside them the time they took."""

import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor
from tqdm import tqdm

from components.runner import section
from mcm.artifacts import atomic_folder, folder_md5, read_config, write_config, write_json
from mcm.compiled import compiled
from mcm.config import Config
from mcm.data.arrays import ImageSet
from mcm.denoiser import Predictor, reads_end
from mcm.errors import UserError
from mcm.evaluation import evaluate as evaluation
from mcm.evaluation.extractors import DEFAULT, Extractor, check_extractor
from mcm.evaluation.sharing import in_order
from mcm.model import Loaded, load_denoiser
from mcm.samplers import SamplerConfig, generate
from mcm.training.distributed import Processes, processes
from mcm.variance import XVar, XVarTable, analytic_x_var

KIND, VERSION = "evaluation", 1


class EvaluationConfig(Config):
    """Section `evaluation`. The first of the teacher's samplers is the one that students are compared with."""

    samples: int = Field(ge=evaluation.MIN_IMAGES)
    batch_size: int = Field(64, ge=1)
    seed: int = Field(0, ge=0)
    ema: str | None = Field(None, description="weights of the model; null is its first EMA")
    extractor: str = DEFAULT
    precision: Literal["float32", "bf16"] = "float32"
    compile: bool = Field(False, description="sample with torch.compile: a minute more at the start, for long runs")
    pictures: int = Field(36, ge=1, description="first samples to keep as pictures")
    teacher_samplers: tuple[SamplerConfig, ...] = Field(
        (SamplerConfig(name="addim", steps=64, x_var="table"),), min_length=1
    )

    @field_validator("extractor")
    @classmethod
    def _known(cls, name: str) -> str:
        return check_extractor(name)

    @model_validator(mode="after")
    def _consistent(self) -> "EvaluationConfig":
        if self.pictures > self.samples:
            raise ValueError(f"{self.pictures} pictures of {self.samples} samples; ask for more samples")
        rows = [sampler.row for sampler in self.teacher_samplers]
        if len(set(rows)) < len(rows):
            raise ValueError(f"two of the teacher's samplers are the same: {', '.join(rows)}; drop one")
        return self


class Stopwatch:
    """Time spent inside an iterator, without what its consumer does in between."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def over(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """The batches; getting each of them is timed, until it is there."""
        iterator = iter(batches)
        while True:
            start = time.perf_counter()
            batch = next(iterator, None)
            if batch is not None and batch.is_cuda:
                torch.cuda.current_stream(batch.device).synchronize()
            self.seconds += time.perf_counter() - start
            if batch is None:
                return
            yield batch


def evaluate(
    params: Mapping[str, Any],
    model: Path,
    dataset: Path,
    out: Path,
    timing: Path,
    variance: Path | None = None,
    name: str = "",
    work: Path = Path("work"),
    sampler: SamplerConfig | None = None,
) -> None:
    """Evaluate `model` against the training split of `dataset`: figures and pictures to `out`, durations to `timing`.

    `params` is the whole of `params.yaml`; the section evaluation is read. A teacher is sampled with each of
    `teacher_samplers`, a student with DDIM at its own steps, and either with `sampler` alone where that is given.
    `name` stands in config.json and on the progress bar.
    """
    config = section(params, "evaluation", EvaluationConfig)
    train, holdout = ImageSet.open(dataset, "train"), ImageSet.open(dataset, "holdout")
    with processes() as group:
        loaded = load_denoiser(model, config.ema, group.device, config.precision == "bf16")
        _check_fit(model, loaded, train)
        samplers = _samplers(loaded, config, sampler)
        table = _x_var_table(samplers, variance)
        measured_on = _measured_on(group)
        extractor = Extractor(config.extractor, measured_on)
        md5, cache = folder_md5(dataset) if group.leads else "", Path(work) / "features"
        features = evaluation.split_features(train.images, extractor, md5, "train", cache, group)
        unseen = evaluation.split_features(holdout.images, extractor, md5, "holdout", cache, group)
        reference = evaluation.make_reference(features, md5, "train", measured_on) if group.leads else None
        predict = compiled(loaded.denoiser, "reduce-overhead") if config.compile else loaded.denoiser
        rows: dict[str, Any] = {}
        durations: dict[str, Any] = {}
        pictures: dict[str, np.ndarray] = {}
        for sampler in samplers:
            x_var = table if table is not None and sampler.x_var == "table" else analytic_x_var
            row, first, seconds = _measure(loaded, predict, sampler, x_var, reference, extractor, config, name, group)
            rows[sampler.row] = row
            durations[sampler.row] = {
                "seconds_per_image": seconds,
                "nfe": sampler.nfe,
                "batch": min(config.batch_size, config.samples),
                "device": _device_name(group.device),
            }
            pictures["samples" if len(samplers) == 1 else f"samples-{sampler.row}"] = first
        if not group.leads:
            return
        inputs = {"dataset": md5, "model": folder_md5(model)}
        if variance is not None:
            inputs["variance"] = folder_md5(variance)
        with atomic_folder(out) as temporary:
            for file, first in pictures.items():
                np.save(temporary / f"{file}.npy", first, allow_pickle=False)
            write_json(temporary / "metrics.json", rows)
            write_config(
                temporary,
                KIND,
                VERSION,
                {
                    "name": name,
                    "evaluation": config.resolved(),
                    "method": loaded.config["method"],
                    "student_steps": loaded.config["student_steps"],
                    "ema": loaded.ema,
                    "samplers": {sampler.row: sampler.resolved() for sampler in samplers},
                    "floor": evaluation.noise_floor(features, unseen, extractor),
                    "inputs": inputs,
                },
            )
        write_json(timing, durations)


def real_features(extractor: str, dataset: Path, out: Path) -> None:
    """Write the features of the real images to `out`, whose folder `features` is the cache that `evaluate` reads as
    `work`: for evaluations that run at once, and would each make it. UserError where the images are too few."""
    with processes() as group, atomic_folder(out) as folder:
        network, md5 = Extractor(extractor, _measured_on(group)), folder_md5(dataset)
        features = {
            split: evaluation.split_features(
                ImageSet.open(dataset, split).images, network, md5, split, folder / "features"
            )
            for split in ("train", "holdout")
        }
        evaluation.make_reference(features["train"], md5, "train")
        counts = {split: len(found) for split, found in features.items()}
        write_config(folder, "reference", 1, {"extractor": extractor, "counts": counts, "inputs": {"dataset": md5}})


def _measured_on(group: Processes) -> torch.device:
    """XLA has neither the resizing of extractors nor eigenvalues, and would compile for each number of images."""
    return torch.device("cpu") if group.kind.fixed_shapes else group.device


def _samplers(loaded: Loaded, config: EvaluationConfig, only: SamplerConfig | None) -> tuple[SamplerConfig, ...]:
    """The teacher's samplers, or the student's only one: plain DDIM over its own steps (Alg. 2). Or `only`.

    A student's x_hat stands for where its step lands and may lie outside the range of pixels, so it is not clipped.
    """
    steps = loaded.config["student_steps"]
    if only is not None:
        if steps is not None:
            only.check_student(steps, reads_end(loaded.denoiser))
        return (only,)
    return config.teacher_samplers if steps is None else (SamplerConfig(name="ddim", steps=steps, clip=False),)


def _check_fit(model: Path, loaded: Loaded, train: ImageSet) -> None:
    expected = (train.channels, train.resolution, train.resolution)
    if loaded.shape != expected:
        raise UserError(
            f"{model}: it makes {loaded.shape} and the data set holds {expected}; evaluate it on its own data"
        )
    if loaded.num_classes not in (0, train.num_classes):
        raise UserError(
            f"{model}: it knows {loaded.num_classes} classes and the data set has {train.num_classes}; "
            "evaluate it on its own data"
        )


def _x_var_table(samplers: tuple[SamplerConfig, ...], variance: Path | None) -> XVarTable | None:
    """The measured x_var, where one of the samplers reads it."""
    needing = [sampler.row for sampler in samplers if sampler.needs_table]
    if not needing:
        return None
    if variance is None:
        raise UserError(f"evaluation: sampler {needing[0]} reads a measured x_var; give --variance, or x_var: analytic")
    read_config(variance, "variance", 1)
    return XVarTable.read(Path(variance) / "table.csv")


def _measure(
    loaded: Loaded,
    predict: Predictor,
    sampler: SamplerConfig,
    x_var: XVar,
    reference: evaluation.Reference | None,
    extractor: Extractor,
    config: EvaluationConfig,
    name: str,
    group: Processes,
) -> tuple[dict[str, Any], np.ndarray, float]:
    """One sampler's row, its first samples, and the seconds an image took after a warm-up batch of a single step.

    Images stay on the device from sampler to extractor. Each process samples its share of the batches.
    """

    def images(sampler: SamplerConfig, count: int, rank: int = 0, world_size: int = 1) -> Iterator[Tensor]:
        return generate(
            predict,
            sampler,
            loaded.schedule,
            config.seed,
            count,
            loaded.shape,
            loaded.num_classes,
            config.batch_size,
            group.device,
            x_var,
            rank,
            world_size,
            equal_batches=config.compile or group.kind.fixed_shapes,
        )

    next(images(sampler.model_copy(update={"steps": 1}), min(config.batch_size, config.samples)))
    watch = Stopwatch()
    own: list[Tensor] = []
    made = 0

    def watched() -> Iterator[Tensor]:
        nonlocal made
        batches = images(sampler, config.samples, group.rank, group.world_size)
        with tqdm(
            total=config.samples,
            desc=f"{name} {sampler.row}",
            unit="img",
            mininterval=2.0,
            disable=not group.leads,
        ) as bar:
            for number, batch in enumerate(watch.over(batches)):
                if (number * group.world_size + group.rank) * config.batch_size < config.pictures:
                    own.append(batch)
                made += len(batch)
                yield batch
                bar.update(len(batch) * group.world_size)

    about = {
        "ema": loaded.ema,
        "sampler": sampler.row,
        "nfe": sampler.nfe,
        "seed": config.seed,
        "guidance": sampler.guidance,
    }
    row = evaluation.evaluate(watched(), reference, extractor, about, group)
    channels, height, width = loaded.shape
    like = torch.empty(0, height, width, channels, dtype=torch.uint8, device=group.device)
    first = torch.cat([like, *in_order(own, like, group)])[: config.pictures]
    return row, first.cpu().numpy(), watch.seconds / max(made, 1)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"
