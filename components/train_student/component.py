"""train_student on Kubeflow Pipelines."""

from kfp.dsl import Dataset, Input, Model, Output

from components.kubeflow.define import component


@component
def train_student(  # type: ignore[no-untyped-def]
    dataset: Input[Dataset], teacher: Input[Model], out: Output[Model], student: dict, store: str = ""
):
    """Trains a few-step student from a teacher, by multistep consistency distillation, training, or a neighbour."""
    from components.kubeflow.task import run

    options = {"method": student["method"], "student_steps": str(int(student["student_steps"]))}
    inputs = {"dataset": dataset, "teacher": teacher}
    run("train_student", {"students": student["parameters"]}, inputs, {"out": out}, store, options, work="state")
    out.metadata["name"] = student["name"]
