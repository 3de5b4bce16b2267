"""Students and samplers of a closed-form teacher, measured against the truth. Not a stage of the DAG.

`make_start` -> one MLP for all; `make_student` -> a student that starts from it; `measure` -> what a student, or a
sampler of the closed-form teacher, makes of fixed noise. Parameters: sections `exact` and `students`. All runs on the
CPU, where an artifact's bytes are a function of parameters and inputs.
"""

import functools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from components.exact.config import ExactConfig
from components.phases import Run, Source, train_phases
from components.runner import fingerprint, section, work_folder
from components.students import StudentConfig, student_config
from components.training import seeded
from mcm.artifacts import atomic_folder, folder_md5, write_config, write_json
from mcm.denoiser import Denoiser, Predictor
from mcm.errors import UserError
from mcm.exact.start import Imitation
from mcm.exact.stream import MixtureStream
from mcm.exact.teacher import MixtureSampler, sample_teacher, step_noise, trajectories, x_var_table
from mcm.exact.truth import SCHEDULE, Truth, truth
from mcm.methods.interface import Method
from mcm.methods.recipe import Setting
from mcm.mixtures import mixture
from mcm.model import load_denoiser, save_denoiser, start_from
from mcm.networks.mlp import MLPConfig
from mcm.networks.presets import build, from_json
from mcm.samplers import SamplerConfig, sample
from mcm.training.checkpoint import ALONE, CheckpointFolder
from mcm.training.config import TrainingConfig
from mcm.training.loop import train

Params = Mapping[str, Any]
ARC = 32  # times of a trajectory, over all of its steps; at least one a step


def _exact(params: Params) -> ExactConfig:
    return section(params, "exact", ExactConfig)


def start_identity(params: Params) -> dict[str, Any]:
    """What the bytes of `make_start` are a function of, as JSON holds it."""
    exact = _exact(params)
    return {"mixture": exact.mixture, "shape": exact.network.resolved(), "training": exact.start.resolved()}


def student_identity(params: Params, method: str, student_steps: int) -> dict[str, Any]:
    """What the bytes of `make_student` are a function of, beside the start."""
    config = student_config(params, method, student_steps)
    if config.needs_classes:
        raise UserError(f"{method}-{student_steps} is guided, and a mixture has no classes; leave it out of this study")
    return {
        "method": method,
        "student_steps": student_steps,
        "mixture": _exact(params).mixture,
        "training": config.resolved(),
    }


