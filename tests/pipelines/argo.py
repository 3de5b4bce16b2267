"""The nodes that the backend's workflow engine has for a pipeline, as its compiler (argocompiler/dag.go) makes them.

A task `x` is a pod `x-driver` and a node `x` that holds the pod `executor`, or, with retries, a node `executor` that
holds `executor(0)`, `executor(1)`, ... A DAG `x` is a pod `x-driver` and a node `x`; a loop `x` a node `x` that holds
`iteration-driver` and `iteration-iterations`, which holds one `iteration-iterations(k:k)` for each round, in which the
DAG is called `iteration-item`. The children of a node are the first nodes inside it; of a leaf, what waits for it.
"""

import uuid
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

NEVER = "0001-01-01T00:00:00Z"  # Go's zero time, which the server gives for a time that has not come
BEGIN = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
V2 = {"Pending", "Running", "Succeeded", "Skipped", "Failed", "Canceled"}


@dataclass
class State:
    """How far a task is. `phase` is Argo's word, or Cached, or DriverRunning, DriverFailed."""

    phase: str
    attempts: int = 1
    message: str = ""


@dataclass
class Node:
    name: str
    template: str
    phase: str
    started: float | None
    finished: float | None
    children: list[str] = field(default_factory=list)
    message: str = ""


