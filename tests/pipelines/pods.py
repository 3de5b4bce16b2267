"""The pods that Kubeflow's driver makes of a compiled pipeline, from the messages that it parses.

Follows `initPodSpecPatch` and `extendPodSpecPatch` of kubeflow/pipelines (backend/src/v2/driver). Unknown fields fail:
the messages are parsed strictly, which `PlatformSpec`, a Struct, would not do. Argo's own containers are left out.
"""

from collections.abc import Iterator
from typing import Any

import yaml
from google.protobuf import json_format
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig
from kfp.pipeline_spec.pipeline_spec_pb2 import ComponentSpec, DagSpec, PipelineDeploymentConfig, PipelineSpec

ContainerSpec = PipelineDeploymentConfig.PipelineContainerSpec


def pods_of(compiled: str) -> dict[str, dict[str, Any]]:
    """Pod manifests by task name, of the text of a compiled pipeline. Tasks without a container have none."""
    return {name: pod(name, container, platform) for name, _, container, platform in executors_of(compiled)}


def executors_of(compiled: str) -> Iterator[tuple[str, Any, ContainerSpec, KubernetesExecutorConfig]]:
    """(name, PipelineTaskSpec, container, platform configuration) of each task with a container."""
    documents = list(yaml.load_all(compiled, yaml.CSafeLoader))
    spec = json_format.ParseDict(documents[0], PipelineSpec())
    config = json_format.ParseDict(documents[0]["deploymentSpec"], PipelineDeploymentConfig())
    platforms = documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"] if documents[1:] else {}
    for name, task, component in _tasks(spec.root.dag, spec):
        label = component.executor_label
        if config.executors[label].HasField("container"):
            platform = json_format.ParseDict(platforms.get(label, {}), KubernetesExecutorConfig())
            yield name, task, config.executors[label].container, platform


def _tasks(dag: DagSpec, spec: PipelineSpec) -> Iterator[tuple[str, Any, ComponentSpec]]:
    """Every task under a DAG that is no DAG itself, by the name that is shown."""
    for key, task in dag.tasks.items():
        component = spec.components[task.component_ref.name]
        if component.HasField("dag"):
            yield from _tasks(component.dag, spec)
        else:
            yield task.task_info.name or key, task, component


def pod(name: str, container: ContainerSpec, platform: KubernetesExecutorConfig) -> dict[str, Any]:
    """One pod: the container of a task with what the platform configuration adds."""
    main: dict[str, Any] = {
        "name": "main",
        "image": container.image,
        "command": list(container.command),
        "args": list(container.args),
        "env": [{"name": entry.name, "value": entry.value} for entry in container.env],
        "resources": _resources(container),
    }
    spec: dict[str, Any] = {"restartPolicy": "Never", "containers": [main]}
    volumes: list[dict[str, Any]] = []
    mounts: list[dict[str, Any]] = []
    for claim in platform.pvc_mount:
        assert claim.constant, "a claim is named when the pipeline is compiled"
        volumes.append({"name": claim.constant, "persistentVolumeClaim": {"claimName": claim.constant}})
        where = {"name": claim.constant, "mountPath": claim.mount_path}
        mounts.append({**where, "subPath": claim.sub_path} if claim.sub_path else where)
    for empty in platform.empty_dir_mounts:
        directory = {"medium": empty.medium, "sizeLimit": empty.size_limit}
        volumes.append({"name": empty.volume_name, "emptyDir": {key: text for key, text in directory.items() if text}})
        mounts.append({"name": empty.volume_name, "mountPath": empty.mount_path})
    if volumes:
        spec["volumes"], main["volumeMounts"] = volumes, mounts
    if platform.image_pull_policy:
        main["imagePullPolicy"] = platform.image_pull_policy
    if platform.node_selector.labels:
        spec["nodeSelector"] = dict(platform.node_selector.labels)
    if platform.tolerations:
        spec["tolerations"] = [json_format.MessageToDict(entry) for entry in platform.tolerations]
    if platform.active_deadline_seconds:
        spec["activeDeadlineSeconds"] = platform.active_deadline_seconds
    if platform.HasField("security_context"):
        main["securityContext"] = {**_identity(platform.security_context), "capabilities": {"drop": ["ALL"]}}
    metadata: dict[str, Any] = {"name": name, **json_format.MessageToDict(platform.pod_metadata)}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _resources(container: ContainerSpec) -> dict[str, dict[str, str]]:
    asked = container.resources
    requests = {"cpu": asked.resource_cpu_request, "memory": asked.resource_memory_request}
    limits = {"cpu": asked.resource_cpu_limit, "memory": asked.resource_memory_limit}
    if asked.accelerator.resource_type:
        limits[asked.accelerator.resource_type] = asked.accelerator.resource_count
    given = {"requests": requests, "limits": limits}
    return {key: {name: text for name, text in part.items() if text} for key, part in given.items()}


def _identity(context: Any) -> dict[str, Any]:
    known = {"run_as_user": "runAsUser", "run_as_group": "runAsGroup", "run_as_non_root": "runAsNonRoot"}
    return {theirs: getattr(context, ours) for ours, theirs in known.items() if context.HasField(ours)}
