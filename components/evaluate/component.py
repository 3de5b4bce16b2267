"""evaluate on Kubeflow Pipelines."""

from typing import Optional

from kfp.dsl import Artifact, Dataset, Input, Markdown, Metrics, Model, Output

from components.kubeflow.define import component


@component
def evaluate(  # type: ignore[no-untyped-def]
    model: Input[Model],
    dataset: Input[Dataset],
    out: Output[Artifact],
    timing: Output[Artifact],
    metrics: Output[Metrics],
    pictures: Output[Markdown],
    evaluation: dict,
    variance: Optional[Input[Artifact]] = None,  # noqa: UP045  (kfp reads this form alone)
    store: str = "",
):
    """From a model and its data set to FID, KID, precision and recall of seeded samples, and the first pictures."""
    from components.kubeflow.show import log_evaluation, model_name, write_grids
    from components.kubeflow.task import run

    name = model_name(model.path)
    inputs = {"model": model, "dataset": dataset, **({"variance": variance} if variance else {})}
    outputs = {"out": out, "timing": timing}
    run("evaluate", {"evaluation": evaluation}, inputs, outputs, store, {"name": name}, work="state")
    out.metadata["name"] = timing.metadata["name"] = name
    log_evaluation(out.path, metrics)
    write_grids(out.path, pictures)
