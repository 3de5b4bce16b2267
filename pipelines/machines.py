"""What accelerators and machines there are, from `machines.yaml`, and what a pod can have of one."""

import functools
import re
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field

from mcm.config import Config

TABLE = Path(__file__).with_name("machines.yaml")

# GKE keeps this share of a node for itself: (up to so many, share) of vCPUs and of GiB, and 100 MiB for eviction.
# Source: cloud.google.com/kubernetes-engine/docs/concepts/plan-node-sizes.
RESERVED_CPU = ((1, 0.06), (2, 0.01), (4, 0.005), (float("inf"), 0.0025))
RESERVED_MEMORY = ((4, 0.25), (8, 0.20), (16, 0.10), (128, 0.06), (float("inf"), 0.02))
EVICTION_GIB = 100 / 1024

UNITS = {"Ki": 2**-20, "Mi": 2**-10, "Gi": 1.0, "Ti": 2.0**10}


class Toleration(Config):
    """A taint that pods put up with, as Kubernetes has it."""

    key: str
    operator: Literal["Equal", "Exists"] = "Exists"
    value: str = ""
    effect: Literal["NoSchedule", "NoExecute", "PreferNoSchedule"] | None = None

    def manifest(self) -> dict[str, str]:
        """As it stands in a pod."""
        return {key: value for key, value in self.resolved().items() if value}


class Placement(Config):
    """Where pods go: labels that a node must have, taints they put up with."""

    node_selector: dict[str, str] = Field({})
    tolerations: tuple[Toleration, ...] = ()


class Accelerator(Placement):
    """One kind of accelerator: its resource name in Kubernetes and how its nodes are found."""

    platform: Literal["gke", "kubernetes"]
    kind: Literal["gpu", "tpu"]
    resource: str
    price: float | None = Field(None, gt=0, description="dollars an hour for one, with its part of a machine")


class Machine(Config):
    """A GKE machine type: vCPUs, memory in GiB, accelerators and, for TPUs, the slices it is a host of."""

    accelerator: str | None = None
    count: int = 0
    cpu: int
    memory: int
    topologies: tuple[str, ...] = ()


class Amount(Config):
    """CPUs, and memory in GiB."""

    cpu: float = Field(ge=0)
    memory: float = Field(ge=0)


class Machines(Config):
    """The whole table."""

    daemonsets: Amount
    spot: Placement
    accelerators: dict[str, Accelerator]
    machines: dict[str, Machine]

    def allocatable(self, machine: str) -> Amount:
        """What one pod can have of a node of this type: CPUs, GiB."""
        row = self.machines[machine]
        return Amount(
            cpu=row.cpu - _share(row.cpu, RESERVED_CPU) - self.daemonsets.cpu,
            memory=row.memory - _share(row.memory, RESERVED_MEMORY) - EVICTION_GIB - self.daemonsets.memory,
        )

    def with_accelerator(self, name: str) -> dict[str, Machine]:
        """The machine types that carry an accelerator."""
        return {key: row for key, row in self.machines.items() if row.accelerator == name}


@functools.cache
def machines() -> Machines:
    """The table of `machines.yaml`."""
    values: dict[str, Any] = yaml.safe_load(TABLE.read_text())
    return Machines.parse(values, TABLE.name)


def cpus(quantity: str) -> float:
    """CPUs of a Kubernetes quantity: `2`, `0.5`, `500m`. ValueError for anything else."""
    if not re.fullmatch(r"\d+m|\d+(\.\d+)?", quantity):
        raise ValueError(f"'{quantity}' is no amount of CPUs; write 2, 0.5 or 500m")
    return int(quantity[:-1]) / 1000 if quantity.endswith("m") else float(quantity)


def gibibytes(quantity: str) -> float:
    """GiB of a Kubernetes quantity with a binary unit: `512Mi`, `64Gi`. ValueError for anything else."""
    if not re.fullmatch(r"\d+(Ki|Mi|Gi|Ti)", quantity):
        raise ValueError(f"'{quantity}' is no amount of memory; write 512Mi, 64Gi or 1Ti")
    return int(quantity[:-2]) * UNITS[quantity[-2:]]


def _share(amount: float, brackets: tuple[tuple[float, float], ...]) -> float:
    """Tax by brackets."""
    total, below = 0.0, 0.0
    for top, rate in brackets:
        total += max(0.0, min(amount, top) - below) * rate
        below = top
    return total
