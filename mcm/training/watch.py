"""What a run watches of itself: mean loss and gradient norm, and the first step that was not finite."""

import torch
from torch import Tensor

from mcm.errors import UserError
from mcm.training.config import TrainingConfig
from mcm.training.distributed import Processes


class Watch:
    """Sums of loss, gradient norm and count since the last log row, and the first step that was not finite.

    All stay on the device: a step never waits for them. Their total is part of a checkpoint, so that a resumed run logs
    the same rows: sums of float32 in float64 are exact, however they are split among processes.
    """

    def __init__(self, config: TrainingConfig, processes: Processes, total: Tensor | None, since: int = 0):
        """`total` is that of a checkpoint, `since` the steps that it counts, once for each process that there was."""
        self.config = config
        self.processes = processes
        self.sums = torch.zeros(3, dtype=torch.float64, device=processes.device)
        if total is not None and processes.leads and since:
            self.sums += (total * (processes.world_size * since / total[2])).to(processes.device)
        self.bad = torch.full((), -1, dtype=torch.int64, device=processes.device)

    def add(self, iteration: int, loss: Tensor, norm: Tensor) -> None:
        """Take in one step: the mean loss of this process's images and the norm of the whole gradient."""
        finite = torch.isfinite(loss) & torch.isfinite(norm)
        self.bad = torch.where((self.bad < 0) & ~finite, self.processes.number(iteration), self.bad)
        self.sums += torch.stack([loss, norm, torch.ones_like(loss)]).double()

    def total(self) -> Tensor:
        """Check the steps so far; the sums over all processes, `[3]`."""
        bad = int(self.bad)
        if bad >= 0:  # in every process alike: the gradient's norm is that of the averaged gradient
            raise UserError(
                f"training, iteration {bad} of seed {self.config.seed}: the loss or its gradient is not finite; "
                "lower learning_rate or clip_norm, or set precision to float32; checkpoints before it are kept"
            )
        return self.processes.total(self.sums)

    def row(self) -> dict[str, float]:
        """Mean loss and gradient norm since the last row, over all processes."""
        loss, norm, count = self.total().tolist()
        self.sums.zero_()
        return {"loss": loss / count, "gradient_norm": norm / count}
