"""conclude on Kubeflow Pipelines: the exit handler."""

from kfp import dsl
from kfp.dsl import Markdown, Output

from components.kubeflow.define import component


@component
def conclude(status: dsl.PipelineTaskFinalStatus, summary: Output[Markdown]):  # type: ignore[no-untyped-def]
    """Says how the run ended, whether it came to its end, failed or was cancelled."""
    from components.kubeflow.show import write_ending

    write_ending(status, summary)
