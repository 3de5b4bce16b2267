"""The `data` section of `params.yaml`."""

from typing import Any, Literal, get_args

from pydantic import Field, field_validator

from mcm.config import Config, suggest

SourceName = Literal["folder", "archive", "torchvision", "emoji", "emoji_large", "fashion_mnist"]


class DataConfig(Config):
    """Where images come from and what becomes of them. Which source reads which key stands in `data/README.md`."""

    source: SourceName = "emoji"
    path: str | None = Field(None, description="folder or archive of images; for fetched sources, where they are kept")
    name: str | None = Field(None, description="torchvision: name of the data set, such as CIFAR10")
    resolution: int = Field(32, ge=2, le=2048, description="side of the stored square images, in pixels")
    channels: Literal[1, 3] | None = Field(3, description="3: all to RGB; 1: all to grey; null: as they are, all alike")
    labels: Literal["source", "style", "category", "none"] = Field(
        "source", description="what the labels are; source: what the source has by itself; none: unconditional"
    )
    subset: Literal["smileys", "all"] = Field("smileys", description="emoji: the faces alone, or everything")
    skin_tones: bool = Field(False, description="emoji_large: keep the variants that differ in skin tone only")
    holdout: float = Field(0.1, ge=0, lt=1, description="share of concepts kept from training, for evaluation")
    limit: int | None = Field(None, ge=1, description="at most this many images, spread evenly over the source")
    seed: int = Field(0, ge=0, lt=2**63, description="seed of the split into train and holdout")
    licence: str = Field("not stated", description="licence of your own images, for manifest and report")
    attribution: str = Field("", description="whom to name for your own images")

    @field_validator("source", mode="before")
    @classmethod
    def _known_source(cls, value: Any) -> Any:
        known = list(get_args(SourceName))
        if value not in known:
            raise ValueError(f"unknown source; {suggest(str(value), known)}")
        return value
