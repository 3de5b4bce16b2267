"""A row as a chain of jobs, each known by its content before anything runs, so that studies share what they share.

The fingerprint of a job is that of the resolved parameters that it reads and of the jobs that it reads from. Which
machine, how many workers and whether it was interrupted are no part of it.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.estimate_variance.stage import VarianceConfig
from components.evaluate.stage import EvaluationConfig
from components.exact import stage as exact
from components.runner import fingerprint, read_params, section
from components.storage import is_remote
from components.storage.transfer import listing_version
from components.students import student_config
from components.train_teacher.stage import TeacherConfig
from components.training import NetworkConfig, ScheduleConfig
from mcm.artifacts import file_md5, folder_md5
from mcm.config import suggest
from mcm.data.config import DataConfig
from mcm.errors import UserError
from mcm.exact.teacher import MixtureSampler
from mcm.methods.recipes import RECIPES
from mcm.networks.presets import network_config, to_json
from mcm.samplers import SAMPLERS, SamplerConfig
from pipelines.study.rows import COMMON, STUDENTS, Row, resolve
from pipelines.study.schema import Study, base_path, read_yaml

VERSION = 1  # of what a fingerprint means: another one makes everything anew
FOUNDATIONS = ("dataset", "reference")  # what rests on nothing trained: made, or found missing, before training
MIXTURE = ("exact", STUDENTS)  # sections of a base of that kind
OWN_IMAGES = ("folder", "archive")  # sources whose images are whatever lies at data.path


@dataclass(frozen=True, eq=False)
class Job:
    """One artifact to make: by which function, from what."""

    kind: str
    label: str  # for people; no part of what it is
    params: Mapping[str, Any]  # what the stage is given
    inputs: Mapping[str, "Job"] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)  # what it is given beside parameters
    identity: Mapping[str, Any] | None = None  # what its bytes are a function of; None is params and arguments
    images: int | None = None  # that training sees
    units: float = 1.0  # of work, for estimates: images that the network is run on

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256 of what the artifact is a function of."""
        own = {"params": self.params, "arguments": self.arguments} if self.identity is None else self.identity
        inputs = {role: job.fingerprint for role, job in self.inputs.items()}
        return fingerprint({"version": VERSION, "kind": self.kind, "is": own, "inputs": inputs})

    @property
    def name(self) -> str:
        """Of its folder in the store."""
        return f"{self.kind}-{self.fingerprint[:12]}"

    def chain(self) -> Iterator["Job"]:
        """This job and all it needs, those first."""
        for job in self.inputs.values():
            yield from job.chain()
        yield self


@dataclass(frozen=True)
class Planned:
    """A row and the job whose artifact holds its figures."""

    row: Row
    last: Job
    nfe: int


def plan(study: Study) -> list[Planned]:
    """All rows of a study with their jobs; everything is parsed, nothing is run. UserError names the row."""
    bases = {name: _read_base(study, name) for name in study.base_names}
    kind = KINDS[study.kind]
    planned = []
    for row in resolve(study, bases, kind.seeds):
        where = f"{study.where}, {row.where}, base '{row.base}'"
        try:
            planned.append(Planned(row, kind.make(study, row), _nfe(row)))
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
    return planned


def distinct(planned: list[Planned]) -> dict[str, Job]:
    """Every job of these rows once, by name, each after what it needs."""
    return {job.name: job for each in planned for job in each.last.chain()}


def missing(planned: list[Planned], done: Callable[[Job], bool]) -> dict[str, Job]:
    """What has to be done for the rows that are not there: what only rows that are there have read is not needed."""
    found: dict[str, Job] = {}

    def need(job: Job) -> None:
        if job.name not in found and not done(job):
            for needed in job.inputs.values():
                need(needed)
            found[job.name] = job

    for each in planned:
        need(each.last)
    return found


def _nfe(row: Row) -> int:
    if row.sampler is not None and (sampler := SAMPLERS.get(row.sampler["name"])):
        return sampler.evaluations(row.steps)
    return row.steps


def _read_base(study: Study, name: str) -> Mapping[str, Any]:
    path = base_path(study, name)
    if study.kind == "images":
        return read_params(path)
    values = read_yaml(path)
    for key in values:
        if key not in MIXTURE:
            raise UserError(f"{path}: unknown section '{key}'; {suggest(str(key), list(MIXTURE))}")
    return values


# Images


