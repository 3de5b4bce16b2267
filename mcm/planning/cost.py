"""Time and money of a run, from its FLOPs: `hours = FLOPs / (devices x peak x MFU)`; and what the paper's speeds imply.

MFU, the share of the peak that model FLOPs take, is an assumption of a plan. The paper states steps per second on TPU
v5e (App. A), so that its own MFU follows from the FLOPs counted here: the check that both are of the right size.
"""

from dataclasses import dataclass

from mcm.networks.presets import PRESETS, NetworkConfig
from mcm.planning.devices import DEVICES
from mcm.planning.flops import forward_flops, step_flops
from mcm.planning.trace import PASSES, MethodName


@dataclass(frozen=True)
class Work:
    """What a run computes."""

    network: NetworkConfig
    method: MethodName
    iterations: int
    batch: int
    recompute: bool = False

    @property
    def flops(self) -> int:
        """Model FLOPs of the whole run."""
        return self.iterations * self.batch * step_flops(self.network, PASSES[self.method])

    def hours(self, devices: int, peak: float, mfu: float) -> float:
        """Wall time on `devices` that each compute `peak` FLOP/s at best and `mfu` of it in training.

        Recomputation adds a forward pass to the work, though not to the model's FLOPs.
        """
        again = self.iterations * self.batch * forward_flops(self.network) if self.recompute else 0
        return (self.flops + again) / (devices * peak * mfu) / 3600


@dataclass(frozen=True)
class Stated:
    """A speed that the paper states: steps per second at batch 2048 on so many TPU v5e chips."""

    preset: str
    method: MethodName
    chips: int
    steps_per_second: float

    BATCH = 2048

    @property
    def mfu(self) -> float:
        """The share of the chips' bf16 peak that these steps take."""
        flops = step_flops(PRESETS[self.preset], PASSES[self.method]) * self.BATCH
        return flops * self.steps_per_second / (self.chips * DEVICES["tpu-v5e"].bf16)


PAPER = (
    Stated("imagenet64_small", "ct", 64, 2.7),
    Stated("imagenet64_small", "cd", 64, 2.5),
    Stated("imagenet64_large", "ct", 256, 2.9),
    Stated("imagenet64_large", "cd", 256, 2.5),
    Stated("imagenet128_small", "ct", 64, 2.2),
    Stated("imagenet128_small", "cd", 64, 1.7),
    Stated("imagenet128_large", "ct", 256, 2.2),
    Stated("imagenet128_large", "cd", 256, 1.8),
)
