"""Section `exact` of parameters: which mixture, the network that students start from, how they are measured."""

from pydantic import Field, field_validator

from mcm.config import Config
from mcm.mixtures import MIXTURES, mixture
from mcm.networks.mlp import MLPConfig
from mcm.training.config import TrainingConfig


class Shape(Config):
    """Of the MLP that the start and every student are."""

    width: int = Field(64, ge=1)
    blocks: int = Field(3, ge=1)
    embedding: int = Field(64, ge=2)

    def network(self, dimensions: int) -> MLPConfig:
        return MLPConfig(dimensions, **self.model_dump())


class Counts(Config):
    """How samples are measured. `seed` is that of the noise, of the data to compare with, and of samplers' draws."""

    seed: int = Field(0, ge=0)
    samples: int = Field(2000, ge=2, description="points, and of the data as many")
    flow_steps: int = Field(64, ge=2, description="Runge-Kutta steps of the exact map")
    x_var_frac: float = Field(0.75, ge=0, description="eta of the measured x_var")
    x_var_points: int = Field(512, ge=2, description="points for each time of it")
    points: int = Field(256, ge=1, description="samples that are kept")
    trajectories: int = Field(32, ge=0, description="ways that are kept, in 1 and 2 dimensions")


class ExactConfig(Config):
    """The whole section."""

    mixture: str = Field(description=f"a row of mcm.mixtures: {', '.join(MIXTURES)}")
    network: Shape = Shape()
    start: TrainingConfig
    evaluation: Counts = Counts()

    @field_validator("mixture")
    @classmethod
    def _known(cls, name: str) -> str:
        mixture(name)
        return name
