"""How a job of each kind is done: the stages' own functions, from folders of the store to one more."""

from collections.abc import Callable
from pathlib import Path

from components.estimate_variance.stage import estimate_variance
from components.evaluate.stage import evaluate, real_features
from components.exact import stage as exact
from components.prepare_data.stage import prepare_data
from components.train_student.stage import train_student
from components.train_teacher.stage import train_teacher
from mcm.samplers import SamplerConfig
from pipelines.study.jobs import Job
from pipelines.study.store import Store

Inputs = dict[str, Path]


def run(job: Job, store: Store) -> None:
    """Make the artifact of a job, whose inputs are in the store. UserError where that cannot be."""
    inputs = {role: store.folder(needed) for role, needed in job.inputs.items()}
    STAGES[job.kind](job, inputs, store)


def _dataset(job: Job, inputs: Inputs, store: Store) -> None:
    prepare_data(job.params, store.folder(job))


def _reference(job: Job, inputs: Inputs, store: Store) -> None:
    real_features(job.params["extractor"], inputs["dataset"], store.folder(job))


def _teacher(job: Job, inputs: Inputs, store: Store) -> None:
    train_teacher(job.params, inputs["dataset"], store.folder(job), store.state)


def _variance(job: Job, inputs: Inputs, store: Store) -> None:
    estimate_variance(job.params, inputs["dataset"], inputs["teacher"], store.folder(job))


def _student(job: Job, inputs: Inputs, store: Store) -> None:
    method, steps = job.arguments["method"], job.arguments["student_steps"]
    if "start" in inputs:
        exact.make_student(job.params, method, steps, inputs["start"], store.folder(job), store.state)
    else:
        train_student(job.params, method, steps, inputs["dataset"], inputs["teacher"], store.folder(job), store.state)


def _evaluation(job: Job, inputs: Inputs, store: Store) -> None:
    evaluate(
        job.params,
        inputs["model"],
        inputs["dataset"],
        store.folder(job),
        store.beside(job, "sampling"),
        inputs.get("variance"),
        job.arguments["name"],
        inputs["reference"],
        SamplerConfig.parse(sampler, "sampler") if (sampler := job.arguments.get("sampler")) else None,
    )


def _start(job: Job, inputs: Inputs, store: Store) -> None:
    exact.make_start(job.params, store.folder(job), store.state)


def _exact(job: Job, inputs: Inputs, store: Store) -> None:
    exact.measure(job.params, inputs.get("model"), job.arguments.get("sampler"), store.folder(job))


STAGES: dict[str, Callable[[Job, Inputs, Store], None]] = {
    "dataset": _dataset,
    "reference": _reference,
    "teacher": _teacher,
    "variance": _variance,
    "student": _student,
    "evaluation": _evaluation,
    "start": _start,
    "exact": _exact,
}
