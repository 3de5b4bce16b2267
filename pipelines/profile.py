"""Hardware profiles: for each stage, which accelerator, on which nodes, and how much of them. Data, one YAML file each.

A profile is checked when it is read: what no machine of `machines.yaml` can give is one line, before anything is
compiled. How to write one: `pipelines/profiles/README.md`.
"""

import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, field_validator

from components.kubeflow.launch import SPREAD
from mcm.config import Config, suggest
from mcm.errors import UserError
from pipelines.machines import Accelerator, Placement, Toleration, cpus, gibibytes, machines

FOLDER = Path(__file__).with_name("profiles")

# The stages in the order in which they run, and those that compute on an accelerator.
STAGES = (
    "plan",
    "prepare_data",
    "train_teacher",
    "estimate_variance",
    "train_student",
    "evaluate",
    "report",
    "conclude",
)
ACCELERATED = ("train_teacher", "estimate_variance", "train_student", "evaluate")


def _words(value: Any) -> Any:
    """YAML reads 2 as a number and true as a bool; Kubernetes wants both as words."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else value


Word = Annotated[str, BeforeValidator(_words)]


class Volume(Config):
    """A PersistentVolumeClaim with a profile's state: checkpoints, results, what was done before."""

    claim: str
    mount: str = Field(pattern="^/.+")
    sub_path: str = ""


class StageHardware(Config):
    """What one stage runs on. Counts and amounts are those of one node."""

    accelerator: str | None = Field(None, description="a row of machines.yaml")
    count: int = Field(0, ge=0, description="accelerators of a node")
    topology: str | None = Field(None, description="TPU slice, such as 2x4")
    machine: str | None = Field(None, description="GKE machine type; None takes any that fits")
    spot: bool = Field(False, description="on nodes that Google may take back")
    nodes: int = Field(1, ge=1)
    launcher: Literal["TrainJob", "JobSet"] | None = Field(None, description="runs it as a job")
    runtime: str = Field("torch-distributed", description="ClusterTrainingRuntime of a TrainJob")
    cpu_request: Word
    cpu_limit: Word | None = None
    memory_request: Word
    memory_limit: Word | None = Field(None, description="None is the request")
    shm: Word | None = Field(None, description="size of /dev/shm, which counts against the memory limit")
    node_selector: dict[str, Word] = Field({}, description="beside what accelerator, machine and spot ask for")
    tolerations: tuple[Toleration, ...] = ()
    queue: str | None = Field(None, description="Kueue LocalQueue")

    @field_validator("count", mode="before")
    @classmethod
    def _whole(cls, count: Any) -> Any:
        if isinstance(count, float) and not count.is_integer():
            raise ValueError("an accelerator is not divided; ask for a whole number")
        return count

    @field_validator("cpu_request", "cpu_limit")
    @classmethod
    def _cpu(cls, quantity: str | None) -> str | None:
        if quantity is not None:
            cpus(quantity)
        return quantity

    @field_validator("memory_request", "memory_limit", "shm")
    @classmethod
    def _memory(cls, quantity: str | None) -> str | None:
        if quantity is not None:
            gibibytes(quantity)
        return quantity

    @property
    def memory(self) -> str:
        """The memory limit."""
        return self.memory_limit or self.memory_request

    @property
    def kind(self) -> Accelerator | None:
        """The row of the accelerator."""
        return machines().accelerators[self.accelerator] if self.accelerator else None

    @property
    def place(self) -> Placement:
        """Selectors and tolerations, with those that accelerator, topology, machine and spot ask for."""
        parts: list[Placement] = [self.kind] if self.kind else []
        if self.spot:
            parts.append(machines().spot)
        labels: dict[str, str] = {}
        for part in parts:
            labels |= part.node_selector
        if self.topology:
            labels["cloud.google.com/gke-tpu-topology"] = self.topology
        if self.machine:
            labels["node.kubernetes.io/instance-type"] = self.machine
        tolerations = (*(entry for part in parts for entry in part.tolerations), *self.tolerations)
        return Placement(node_selector=labels | self.node_selector, tolerations=tolerations)


class Profile(Config):
    """A profile, resolved: the hardware of every stage."""

    name: str
    description: str
    platform: Literal["gke", "kubernetes"]
    image: Literal["cpu", "cuda", "tpu"]
    volume: Volume | None
    worker_account: str | None
    run_as_user: int
    pull_policy: Literal["Always", "IfNotPresent", "Never"]
    hardware: dict[str, StageHardware]
    waiting: StageHardware = Field(description="of a task that only waits for a job on other nodes")

    def stage(self, name: str) -> StageHardware:
        """The hardware of one stage."""
        if name not in self.hardware:
            raise UserError(f"profile '{self.name}': no stage '{name}'; {suggest(name, list(self.hardware))}")
        return self.hardware[name]


