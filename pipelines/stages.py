"""The stages of a run as rows: what Kubeflow's many nodes of one task come to, in the order of the pipeline."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

# Argo's node names. A task `x` is a node `x-driver`, which looks into the cache, and a node `x` that holds `executor`.
# With retries `executor` has children `executor(0)`, `executor(1)`, ...; on a cache hit `executor` is skipped.
# A loop's rounds are nodes such as `iteration-iterations(3:3)`. A node lists as its children what it encloses or, where
# it is a leaf, what waits for it: only an executor and its attempts are sure to have no parent but the enclosing one.
DRIVER = "-driver"
ATTEMPT = re.compile(r"^executor(?:\((\d+)\))?$")
ROUND = re.compile(r"^iterations?(?:-[a-z]+)*\((\d+)(?::[^)]*)?\)$")
FINAL = ("SUCCEEDED", "SKIPPED", "FAILED", "CANCELED", "NOT RUN")


@dataclass
class Row:
    """One stage of one run. `state` is KFP's word, or WAITING (not begun yet) or NOT RUN (the run ended before)."""

    stage: str
    state: str = "WAITING"
    student: str | None = None
    started: datetime | None = None
    finished: datetime | None = None
    attempts: int = 0
    attempts_allowed: int = 1
    cached: bool = False
    pods: list[str] = field(default_factory=list)
    message: str = ""

    @property
    def name(self) -> str:
        return f"{self.stage} {self.student}" if self.student else self.stage

    @property
    def pod(self) -> str | None:
        """The pod of the newest attempt."""
        return self.pods[-1] if self.pods else None

    def seconds(self, now: datetime) -> float | None:
        """From the start of the first attempt to the end, or to now."""
        return ((self.finished or now) - self.started).total_seconds() if self.started else None

    def json(self) -> dict[str, Any]:
        values = asdict(self)
        del values["pods"]
        for name in ("started", "finished"):
            values[name] = values[name].isoformat() if values[name] else None
        seconds = self.seconds(datetime.now(UTC)) if self.finished else None
        return {"name": self.name, **values, "seconds": seconds, "pod": self.pod}


@dataclass(frozen=True)
class Task:
    """A task as the pipeline's specification has it."""

    key: str
    title: str
    looped: bool
    attempts: int
    importer: bool


def students(run: Any) -> list[str]:
    """Names of the students in the order of the loop's rounds: methods outermost, steps within."""
    given = ((run.runtime_config and run.runtime_config.parameters) or {}).get("students")
    if given is None:
        inputs = spec_of(run).get("root", {}).get("inputDefinitions", {}).get("parameters", {})
        given = inputs.get("students", {}).get("defaultValue")
    if not isinstance(given, Mapping):
        return []
    try:
        return [f"{method}-{int(steps)}" for method in given["methods"] for steps in given["steps"]]
    except (KeyError, TypeError, ValueError):
        return []


def tasks(spec: Mapping[str, Any]) -> list[Task]:
    """The tasks that run something, in an order in which they can run; what runs at exit comes last."""
    return list(_tasks(spec, spec.get("root", {}), looped=False))


def _tasks(spec: Mapping[str, Any], component: Mapping[str, Any], looped: bool) -> Iterator[Task]:
    components = spec.get("components", {})
    executors = spec.get("deploymentSpec", {}).get("executors", {})
    for key, task in _sorted(component.get("dag", {}).get("tasks", {})):
        inner = components.get(task.get("componentRef", {}).get("name"), {})
        within = looped or "parameterIterator" in task or "artifactIterator" in task
        if "dag" in inner:
            yield from _tasks(spec, inner, within)
        else:
            retries = int(task.get("retryPolicy", {}).get("maxRetryCount", 0))
            title = task.get("taskInfo", {}).get("name") or key
            importer = "importer" in executors.get(inner.get("executorLabel"), {})
            yield Task(key, title, within, 1 + retries, importer)


