"""Nodes as clusters have them: labels, taints and what is left for pods, of every kind that a profile may name.

Written from the providers' pages and not from the project's own tables, so that a wrong name there finds no node here.
Labels and taints: docs.cloud.google.com/kubernetes-engine/docs/how-to/{gpus,tpus,spot-vms}; sizes:
docs.cloud.google.com/compute/docs/accelerator-optimized-machines and .../tpu/docs/{v5e,v6e}; what a node keeps for
itself: .../kubernetes-engine/docs/concepts/plan-node-sizes; the last but one: what NVIDIA's GPU operator labels. GKE
labels spot nodes and does not taint them; docs/kubernetes.md makes its pools with the taint that GKE's page recommends.
"""

from dataclasses import dataclass, field
from typing import Any

GPU, TPU = "nvidia.com/gpu", "google.com/tpu"
DAEMONS = {"cpu": 0.5, "memory": 1.0}  # requests of the logging, metrics, network and device daemons of a GKE node


@dataclass(frozen=True)
class Kind:
    """One kind of node: a machine, how it is bought, and where it stands."""

    machine: str
    cpu: int
    memory: float  # GiB
    resource: str = ""
    count: int = 0
    labels: dict[str, str] = field(default_factory=dict)
    taints: tuple[tuple[str, str], ...] = ()
    spot: bool = False
    gke: bool = True
    nodes: int = 2

    @property
    def name(self) -> str:
        topology = self.labels.get("cloud.google.com/gke-tpu-topology", "")
        return "-".join(word for word in (self.machine, topology, "spot" if self.spot else "") if word)

    def build(self, number: int) -> dict[str, Any]:
        """The Node object, ready, with capacity and allocatable in its status."""
        name = f"{self.name}-{number}"
        labels = {
            "kubernetes.io/hostname": name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64",
            "node.kubernetes.io/instance-type": self.machine,
            "topology.kubernetes.io/zone": "us-central1-a",
            "test/kind": self.name,
            **self.labels,
        }
        taints = [{"key": key, "value": value, "effect": "NoSchedule"} for key, value in self.taints]
        if self.gke:
            labels["cloud.google.com/gke-nodepool"] = self.name
            labels["cloud.google.com/machine-family"] = self.machine.split("-")[0]
            labels["cloud.google.com/gke-provisioning"] = "spot" if self.spot else "standard"
        if self.spot:
            labels["cloud.google.com/gke-spot"] = "true"
            taints.append({"key": "cloud.google.com/gke-spot", "value": "true", "effect": "NoSchedule"})
        extra = {self.resource: str(self.count)} if self.resource else {}
        disk = {"ephemeral-storage": "200Gi", "pods": "110"}
        return {
            "metadata": {"name": name, "labels": labels},
            "spec": {"taints": taints},
            "status": {
                "capacity": {"cpu": str(self.cpu), "memory": f"{self.memory:g}Gi", **disk, **extra},
                "allocatable": {
                    "cpu": f"{1000 * (self.cpu - reserved_cpu(self.cpu) - DAEMONS['cpu']):.0f}m",
                    "memory": f"{1024 * (self.memory - reserved_memory(self.memory) - DAEMONS['memory']):.0f}Mi",
                    **{**disk, "ephemeral-storage": "150Gi"},
                    **extra,
                },
                "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
            },
        }


def reserved_cpu(cores: float) -> float:
    """vCPUs that a GKE node keeps: 6% of the first, 1% of the second, 0.5% of the next two, 0.25% of the rest."""
    shares = ((1, 0.06), (1, 0.01), (2, 0.005), (float("inf"), 0.0025))
    return _tiers(cores, shares)


def reserved_memory(gib: float) -> float:
    """GiB that a GKE node keeps: 25% of the first 4, 20% of the next 4, 10% of 8, 6% of 112, 2% of more; 100 MiB."""
    shares = ((4, 0.25), (4, 0.20), (8, 0.10), (112, 0.06), (float("inf"), 0.02))
    return _tiers(gib, shares) + 100 / 1024


def _tiers(amount: float, shares: tuple[tuple[float, float], ...]) -> float:
    total = 0.0
    for width, share in shares:
        total += min(amount, width) * share
        amount = max(0.0, amount - width)
    return total