class _File(Config):
    """A profile as its file has it: `default`, and what single stages have otherwise."""

    description: str
    platform: Literal["gke", "kubernetes"]
    image: Literal["cpu", "cuda", "tpu"] = "cuda"
    volume: Volume | None = None
    worker_account: str | None = Field("mcm-worker", description="account of jobs' pods; None is the task's own")
    run_as_user: int = Field(10001, ge=1, description="user in the containers, that of the images")
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    default: dict[str, Any]
    stages: dict[str, dict[str, Any]] = Field({})


def profiles() -> dict[str, Profile]:
    """The profiles that come with the project, by name."""
    return {path.stem: load_profile(path.stem) for path in sorted(FOLDER.glob("*.yaml"))}


def load_profile(name_or_path: str | Path) -> Profile:
    """A profile of the project by its name, or one's own by the path of its YAML file. Checked."""
    word = str(name_or_path)
    if word.endswith((".yaml", ".yml")) or "/" in word:
        return _read(Path(word))
    known = [path.stem for path in sorted(FOLDER.glob("*.yaml"))]
    if word not in known:
        near = suggest(word, known)
        listed = near if near.startswith("known") else f"{near} known: {', '.join(known)}"
        raise UserError(f"profile '{word}': there is none of that name; {listed}; or give the path of a YAML file")
    return _project(word)


@functools.cache
def _project(name: str) -> Profile:
    return _read(FOLDER / f"{name}.yaml")


def _read(path: Path) -> Profile:
    where = f"profile '{path.stem}'"
    try:
        values = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path}: no such profile; write one as pipelines/profiles/README.md says") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not readable as YAML: {reason}; mend the file") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; name a profile's YAML file") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds no profile; write one as pipelines/profiles/README.md says")
    file = _File.parse(values, where)
    for stage in file.stages:
        if stage not in STAGES:
            raise UserError(f"{where}: unknown stage '{stage}'; {suggest(stage, list(STAGES))}")
    waiting = StageHardware.parse(file.default, f"{where}, default")
    hardware = {}
    for stage in STAGES:
        own = file.stages.get(stage, {})
        named = f"{where}, stage {stage}" if own else f"{where}, default"
        hardware[stage] = StageHardware.parse(_merged(file.default, own), named)
        _check(named, stage, hardware[stage], file)
    return Profile(
        name=path.stem,
        description=file.description,
        platform=file.platform,
        image=file.image,
        volume=file.volume,
        worker_account=file.worker_account,
        run_as_user=file.run_as_user,
        pull_policy=file.pull_policy,
        hardware=hardware,
        waiting=waiting,
    )