def measure_identity(params: Params, sampler: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the bytes of `measure` are a function of, beside the student; `sampler` None is for a student."""
    exact = _exact(params)
    own = None if sampler is None else MixtureSampler.parse(sampler, "sampler").resolved()
    evaluation = exact.evaluation.resolved()
    return {"mixture": exact.mixture, "sampler": own, "evaluation": evaluation, "metrics": list(Truth.METRICS)}


def make_start(params: Params, out: Path, work: Path) -> None:
    """Train the MLP that all students start from, and write it to `out` (an artifact `denoiser`).

    Checkpoints lie under `work` until it is whole.
    """
    exact, identity = _exact(params), start_identity(params)
    points = mixture(exact.mixture)
    network = exact.network.network(points.dimensions)
    denoiser = seeded(exact.start.seed, lambda: Denoiser(build(network), exact.start.precision == "bf16"))
    method = Imitation(SCHEDULE, points.posterior_mean)
    _fit("start", denoiser, network, method, exact.start, exact.mixture, 0, identity, out, work)


def make_student(params: Params, method: str, student_steps: int, start: Path, out: Path, work: Path) -> None:
    """Train the student by `method` from `start`, phase after phase, and write it to `out` (an artifact `denoiser`).

    The teacher that is asked in the first phase is the closed form, in each later one what the phase before has made.
    Checkpoints, and what earlier phases have made, lie under `work` until the student is whole.
    """
    config = student_config(params, method, student_steps)
    identity = {**student_identity(params, method, student_steps), "inputs": {"start": folder_md5(start)}}

    def train(run: Run) -> bool:
        _train(run, config, _exact(params).mixture, work)
        return True

    train_phases(f"{method}-{student_steps}", config, student_steps, start, identity, out, work, train)


def _train(run: Run, config: StudentConfig, points: str, work: Path) -> None:
    source = run.source
    teacher = mixture(points).posterior_mean
    if source.before is not None:
        teacher = load_denoiser(source.folder, bf16=config.precision == "bf16").denoiser
    student, network = _student(config, source, points)
    setting = Setting(SCHEDULE, run.phase, teacher if config.distills else None, source.before)
    training = config.model_copy(update={"iterations": run.phase.iterations})
    method = config.make(setting)
    _fit(run.name, student, network, method, training, points, source.begin, run.identity, run.out, work)


def _student(config: StudentConfig, source: Source, points: str) -> tuple[Denoiser, MLPConfig]:
    """A network with the weights of `source`, whose method may tell it more than the source was told."""
    loaded = load_denoiser(source.folder, source.ema)
    shape = from_json(loaded.config["network"], f"{source.folder}/config.json")
    if not isinstance(shape, MLPConfig) or shape.dimensions != mixture(points).dimensions:
        raise UserError(f"{source.folder}: not a network for points of '{points}'; make a start with these parameters")
    network = replace(shape, reads_end=config.reads_end)
    student = seeded(config.seed, lambda: Denoiser(build(network, config.recompute), config.precision == "bf16"))
    start_from(student, source.folder / f"{loaded.ema}.safetensors")
    return student, network


def _fit(
    name: str,
    denoiser: Denoiser,
    network: MLPConfig,
    method: Method,
    config: TrainingConfig,
    points: str,
    begin: int,
    identity: Mapping[str, Any],
    out: Path,
    work: Path,
) -> None:
    """One run of the loop, over the draws of iterations `begin` and on, to a denoiser in `out`."""
    stream = MixtureStream(mixture(points), config.batch_size, config.seed, begin)
    folder = work_folder(work, name, identity) / "checkpoints"
    checkpoints = CheckpointFolder(folder, fingerprint(identity), config.keep_checkpoints, ALONE)
    trained = train(name, denoiser, method, stream, config, checkpoints, ALONE)
    save_denoiser(out, trained, network, SCHEDULE, identity)
    checkpoints.clear()


def measure(params: Params, student: Path | None, sampler: Mapping[str, Any] | None, out: Path) -> None:
    """Sample a student, or where it is None the closed-form teacher, from the noise of `exact.evaluation.seed`, and
    write the artifact `exact`.

    `sampler` is a mapping such as `{name: addim, steps: 8, x_var: exact}`; None is DDIM at the student's own steps.
    `metrics.json` holds `row`, `nfe`, `metrics` (see `Truth.metrics`) and `about`, what these are to be read by;
    `points.npy` the first samples, float32 `[N, D]`. In 1 and 2 dimensions a student and the sampler DDIM leave their
    ways too: `times.npy` `[P]` and `trajectories.npy`, float32 `[P, N, D]`.
    """
    exact = _exact(params)
    counts, points = exact.evaluation, mixture(exact.mixture)
    known = truth(exact.mixture, counts.seed, counts.samples, counts.flow_steps)
    identity: dict[str, Any] = measure_identity(params, sampler)
    named = None if sampler is None else MixtureSampler.parse(sampler, "sampler")
    predictor: Predictor = points.posterior_mean
    if student is not None:
        predictor, chosen = _of_student(student, named, exact.mixture)
        identity |= {"inputs": {"student": folder_md5(student)}}
        with torch.no_grad():
            draw = functools.partial(step_noise, known.z_1, counts.seed)
            z_0 = sample(predictor, known.z_1, chosen.levels(SCHEDULE), chosen, draw=draw)
    elif named is not None:
        chosen = named
        z_0 = sample_teacher(
            points,
            named,
            known.z_1,
            counts.seed,
            lambda: x_var_table(exact.mixture, counts.seed, counts.x_var_frac, counts.x_var_points),
        )
    else:
        raise UserError("measure: neither a student nor a sampler of the teacher; name one of them")
    made = {
        "row": chosen.row,
        "nfe": chosen.nfe,
        "metrics": known.metrics(z_0),
        "about": {"mixture": exact.mixture, "dimensions": points.dimensions, **known.about},
    }
    with atomic_folder(out) as folder:
        write_json(folder / "metrics.json", made)
        np.save(folder / "points.npy", z_0[: counts.points].float().numpy())
        if points.dimensions <= 2 and counts.trajectories and chosen.name == "ddim" and chosen.grid == "uniform":
            inside = max(1, ARC // chosen.steps)
            with torch.no_grad():
                times, ways = trajectories(predictor, chosen.steps, known.shown(counts.trajectories), inside)
            np.save(folder / "times.npy", times)
            np.save(folder / "trajectories.npy", ways)
        write_config(folder, "exact", 1, identity)


def _of_student(student: Path, sampler: MixtureSampler | None, name: str) -> tuple[Denoiser, SamplerConfig]:
    """A student, and its sampler: where none is named, DDIM at its own steps (Alg. 2)."""
    loaded = load_denoiser(student)
    if loaded.shape != (mixture(name).dimensions,):
        raise UserError(f"{student}: this student is not of '{name}'; name one that is")
    steps = loaded.config.get("student_steps")
    if steps is None:
        raise UserError(f"{student}: this is a start and has no steps of its own; name a student")
    if sampler is not None:
        sampler.check_student(steps, loaded.denoiser.reads_end)
    return loaded.denoiser, sampler or SamplerConfig(name="ddim", steps=steps, clip=False)