class Workflow:
    """Nodes for the tasks whose state is given, by task name, or (task name, round) in a loop."""

    def __init__(self, name: str, spec: Mapping[str, Any], states: Mapping[Any, State], rounds: int) -> None:
        self.name, self.spec, self.states, self.rounds = name, spec, states, rounds
        self.nodes: dict[str, Node] = {}
        self.clock = 0.0
        top = self._add(name, "entrypoint", "Running")
        driver = self._add("root-driver", "system-dag-driver", "Succeeded", 5)
        self.nodes[top].children.append(driver)
        root = self._add("root", "root", "Running")
        self.nodes[driver].children.append(root)
        self._dag(root, spec["root"]["dag"]["tasks"], None)

    def _add(self, display: str, template: str, phase: str, seconds: float = 0, message: str = "") -> str:
        # Argo hashes the node's full name; a counter in its place keeps names distinct and stable.
        key = f"{self.name}-{zlib.adler32(f'{len(self.nodes)}/{display}'.encode())}"
        started = None if phase in ("Pending", "Omitted") else self.clock
        self.clock += seconds
        finished = self.clock if phase in ("Succeeded", "Failed", "Skipped", "Error") else None
        self.nodes[key] = Node(display, template, phase, started, finished, message=message)
        return key

    def _dag(self, parent: str, tasks: Mapping[str, Any], turn: int | None) -> list[str]:
        """Nodes of the tasks of a DAG; the leaves that are left at its end."""
        leaves: dict[str, list[str]] = {}
        left = dict(tasks)
        while left:
            key = next(k for k, task in left.items() if not set(task.get("dependentTasks", [])) & set(left))
            task = left.pop(key)
            before = [leaf for other in task.get("dependentTasks", []) for leaf in leaves.get(other, [])]
            first, leaves[key] = self._task(key, task, turn)
            if task.get("triggerPolicy", {}).get("strategy"):  # at exit: a hook, a child of nobody
                if first:
                    self.nodes[self._add(f"{task['dependentTasks'][0]}.onExit", "hook", "Running")].children.append(
                        first
                    )
                continue
            for node in before or [parent]:
                if first:
                    self.nodes[node].children.append(first)
        waited = {other for task in tasks.values() for other in task.get("dependentTasks", [])}
        return [leaf for key, found in leaves.items() if key not in waited for leaf in found]

    def _task(self, key: str, task: Mapping[str, Any], turn: int | None) -> tuple[str | None, list[str]]:
        component = self.spec["components"][task["componentRef"]["name"]]
        if "parameterIterator" in task:
            return self._loop(key, component)
        if "dag" in component:
            return self._inner(key, component, turn)
        state = self.states.get((key, turn), self.states.get(key) if turn is None else None)
        if state is None:
            return None, []
        executors = self.spec["deploymentSpec"]["executors"]
        if "importer" in executors[component["executorLabel"]]:
            node = self._add(key, "system-importer", state.phase, 3, state.message)
            return node, [node]
        return self._container(key, state, retries="retryPolicy" in task)

    def _container(self, key: str, state: State, retries: bool) -> tuple[str, list[str]]:
        if state.phase.startswith("Driver"):
            driver = self._add(
                f"{key}-driver", "system-container-driver", state.phase.removeprefix("Driver"), 4, state.message
            )
            return driver, [driver]
        if state.phase == "Omitted":
            driver = self._add(f"{key}-driver", "system-container-driver", "Omitted")
            return driver, [driver]
        driver = self._add(f"{key}-driver", "system-container-driver", "Succeeded", 4)
        cached = state.phase == "Cached"
        whole = self._add(key, "system-container-executor", "Succeeded" if cached else state.phase)
        self.nodes[driver].children.append(whole)
        if cached:
            leaf = self._add("executor", "system-container-impl", "Skipped")
            self.nodes[whole].children.append(leaf)
        elif retries:
            retry = self._add("executor", "retry-system-container-impl", state.phase)
            self.nodes[whole].children.append(retry)
            for k in range(state.attempts):
                last = k == state.attempts - 1
                phase, said = (state.phase, state.message) if last else ("Failed", "")
                leaf = self._add(f"executor({k})", "retry-system-container-impl", phase, 60, said)
                self.nodes[retry].children.append(leaf)
        else:
            leaf = self._add("executor", "system-container-impl", state.phase, 60, state.message)
            self.nodes[whole].children.append(leaf)
        if self.nodes[leaf].finished is not None:
            self.nodes[whole].finished = self.clock
        return driver, [leaf]

    def _inner(self, key: str, component: Mapping[str, Any], turn: int | None, name: str = "") -> tuple[str, list[str]]:
        driver = self._add(f"{key}-driver", "system-dag-driver", "Succeeded", 4)
        node = self._add(key, name or key, "Running")
        self.nodes[driver].children.append(node)
        return driver, self._dag(node, component["dag"]["tasks"], turn) or [node]

    def _loop(self, key: str, component: Mapping[str, Any]) -> tuple[str | None, list[str]]:
        if not any(isinstance(name, tuple) for name in self.states):
            return None, []
        whole = self._add(key, f"{key}-iterator", "Running")
        driver = self._add("iteration-driver", "system-dag-driver", "Succeeded", 4)
        self.nodes[whole].children.append(driver)
        group = self._add("iteration-iterations", f"{key}-iteration", "Running")
        self.nodes[driver].children.append(group)
        leaves = []
        for turn in range(self.rounds):
            node = self._add(f"iteration-iterations({turn}:{turn})", f"{key}-iteration", "Running")
            self.nodes[group].children.append(node)
            first, inner = self._inner("iteration-item", component, turn, key)
            self.nodes[node].children.append(first)
            leaves += inner
        return whole, leaves

    def details(self, run_id: str) -> list[dict[str, Any]]:
        """As `task_details` of the API has them: sorted by id, pods named by template, phases in the API's words."""
        found = []
        for key, node in sorted(self.nodes.items()):
            number = key.rsplit("-", 1)[1]
            detail = {
                "run_id": run_id,
                "task_id": str(uuid.uuid5(uuid.NAMESPACE_OID, run_id + key)),
                "display_name": node.name,
                "create_time": moment(0),
                "start_time": moment(node.started),
                "end_time": moment(node.finished),
                "state": node.phase.upper() if node.phase in V2 else "RUNTIME_STATE_UNSPECIFIED",
                "pod_name": f"{self.name}-{node.template}-{number}",
                "child_tasks": [{"pod_name": child} for child in node.children],
            }
            if node.phase == "Error":
                detail["state"] = "FAILED"
            if node.message:
                detail["error"] = {"code": 2, "message": node.message}
            found.append(detail)
        return found


def moment(seconds: float | None) -> str:
    """RFC 3339, with whole seconds."""
    if seconds is None:
        return NEVER
    return (BEGIN + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
