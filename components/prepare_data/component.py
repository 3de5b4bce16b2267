"""prepare_data on Kubeflow Pipelines."""

from kfp.dsl import Dataset, Output

from components.kubeflow.define import component


@component
def prepare_data(out: Output[Dataset], data: dict, data_version: str = "", store: str = ""):  # type: ignore[no-untyped-def]
    """From a source of images to memory-mapped uint8 arrays with labels, captions, manifest, licences and split."""
    from components.kubeflow.task import run

    run("prepare_data", {"data": data}, {}, {"out": out}, store, key={"data_version": data_version})
