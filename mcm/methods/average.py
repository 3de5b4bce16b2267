"""The student's own EMA as the network of its target: TRACT's self-teacher, the target network of CM."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from mcm.denoiser import Predictor, innermost
from mcm.errors import UserError


@dataclass(frozen=True)
class Average:
    """The EMA of one decay, as training moves it; `key` is the parameter that asks for it, which errors name."""

    key: str
    decay: float
    _weights: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def check(self, training: Mapping[str, Any]) -> None:
        """UserError where a run with these parameters (`TrainingConfig`) does not keep it whole."""
        self._check_kept(f"{decay:g}" for decay in training.get("emas", [self.decay]))
        if training.get("parallel") == "fsdp":
            raise UserError(f"{self.key} asks for an EMA of whole weights, and fsdp keeps parts; set parallel to ddp")

    def follow(self, emas: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Keep its tensors, which training goes on to update in place (`FollowsEMAs`); UserError where none are."""
        self._check_kept(name.removeprefix("ema_") for name in emas)
        self._weights.update(emas[f"ema_{self.decay:g}"])

    def _check_kept(self, decays: Iterable[str]) -> None:
        known, decay = list(decays), f"{self.decay:g}"
        if decay not in known:
            raise UserError(
                f"{self.key} is {decay}, and emas are {', '.join(known)}; "
                f"add {decay} to emas, behind the decay to sample with"
            )

    def of(self, student: Predictor) -> Predictor:
        """The student with these weights.

        Its wrappers are left out: a compiled program would be compiled anew for tensors that are no parameters, and DDP
        expects a backward pass.
        """
        network = innermost(student)
        assert isinstance(network, nn.Module), "the EMA of a student is one of its parameters"
        return lambda *inputs: functional_call(network, self._weights, inputs)
