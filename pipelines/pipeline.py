"""The pipeline on Kubeflow: the stages of `dvc.yaml`, in containers, on the hardware of a profile."""

import copy
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kfp import dsl
from kfp.dsl.base_component import BaseComponent
from kfp.dsl.graph_component import GraphComponent

from components.conclude.component import conclude
from components.estimate_variance.component import estimate_variance
from components.evaluate.component import evaluate
from components.kubeflow.values import pack
from components.plan.component import plan
from components.prepare_data.component import prepare_data
from components.report.component import report
from components.runner import SECTIONS
from components.train_student.component import train_student
from components.train_teacher.component import train_teacher
from pipelines.hardware import apply
from pipelines.policy import apply_policy
from pipelines.profile import Profile

NAME = "multistep-consistency"
DESCRIPTION = (
    "From images to samplers of 1 to 8 network evaluations, by multistep consistency models (arXiv 2403.06807)."
)
LOOP = "students"
COMPONENTS = {
    "plan": plan,
    "prepare_data": prepare_data,
    "train_teacher": train_teacher,
    "estimate_variance": estimate_variance,
    "train_student": train_student,
    "evaluate": evaluate,
    "report": report,
    "conclude": conclude,
}
TEACHER, STUDENT = "evaluate-teacher", "evaluate-student"  # the two tasks of one stage


@dataclass(frozen=True)
class Given:
    """What is imported instead of made; its URI is then a parameter of the run (`dataset_uri`, `teacher_uri`)."""

    dataset: bool = False
    teacher: bool = False


NOTHING = Given()


def build(
    profile: Profile | None, image: str, defaults: Mapping[str, Any], given: Given = NOTHING, retries: int = 0
) -> GraphComponent:
    """The pipeline for a profile, every task in `image`. `defaults` are the sections of a parameters file.

    Its parameters are those sections, `store` (a `gs://` prefix, or by default the profile's volume), `data_version`
    (the content hash of the given images, so that changed images are no cache hit), and a URI for what is given.
    Without a profile it is a pipeline for this machine: no hardware, no cache, no time limits, and `retries` of a
    failed task at once.
    """
    mounted = profile.volume.mount if profile is not None and profile.volume is not None else ""
    parameters = list(_parameters({**defaults, "store": mounted}, given))

    def chain(*values: Any) -> None:
        _Graph(profile, image, retries, {p.name: value for p, value in zip(parameters, values, strict=True)}).connect()

    # Kubeflow reads the parameters of a pipeline from the signature of its function, and gives them by position.
    chain.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return dsl.pipeline(chain, name=NAME, description=DESCRIPTION)


def _parameters(defaults: Mapping[str, Any], given: Given) -> Iterator[inspect.Parameter]:
    def parameter(name: str, kind: type, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
        return inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=kind)

    if given.dataset:
        yield parameter("dataset_uri", str)
    if given.teacher:
        yield parameter("teacher_uri", str)
    for name in SECTIONS:
        yield parameter(name, dict, pack(defaults.get(name) or {}))
    yield parameter("store", str, defaults["store"])
    if not given.dataset:
        yield parameter("data_version", str, "")


class _Graph:
    """The tasks of one pipeline, each on the hardware of its stage. `p` are the pipeline's parameters."""

    def __init__(self, profile: Profile | None, image: str, retries: int, p: Mapping[str, Any]):
        self.profile = profile
        self.image = image
        self.retries = retries
        self.p = p
        self.sections = {name: p[name] for name in SECTIONS}

    def on(self, stage: str, name: str = "", **arguments: Any) -> dsl.PipelineTask:
        """A task of a stage, with its image, hardware, caching, retries and time limit, under a name of its own."""
        task = _named(COMPONENTS[stage], name)(**arguments)
        task.set_container_image(self.image)
        if self.profile is not None:
            apply(task, stage, self.profile, self.image)
            apply_policy(task, stage)
        else:
            task.set_caching_options(False)
            if self.retries:
                task.set_retry(self.retries, backoff_duration="0s")
        return task

    def connect(self) -> None:
        with dsl.ExitHandler(self.on("conclude"), name="chain"):
            planned = self.on("plan", store=self.p["store"], **self.sections)
            dataset = self.dataset(planned)
            teacher = self.teacher(dataset)
            shared = {"dataset": dataset, "store": self.p["store"]}
            measured = self.on("estimate_variance", teacher=teacher, variance=self.p["variance"], **shared)
            variance, evaluation = measured.outputs["out"], self.p["evaluation"]
            judged = self.on("evaluate", TEACHER, model=teacher, variance=variance, evaluation=evaluation, **shared)
            with dsl.ParallelFor(planned.output, name=LOOP) as student:
                taught = self.on("train_student", teacher=teacher, student=student, **shared).outputs["out"]
                rated = self.on("evaluate", STUDENT, model=taught, evaluation=evaluation, **shared)
            self.on(
                "report",
                dataset=dataset,
                model=teacher,
                x_var=variance,
                teacher_evaluation=judged.outputs["out"],
                teacher_timing=judged.outputs["timing"],
                models=dsl.Collected(taught),
                evaluations=dsl.Collected(rated.outputs["out"]),
                timings=dsl.Collected(rated.outputs["timing"]),
                store=self.p["store"],
                **self.sections,
            )

    def dataset(self, planned: dsl.PipelineTask) -> Any:
        if "dataset_uri" in self.p:
            return _imported(self.p["dataset_uri"], dsl.Dataset, "given-dataset")
        arguments = {name: self.p[name] for name in ("data", "data_version", "store")}
        return self.on("prepare_data", **arguments).after(planned).outputs["out"]

    def teacher(self, dataset: Any) -> Any:
        if "teacher_uri" in self.p:
            return _imported(self.p["teacher_uri"], dsl.Model, "given-teacher")
        arguments = {name: self.p[name] for name in ("network", "schedule", "teacher", "store")}
        return self.on("train_teacher", dataset=dataset, **arguments).outputs["out"]


def _named(component: BaseComponent, name: str) -> BaseComponent:
    """The component under another name, which is that of its task: Kubeflow would call a second one `evaluate-2`."""
    if not name:
        return component
    renamed = copy.deepcopy(component)
    renamed.name = renamed.component_spec.name = name
    return renamed


def _imported(uri: Any, kind: type[dsl.Artifact], name: str) -> Any:
    """An artifact that exists. Every run imports it anew: what lies there may change, and Kubeflow never looks."""
    return dsl.importer(artifact_uri=uri, artifact_class=kind, reimport=True).set_display_name(name).output
