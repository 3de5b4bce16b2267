"""Put the hardware of a profile on a task of the pipeline, in the words of kfp and kfp-kubernetes."""

from typing import TYPE_CHECKING

from components.kubeflow.launch import JOB
from components.kubeflow.manifests import JobRequest
from components.lineage.runs import RUN
from pipelines.policy import POLICIES
from pipelines.profile import Profile

if TYPE_CHECKING:
    from kfp.dsl import PipelineTask

PART = "app.kubernetes.io/part-of"
STAGE = "multistep-consistency.dev/stage"
QUEUE = "kueue.x-k8s.io/queue-name"


def apply(task: "PipelineTask", stage: str, profile: Profile, image: str) -> None:
    """Set on `task` what `stage` runs on in `profile`. `image` is the reference that the task runs, by digest.

    A stage with a launcher becomes a small pod that waits for a TrainJob or JobSet; what that asks for lies in its
    environment. A task of Kubeflow Pipelines is one pod, and its launcher dies of a SIGTERM at once, the program with
    it: on several nodes a job is the only way, on a spot node the only one that leaves time for a checkpoint.
    """
    from kfp import kubernetes

    asked = profile.stage(stage)
    task.set_env_variable("MCM_IMAGE", image)
    # The run's id, for lineage records. It comes from the pod's label, since caches would take a parameter as new work.
    kubernetes.use_field_path_as_env(task, RUN, "metadata.labels['pipeline/runid']")
    if asked.launcher:
        task.set_env_variable(JOB, job_request(stage, profile, image).model_dump_json(exclude_defaults=True))
        pod = profile.waiting
    else:
        pod = asked
    task.set_cpu_request(pod.cpu_request).set_memory_request(pod.memory_request).set_memory_limit(pod.memory)
    if pod.cpu_limit:
        task.set_cpu_limit(pod.cpu_limit)
    if pod.kind:
        task.set_accelerator_type(pod.kind.resource).set_accelerator_limit(pod.count)
    for key, value in pod.place.node_selector.items():
        kubernetes.add_node_selector(task, key, value)
    for toleration in pod.place.tolerations:
        kubernetes.add_toleration(task, **toleration.manifest())
    if pod.shm:
        kubernetes.empty_dir_mount(task, "shm", "/dev/shm", medium="Memory", size_limit=pod.shm)
    if profile.volume:
        kubernetes.mount_pvc(task, profile.volume.claim, profile.volume.mount, profile.volume.sub_path)
    kubernetes.set_image_pull_policy(task, profile.pull_policy)
    kubernetes.set_security_context(task, run_as_user=profile.run_as_user, run_as_non_root=True)
    kubernetes.add_pod_label(task, PART, "multistep-consistency")
    kubernetes.add_pod_label(task, STAGE, stage)
    # A pod that waits for a queued job is not queued itself: waiting pods could fill the quota that their jobs need.
    if asked.queue and not asked.launcher:
        kubernetes.add_pod_label(task, QUEUE, asked.queue)


def job_request(stage: str, profile: Profile, image: str) -> JobRequest:
    """What the task of a stage with a launcher asks the cluster for."""
    asked, volume = profile.stage(stage), profile.volume
    devices = {asked.kind.resource: str(asked.count)} if asked.kind else {}
    limits = {"memory": asked.memory, **devices}
    return JobRequest(
        launcher=asked.launcher or "JobSet",
        nodes=asked.nodes,
        processes=asked.count if asked.kind and asked.kind.kind == "gpu" else 1,
        image=image,
        runtime=asked.runtime,
        requests={"cpu": asked.cpu_request, "memory": asked.memory_request, **devices},
        limits={"cpu": asked.cpu_limit, **limits} if asked.cpu_limit else limits,
        shm=asked.shm,
        node_selector=asked.place.node_selector,
        tolerations=tuple(toleration.manifest() for toleration in asked.place.tolerations),
        claim=volume.claim if volume else None,
        mount=volume.mount if volume else "",
        sub_path=volume.sub_path if volume else "",
        tpu=bool(asked.kind and asked.kind.kind == "tpu"),
        queue=asked.queue,
        account=profile.worker_account,
        run_as_user=profile.run_as_user,
        pull_policy=profile.pull_policy,
        timeout=POLICIES[stage].timeout,
    )
