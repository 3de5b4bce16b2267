"""What the metrics of a study are called on its page, and which way is better."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["images", "mixture"]


@dataclass(frozen=True)
class Metric:
    """`aim` is where better lies: `less`, `greater`, near a number, or None where a figure is neither."""

    title: str
    aim: Literal["less", "greater"] | float | None = "less"
    kind: Kind = "images"  # of the studies that measure it
    of_features: bool = False  # a figure is then comparable only with those of the same extractor
    floor: bool = False  # whether two draws of the data are measured against each other too

    def loss(self, value: float) -> float:
        """A number that is less for a better value; only for a metric that has an aim."""
        if self.aim == "greater":
            return -value
        return abs(value - self.aim) if isinstance(self.aim, float) else value


METRICS = {
    "fid": Metric("FID", of_features=True, floor=True),
    "kid": Metric("KID", of_features=True, floor=True),
    "precision": Metric("precision", "greater", of_features=True),
    "recall": Metric("recall", "greater", of_features=True),
    "flow_rmse": Metric("error to the exact flow (RMSE)", kind="mixture"),
    "w2": Metric("Wasserstein-2 distance to the data", kind="mixture", floor=True),
    "frechet": Metric("Fréchet distance to the data", kind="mixture", floor=True),
    "norm_ratio": Metric("squared norm over the exact one", 1.0, kind="mixture"),
    "norm_sq": Metric("mean squared norm", None, kind="mixture"),
}


def metric(name: str) -> Metric:
    """The metric of this name; one that is not listed is called as it is, and has no aim."""
    return METRICS.get(name) or Metric(name.replace("_", " "), None)


def of_kind(kind: Kind) -> tuple[str, ...]:
    """Names of what a study of this kind measures, the one that it shows unasked first."""
    return tuple(name for name, known in METRICS.items() if known.kind == kind)
