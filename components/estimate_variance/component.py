"""estimate_variance on Kubeflow Pipelines."""

from kfp.dsl import Artifact, Dataset, Input, Model, Output

from components.kubeflow.define import component


@component
def estimate_variance(  # type: ignore[no-untyped-def]
    dataset: Input[Dataset], teacher: Input[Model], out: Output[Artifact], variance: dict, store: str = ""
):
    """Measures the posterior variance x_var(t) that the aDDIM sampler needs, beside its analytic form."""
    from components.kubeflow.task import run

    run("estimate_variance", {"variance": variance}, {"dataset": dataset, "teacher": teacher}, {"out": out}, store)
