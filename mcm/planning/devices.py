"""Accelerators by what their vendors' data sheets say: memory, and the peak of dense matrix products.

Sources (nvidia.com and cloud.google.com, data sheets and system architecture pages): NVIDIA L4, A100, H100 and H200
Tensor Core GPU data sheets, where bf16 is given with sparsity and half of it is dense; "TPU v5e" and "TPU v6e" of the
Cloud TPU documentation. The CPU's row was measured on 2 cores with AVX-512 and bf16 instructions, by matrix products.
"""

from dataclasses import dataclass
from typing import Literal

GIB = 2**30
USABLE = 0.92  # of a device's memory: the rest is for its context, libraries' workspaces, and gaps between blocks


@dataclass(frozen=True)
class Device:
    """One kind of device. `mfu` is assumed where none is given: the share of the peak that training reaches."""

    name: str
    memory: float  # GiB
    bf16: float  # FLOP/s
    float32: float | None  # FLOP/s without reduced precision; None where the vendor states none
    kind: Literal["cpu", "gpu"] = "gpu"  # whose step is traced
    mfu: float = 0.40
    accelerator: str = ""  # its name among a cloud's machines

    @property
    def usable(self) -> float:
        """Bytes that a plan may fill."""
        return self.memory * GIB * USABLE

    def peak(self, bf16: bool) -> float | None:
        """FLOP/s of the precision."""
        return self.bf16 if bf16 else self.float32


DEVICES: dict[str, Device] = {
    device.name: device
    for device in (
        Device("l4", 24, 121e12, 30.3e12, accelerator="l4"),
        Device("a100-40", 40, 312e12, 19.5e12, accelerator="a100-40gb"),
        Device("a100-80", 80, 312e12, 19.5e12, accelerator="a100-80gb"),
        Device("h100", 80, 989e12, 67e12, accelerator="h100-80gb"),
        Device("h200", 141, 989e12, 67e12),
        Device("tpu-v5e", 16, 197e12, None, accelerator="tpu-v5e"),
        Device("tpu-v6e", 32, 918e12, None, accelerator="tpu-v6e"),
        Device("cpu", 16, 375e9, 167e9, kind="cpu", mfu=0.60),
    )
}
