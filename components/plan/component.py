"""plan on Kubeflow Pipelines: what `matrix` is in dvc.yaml."""

from components.kubeflow.define import component


@component
def plan(  # type: ignore[no-untyped-def]
    data: dict,
    network: dict,
    schedule: dict,
    teacher: dict,
    variance: dict,
    students: dict,
    evaluation: dict,
    store: str = "",
) -> list:
    """Checks every section of the parameters before anything runs, and lists the students that they ask for."""
    from components.kubeflow import plan
    from components.kubeflow.lineage import lineage_in
    from components.kubeflow.values import pack, unpack
    from components.runner import report_errors

    with report_errors():
        params = unpack(
            {
                "data": data,
                "network": network,
                "schedule": schedule,
                "teacher": teacher,
                "variance": variance,
                "students": students,
                "evaluation": evaluation,
            }
        )
        plan.check(params)
        with lineage_in(store) as lineage:
            lineage.asked(params)
        return pack(plan.students(params))