def _gpu(machine: str, cpu: int, memory: float, label: str, count: int, spot: bool) -> Kind:
    labels = {
        "cloud.google.com/gke-accelerator": label,
        "cloud.google.com/gke-accelerator-count": str(count),
        "cloud.google.com/gke-gpu": "true",
    }
    return Kind(machine, cpu, memory, GPU, count, labels, ((GPU, "present"),), spot)


def _tpu(machine: str, cpu: int, memory: float, label: str, chips: int, topology: str, nodes: int, spot: bool) -> Kind:
    labels = {
        "cloud.google.com/gke-tpu-accelerator": label,
        "cloud.google.com/gke-tpu-topology": topology,
        "cloud.google.com/gke-accelerator-count": str(chips),
    }
    return Kind(machine, cpu, memory, TPU, chips, labels, ((TPU, "present"),), spot, nodes=nodes)


def kinds() -> list[Kind]:
    """Every kind of node that is offered to the scheduler at once, each bought at list price and as spot."""
    made = []
    for spot in (False, True):
        made += [
            Kind("e2-standard-4", 4, 16, spot=spot, nodes=4),
            Kind("e2-standard-16", 16, 64, spot=spot, nodes=4),
            Kind("n2-standard-32", 32, 128, spot=spot),
            _gpu("g2-standard-8", 8, 32, "nvidia-l4", 1, spot),
            _gpu("g2-standard-12", 12, 48, "nvidia-l4", 1, spot),
            _gpu("g2-standard-16", 16, 64, "nvidia-l4", 1, spot),
            _gpu("g2-standard-96", 96, 384, "nvidia-l4", 8, spot),
            _gpu("a2-highgpu-1g", 12, 85, "nvidia-tesla-a100", 1, spot),
            _gpu("a2-highgpu-8g", 96, 680, "nvidia-tesla-a100", 8, spot),
            _gpu("a2-ultragpu-1g", 12, 170, "nvidia-a100-80gb", 1, spot),
            _gpu("a2-ultragpu-8g", 96, 1360, "nvidia-a100-80gb", 8, spot),
            _gpu("a3-highgpu-1g", 26, 234, "nvidia-h100-80gb", 1, spot),
            _gpu("a3-highgpu-8g", 208, 1872, "nvidia-h100-80gb", 8, spot),
            # Larger ones of other makes, which a pod without its selector would fit on.
            _gpu("a3-megagpu-8g", 208, 1872, "nvidia-h100-mega-80gb", 8, spot),
            _gpu("a3-ultragpu-8g", 224, 2952, "nvidia-h200-141gb", 8, spot),
            _tpu("ct5p-hightpu-4t", 208, 448, "tpu-v5p-slice", 4, "2x2x2", 2, spot),
            _tpu("ct5lp-hightpu-1t", 24, 48, "tpu-v5-lite-podslice", 1, "1x1", 1, spot),
            _tpu("ct5lp-hightpu-4t", 112, 192, "tpu-v5-lite-podslice", 4, "2x2", 1, spot),
            _tpu("ct5lp-hightpu-4t", 112, 192, "tpu-v5-lite-podslice", 4, "2x4", 2, spot),
            _tpu("ct5lp-hightpu-8t", 224, 384, "tpu-v5-lite-podslice", 8, "2x4", 1, spot),
            _tpu("ct6e-standard-1t", 44, 176, "tpu-v6e-slice", 1, "1x1", 1, spot),
            _tpu("ct6e-standard-4t", 180, 720, "tpu-v6e-slice", 4, "2x2", 1, spot),
            _tpu("ct6e-standard-4t", 180, 720, "tpu-v6e-slice", 4, "2x4", 2, spot),
            _tpu("ct6e-standard-4t", 180, 720, "tpu-v6e-slice", 4, "4x4", 4, spot),
            _tpu("ct6e-standard-8t", 180, 1440, "tpu-v6e-slice", 8, "2x4", 1, spot),
        ]
    operator = {"nvidia.com/gpu.present": "true", "nvidia.com/gpu.product": "NVIDIA-RTX-6000-Ada-Generation"}
    return [
        *made,
        Kind("gpu-server", 32, 256, GPU, 2, operator, ((GPU, "present"),), gke=False),
        Kind("cpu-server", 32, 128, gke=False),
    ]
