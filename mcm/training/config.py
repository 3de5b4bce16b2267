"""What the training loop reads from `params.yaml`, the same for every method."""

from typing import Literal

from pydantic import Field, model_validator

from mcm.config import Config


class TrainingConfig(Config):
    """Optimisation of one network. Iterations count optimizer steps; the batch is global, over all processes."""

    seed: int = Field(0, ge=0)
    iterations: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    accumulate: int = Field(1, ge=1, description="micro-batches a process splits its part of the batch into")
    mirror: bool = Field(False, description="flip half of the images left to right")
    learning_rate: float = Field(gt=0)
    warmup: int = Field(0, ge=0, description="iterations of linear warm-up")
    decay: float = Field(0.0, ge=0, le=1, description="last fraction of the run over which the rate falls to 0")
    adam_betas: tuple[float, float] = (0.9, 0.99)
    adam_epsilon: float = Field(1e-8, gt=0)
    clip_norm: float = Field(1.0, gt=0)
    emas: tuple[float, ...] = Field((0.9999,), min_length=1, description="decays; the first is the default to sample")
    precision: Literal["float32", "bf16"] = "float32"
    compile: bool = Field(False, description="torch.compile the network")
    recompute: bool = Field(False, description="keep no activations within blocks, compute them again: less memory")
    parallel: Literal["ddp", "fsdp"] = Field(
        "ddp", description="several processes: each a whole copy of the state, or (fsdp) each a part of it"
    )
    workers: int = Field(0, ge=0, description="data-loader processes; changes no bit of the result")
    log_every: int = Field(50, ge=1)
    checkpoint_every: int = Field(500, ge=1)
    keep_checkpoints: int = Field(2, ge=1)
    sample_every: int = Field(0, ge=0, description="iterations between sample grids in TensorBoard; 0 is never")

    @model_validator(mode="after")
    def _consistent(self) -> "TrainingConfig":
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size {self.batch_size} does not split into {self.accumulate} micro-batches")
        if any(not 0 <= decay < 1 for decay in self.emas):
            raise ValueError(f"an EMA decay lies in [0, 1), and emas are {self.emas}")
        return self

    def learning_rate_at(self, iteration: int) -> float:
        """Linear warm-up, constant, then linear to 0 over the last `decay` of the run."""
        rate = self.learning_rate
        if iteration < self.warmup:
            rate *= (iteration + 1) / self.warmup
        falling = self.decay * self.iterations
        if falling:
            rate *= min(1.0, (self.iterations - iteration) / falling)
        return rate