def _merged(default: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """A stage's values over the default's; mappings key by key."""
    merged = dict(default)
    for key, value in own.items():
        under = default.get(key)
        merged[key] = {**under, **value} if isinstance(under, dict) and isinstance(value, dict) else value
    return merged


def _check(where: str, stage: str, asked: StageHardware, file: _File) -> None:
    """One line for what the stage has no use for, and for what its accelerator or machine cannot give."""
    _check_amounts(where, asked)
    if asked.accelerator and stage not in ACCELERATED:
        raise UserError(f"{where}: {stage} computes on the CPU, and would hold {_what(asked)}; leave accelerator out")
    if asked.nodes > 1 and stage not in SPREAD:
        raise UserError(f"{where}: {stage} runs in one process, and would hold {asked.nodes} nodes; set nodes to 1")
    if asked.launcher and stage not in SPREAD:
        raise UserError(f"{where}: {stage} is a task's own, and launcher is for training; leave launcher out")
    if asked.spot and file.platform != "gke":
        raise UserError(f"{where}: spot is GKE's; on another cluster give node_selector and tolerations of your own")
    if asked.machine and (file.platform != "gke" or asked.machine not in machines().machines):
        near = suggest(asked.machine, list(machines().machines))
        raise UserError(f"{where}: unknown GKE machine '{asked.machine}'; {near}")
    if asked.accelerator:
        _check_accelerator(where, stage, asked, file)
    elif asked.topology:
        raise UserError(f"{where}: topology {asked.topology} without a TPU; leave it out")
    _check_room(where, asked)


def _check_amounts(where: str, asked: StageHardware) -> None:
    """The stage's own values agree with each other."""
    limit, shm = gibibytes(asked.memory), gibibytes(asked.shm or "0Gi")
    problem = None
    if (asked.accelerator is None) != (asked.count == 0):
        problem = f"accelerator {asked.accelerator} with count {asked.count}; give both or neither"
    elif asked.nodes > 1 and asked.launcher is None:
        problem = f"{asked.nodes} nodes without a launcher; set launcher to TrainJob or JobSet"
    elif asked.cpu_limit and cpus(asked.cpu_limit) < cpus(asked.cpu_request):
        problem = f"cpu_limit {asked.cpu_limit} is below cpu_request {asked.cpu_request}; raise it"
    elif limit < gibibytes(asked.memory_request):
        problem = f"memory_limit {asked.memory} is below memory_request {asked.memory_request}; raise it"
    elif shm > limit:
        problem = f"/dev/shm of {asked.shm} counts against a memory limit of {asked.memory}; raise that"
    if problem:
        raise UserError(f"{where}: {problem}")


def _check_accelerator(where: str, stage: str, asked: StageHardware, file: _File) -> None:
    name, known = str(asked.accelerator), machines().accelerators
    if name not in known:
        raise UserError(f"{where}: unknown accelerator '{name}'; {suggest(name, list(known))}")
    row = known[name]
    if row.platform != file.platform:
        others = ", ".join(key for key, other in known.items() if other.platform == file.platform)
        raise UserError(f"{where}: {name} is of platform {row.platform}, the profile of {file.platform}; use {others}")
    if file.image != {"gpu": "cuda", "tpu": "tpu"}[row.kind]:
        raise UserError(f"{where}: {name} is a {row.kind}, and image '{file.image}' is not for it; change image")
    carriers = machines().with_accelerator(name)
    if asked.machine and asked.machine not in carriers:
        raise UserError(f"{where}: {asked.machine} has no {name}; use one of {', '.join(carriers)}")
    counts = sorted({machine.count for machine in carriers.values()})
    if counts and asked.count not in counts:
        possible = " or ".join(filter(None, [", ".join(map(str, counts[:-1])), str(counts[-1])]))
        raise UserError(f"{where}: {asked.count} {name}, and a node has {possible} of them; ask for one of these")
    if asked.machine and asked.count != carriers[asked.machine].count:
        has = carriers[asked.machine].count
        raise UserError(f"{where}: {asked.count} {name} of {asked.machine}, which has {has}; ask for these")
    if row.kind == "tpu":
        _check_slice(where, asked)
    elif asked.topology:
        raise UserError(f"{where}: topology {asked.topology} without a TPU; leave it out")
    elif asked.count > 1 and stage not in SPREAD:
        raise UserError(f"{where}: {stage} runs in one process, and would hold {_what(asked)}; set count to 1")


def _check_slice(where: str, asked: StageHardware) -> None:
    """A TPU slice has as many chips as its hosts together, and its hosts are of a machine that forms it."""
    sides = (asked.topology or "").split("x")
    if not all(side.isdigit() for side in sides):
        raise UserError(f"{where}: topology {asked.topology} is no TPU slice; write it as GKE does, such as 2x4")
    chips = math.prod(map(int, sides))
    if chips != asked.nodes * asked.count:
        raise UserError(
            f"{where}: topology {asked.topology} has {chips} chips, and {asked.nodes} nodes of {asked.count} have "
            f"{asked.nodes * asked.count}; make them equal"
        )
    carriers = machines().with_accelerator(str(asked.accelerator))
    formed = {key for key, row in carriers.items() if row.count == asked.count and asked.topology in row.topologies}
    if not formed or (asked.machine and asked.machine not in formed):
        slices = ", ".join(f"{key}: {'/'.join(row.topologies)}" for key, row in carriers.items())
        raise UserError(f"{where}: no {asked.topology} of hosts with {asked.count} chips; there are {slices}")


def _check_room(where: str, asked: StageHardware) -> None:
    """Requests fit on a node of some machine that can be meant. Nothing is known of machines beyond GKE's."""
    table = machines()
    if asked.machine:
        meant = [asked.machine]
    elif asked.accelerator:
        meant = [
            key
            for key, row in table.with_accelerator(asked.accelerator).items()
            if row.count >= asked.count and (not asked.topology or asked.topology in row.topologies)
        ]
    else:
        meant = []
    rooms = {key: table.allocatable(key) for key in meant}
    cpu, memory = cpus(asked.cpu_request), gibibytes(asked.memory_request)
    if rooms and not any(cpu <= room.cpu and memory <= room.memory for room in rooms.values()):
        largest = max(rooms, key=lambda key: (rooms[key].cpu, rooms[key].memory))
        room = rooms[largest]
        raise UserError(
            f"{where}: {asked.cpu_request} CPUs and {asked.memory_request}, and a pod can have {room.cpu:.1f} CPUs and "
            f"{math.floor(room.memory)}Gi of {largest}; ask for less"
        )


def _what(asked: StageHardware) -> str:
    return f"{asked.count} {asked.accelerator}"
