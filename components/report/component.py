"""report on Kubeflow Pipelines."""

from typing import List  # noqa: UP035  (kfp reads this form alone)

from kfp.dsl import HTML, Artifact, Dataset, Input, Markdown, Metrics, Model, Output

from components.kubeflow.define import component


@component
def report(  # type: ignore[no-untyped-def]
    dataset: Input[Dataset],
    model: Input[Model],
    x_var: Input[Artifact],
    teacher_evaluation: Input[Artifact],
    teacher_timing: Input[Artifact],
    models: Input[List[Model]],  # noqa: UP006
    evaluations: Input[List[Artifact]],  # noqa: UP006
    timings: Input[List[Artifact]],  # noqa: UP006
    out: Output[Artifact],
    page: Output[HTML],
    summary: Output[Markdown],
    metrics: Output[Metrics],
    data: dict,
    network: dict,
    schedule: dict,
    teacher: dict,
    variance: dict,
    students: dict,
    evaluation: dict,
    store: str = "",
):
    """From what all other stages left to one self-contained HTML page, its Markdown twin, and figures for DVC."""
    import shutil

    from components.kubeflow.gather import run_report
    from components.kubeflow.show import log_summary, write_markdown

    single = {
        "dataset": dataset,
        "teacher": model,
        "variance": x_var,
        "evaluations/teacher": teacher_evaluation,
        "timings/teacher.json": teacher_timing,
    }
    params = {
        "data": data,
        "network": network,
        "schedule": schedule,
        "teacher": teacher,
        "variance": variance,
        "students": students,
        "evaluation": evaluation,
    }
    run_report(params, single, {"students": models, "evaluations": evaluations, "timings": timings}, out, store)
    shutil.copyfile(f"{out.path}/index.html", page.path)
    write_markdown(out.path, summary)
    log_summary(out.path, metrics)