def _sorted(listed: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Tasks of one DAG, each after those that it depends on; equals by name; those that run at exit last."""
    left, done, order = dict(sorted(listed.items())), set(), []
    exits = {key for key, task in left.items() if task.get("triggerPolicy", {}).get("strategy")}
    while left:
        ready = [key for key in left if not (set(left[key].get("dependentTasks", [])) & set(left)) - {key}]
        key = min(ready or left, key=lambda key: (key in exits, key))
        order.append((key, left.pop(key)))
        done.add(key)
    return order


def rows(run: Any) -> list[Row]:
    """The stages of a run: begun, ahead and skipped, each attempt and driver counted to its task."""
    nodes = _Nodes((run.run_details and run.run_details.task_details) or [])
    names = students(run)
    over = str(run.state) in FINAL
    found: list[Row] = []
    claimed: set[int] = set()
    for looped, group in _groups(tasks(spec_of(run))):
        for turn in range(len(names) or nodes.turns) if looped else (None,):
            for task in group:
                row = Row(task.title, attempts_allowed=task.attempts, student=_student(names, turn, nodes))
                claimed |= nodes.fill(row, task, turn)
                if over and row.state in ("WAITING", "PENDING"):
                    row.state = "NOT RUN"
                found.append(row)
    return found + nodes.failed_drivers(claimed)


def _groups(listed: list[Task]) -> Iterator[tuple[bool, list[Task]]]:
    """Runs of tasks that are in the loop, or not: the table shows a student's stages one below the other."""
    group: list[Task] = []
    for task in listed:
        if group and group[-1].looped != task.looped:
            yield group[0].looped, group
            group = []
        group.append(task)
    if group:
        yield group[0].looped, group


def _student(names: list[str], turn: int | None, nodes: "_Nodes") -> str | None:
    if turn is None:
        return None
    # Where the server does not say which round is which, no student's name is put to it.
    return names[turn] if turn < len(names) and nodes.linked else f"#{turn}"


def spec_of(run: Any) -> Mapping[str, Any]:
    """The pipeline's specification, with or without a platform's beside it; empty where the run names one by id."""
    spec = run.pipeline_spec or {}
    return spec.get("pipeline_spec", spec) if isinstance(spec, Mapping) else {}


class _Nodes:
    """The workflow's nodes as `task_details` lists them, with who lists whom as a child."""

    def __init__(self, details: list[Any]) -> None:
        self.details = details
        self.parents: dict[int, list[int]] = {}
        by_name = {name: k for k, detail in enumerate(details) for name in _names(detail)}
        for k, detail in enumerate(details):
            for child in detail.child_tasks or []:
                for name in (child.task_id, _hash(child.pod_name)):
                    if name in by_name:
                        self.parents.setdefault(by_name[name], []).append(k)
            if detail.parent_task_id in by_name:
                self.parents.setdefault(k, []).append(by_name[detail.parent_task_id])
        self.linked = bool(self.parents) or not details
        self._turns = [self._turn(k) for k in range(len(details))]
        self.turns = 1 + max((turn for turn in self._turns if turn is not None), default=-1)

    def _turn(self, start: int) -> int | None:
        """The round of the loop that a node is in, if it is in the loop: the nearest round above."""
        seen, near = {start}, [start]
        while near:
            for k in near:
                if match := ROUND.match(self.details[k].display_name or ""):
                    return int(match[1])
            near = [k for k in {above for k in near for above in self.parents.get(k, [])} if k not in seen]
            seen |= set(near)
        return None

    def _named(self, name: str, turn: int | None) -> list[int]:
        """Nodes of that name; in that round, or the one of that rank where the server links no nodes."""
        named = [k for k, detail in enumerate(self.details) if detail.display_name == name]
        if turn is None:
            return named
        if self.linked:
            return [k for k in named if self._turns[k] == turn]
        return sorted(named, key=self._start)[turn : turn + 1]

    def _start(self, k: int) -> tuple[datetime, int]:
        return _time(self.details[k].start_time) or datetime.max.replace(tzinfo=UTC), k

    def _attempts(self, parents: list[int]) -> list[int]:
        """The executors directly within; the attempts of one that has them."""
        within = [k for k, above in self.parents.items() if set(above) & set(parents)]
        found = [k for k in within if ATTEMPT.match(self.details[k].display_name or "")]
        return sorted((self._attempts(found) or found) if found else [], key=self._start)

    def fill(self, row: Row, task: Task, turn: int | None) -> set[int]:
        """Put a task's nodes into its row; which ones they were."""
        drivers, wholes = self._named(task.key + DRIVER, turn), self._named(task.key, turn)
        attempts = wholes if task.importer else self._attempts(wholes)
        ran = [k for k in attempts if str(self.details[k].state) != "SKIPPED"]
        row.attempts = len(ran)
        if wholes:
            row.state = str(self.details[wholes[-1]].state)
        elif drivers:
            # The driver's own success only means that the task is about to begin.
            state = str(self.details[drivers[-1]].state)
            row.state = "PENDING" if state in ("RUNNING", "SUCCEEDED") else state
        if row.state == "RUNTIME_STATE_UNSPECIFIED":  # Argo's "Omitted": what it waited for did not come
            row.state = "NOT RUN"
        if attempts and not ran and row.state in ("SUCCEEDED", "SKIPPED"):
            row.cached, row.state = True, "SUCCEEDED"
        # A driver's pod says something only where the task got no further.
        speaking = ran or [k for k in drivers if row.state == "FAILED"]
        row.pods = [name for k in speaking if (name := self.details[k].pod_name)]
        timed = ran or (wholes if row.attempts else drivers)
        row.started = min((t for k in timed if (t := _time(self.details[k].start_time))), default=None)
        if row.state in FINAL:
            row.finished = max((t for k in timed if (t := _time(self.details[k].end_time))), default=None)
        mine = [*ran[::-1], *wholes, *drivers]
        row.message = next((said for k in mine if (said := _said(self.details[k]))), "")
        return {*drivers, *wholes, *attempts}

    def failed_drivers(self, claimed: set[int]) -> list[Row]:
        """What failed beside all tasks: the pipeline's or the loop's own start."""
        found = []
        for k, detail in enumerate(self.details):
            name = detail.display_name or ""
            if k not in claimed and name.endswith(DRIVER) and str(detail.state) == "FAILED":
                row = Row(name, "FAILED", started=_time(detail.start_time), finished=_time(detail.end_time), attempts=1)
                row.pods, row.message = [detail.pod_name] if detail.pod_name else [], _said(detail)
                found.append(row)
        return found


def _names(detail: Any) -> list[str]:
    """What other nodes may call this one. A pod's name is its node's id with the template's name in the middle."""
    return [name for name in (detail.task_id, _hash(detail.pod_name)) if name]


def _hash(name: str | None) -> str | None:
    return f"-{name.rsplit('-', 1)[-1]}" if name else None


def _said(detail: Any) -> str:
    return str((detail.error and detail.error.message) or "")


def _time(value: Any) -> datetime | None:
    """A time that happened; for those to come, the server gives the beginning of its era, or of ours."""
    if not isinstance(value, datetime) or value.year < 2000:
        return None
    return value if value.tzinfo else value.replace(tzinfo=UTC)
