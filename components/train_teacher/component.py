"""train_teacher on Kubeflow Pipelines."""

from kfp.dsl import Dataset, Input, Model, Output

from components.kubeflow.define import component


@component
def train_teacher(  # type: ignore[no-untyped-def]
    dataset: Input[Dataset], out: Output[Model], network: dict, schedule: dict, teacher: dict, store: str = ""
):
    """Trains a diffusion teacher on a data set, by the v-loss in continuous time."""
    from components.kubeflow.task import run

    sections = {"network": network, "schedule": schedule, "teacher": teacher}
    run("train_teacher", sections, {"dataset": dataset}, {"out": out}, store, work="state")
    out.metadata["name"] = "teacher"