def _images(study: Study, row: Row) -> Job:
    data = section(row.params, "data", DataConfig)
    dataset = Job(
        "dataset",
        row.base,
        {"data": data.resolved()},
        identity={"data": {**data.resolved(), "path": _content(data)}},
    )
    teacher = _teacher(row, data, dataset)
    config = section(row.params, "evaluation", EvaluationConfig)
    if config.samples < study.min_samples:
        raise UserError(
            f"evaluation.samples is {config.samples}, too few for FID: of fewer than {study.min_samples} its bias is "
            f"more than what rows differ by; raise it, or give the study 'min_samples: {config.samples}'"
        )
    if row.seed != config.seed:
        raise UserError("evaluation.seed is not the row's seed")
    extractor = {"extractor": config.extractor}
    inputs = {
        "dataset": dataset,
        "reference": Job("reference", row.base, extractor, {"dataset": dataset}),
    }
    sampler = None if row.sampler is None else SamplerConfig.parse(row.sampler, "sampler")
    arguments: dict[str, Any] = {
        "name": "teacher" if row.student_steps is None else f"{row.method}-{row.student_steps}"
    }
    samplers = EvaluationConfig.model_fields["teacher_samplers"].default
    if row.student_steps is not None:
        inputs["model"] = _student(row, row.student_steps, dataset, teacher)
        if sampler is not None:
            _check_student_sampler(sampler, row)
            arguments["sampler"] = sampler.resolved()
    elif sampler is not None:
        inputs["model"], samplers = teacher, (sampler,)
        if sampler.needs_table:
            variance = {"variance": section(row.params, "variance", VarianceConfig).resolved()}
            needs = {"dataset": dataset, "teacher": teacher}
            inputs["variance"] = Job("variance", row.base, variance, needs)
    nfe = row.steps if sampler is None else sampler.nfe
    params = {"evaluation": config.model_copy(update={"teacher_samplers": samplers}).resolved()}
    units = config.samples * (nfe + EXTRACTION)
    return Job("evaluation", row.label, params, inputs, arguments, units=units)


EXTRACTION = 8  # evaluations of a small network that one image's features are worth


def _teacher(row: Row, data: DataConfig, dataset: Job) -> Job:
    network = section(row.params, "network", NetworkConfig)
    shape = network_config(network.preset, data.resolution, data.channels or 3, dropout=network.dropout)
    schedule = section(row.params, "schedule", ScheduleConfig)
    teacher = section(row.params, "teacher", TeacherConfig)
    params = {"network": network.resolved(), "schedule": schedule.resolved(), "teacher": teacher.resolved()}
    seen = teacher.iterations * teacher.batch_size
    identity = {"params": params, "shape": to_json(shape)}  # what a preset's name stands for may change
    return Job("teacher", row.base, params, {"dataset": dataset}, identity=identity, images=seen, units=seen)


def _student(row: Row, steps: int, dataset: Job, teacher: Job) -> Job:
    config = student_config(row.params, row.method, steps)
    if config.seed != row.seed:
        raise UserError(f"students: a section of {row.method}-{steps} has a seed, and seeds are the study's; drop it")
    seen = config.iterations * config.batch_size
    return Job(
        "student",
        row.label,
        {STUDENTS: {COMMON: config.resolved()}},
        {"dataset": dataset, "teacher": teacher},
        {"method": row.method, "student_steps": steps},
        images=seen,
        units=seen,
    )


def _check_student_sampler(sampler: SamplerConfig, row: Row) -> None:
    sampler.check_student(row.student_steps or 0, RECIPES[row.method].reads_end)


def _content(data: DataConfig) -> Any:
    """What `data.path` is to the data set: its name and the hash of what lies there. UserError where nothing does."""
    if data.source not in OWN_IMAGES:
        return None  # packages are known by their versions and checksums wherever they are kept
    if data.path is None:
        raise UserError(f"data.path: source '{data.source}' needs one; name your images")
    return [Path(data.path).name, _hash(data.path)]


@functools.cache
def _hash(path: str) -> str:
    if is_remote(path):
        return listing_version(path)
    place = Path(path)
    if not place.exists():
        raise UserError(f"data.path: no images at '{path}'; put them there, or name another place")
    return folder_md5(place) if place.is_dir() else file_md5(place)


# The exact mixture


def _mixture(study: Study, row: Row) -> Job:
    steps, measured = row.student_steps, exact.measure_identity(row.params, row.sampler)
    sampler = {} if row.sampler is None else {"sampler": dict(row.sampler)}
    if steps is None:
        return Job("exact", row.label, row.params, {}, sampler, measured)
    if row.sampler is not None:
        _check_student_sampler(MixtureSampler.parse(row.sampler, "sampler"), row)
    identity = exact.start_identity(row.params)
    start = Job("start", row.base, row.params, identity=identity, units=_seen(identity["training"]))
    identity = exact.student_identity(row.params, row.method, steps)
    training = identity["training"]
    if training["seed"] != row.seed:
        raise UserError(f"students: a section of {row.method}-{steps} has a seed, and seeds are the study's; drop it")
    seen = _seen(training)
    arguments = {"method": row.method, "student_steps": steps}
    whole = {**arguments, **identity}
    student = Job("student", row.label, row.params, {"start": start}, arguments, whole, images=seen, units=seen)
    return Job("exact", row.label, row.params, {"model": student}, sampler, measured)


def _seen(training: Mapping[str, Any]) -> int:
    """Images that a training run sees."""
    return int(training["iterations"]) * int(training["batch_size"])


@dataclass(frozen=True)
class Kind:
    """A kind of study: which parameters a row's seed is, and its chain of jobs."""

    seeds: tuple[str, ...]
    make: Callable[[Study, Row], Job]


KINDS = {
    "images": Kind((f"{STUDENTS}.{COMMON}.seed", "evaluation.seed"), _images),
    "mixture": Kind((f"{STUDENTS}.{COMMON}.seed", "exact.evaluation.seed"), _mixture),
}
