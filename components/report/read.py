"""Files of the other stages' artifacts, read and checked: metrics, timings, licences, pictures, loss curves."""

import json
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from mcm.errors import UserError

M = TypeVar("M", bound=BaseModel)
Positive = Annotated[FiniteFloat, Field(gt=0)]


class Metrics(BaseModel):
    """One row of an evaluation's `metrics.json`: the figures, and what they were measured with."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    fid: Positive
    kid: FiniteFloat
    kid_standard_error: Annotated[FiniteFloat, Field(ge=0)]
    precision: Annotated[FiniteFloat, Field(ge=0, le=1)]
    recall: Annotated[FiniteFloat, Field(ge=0, le=1)]
    samples: Annotated[int, Field(ge=1)]
    reference_samples: Annotated[int, Field(ge=1)]
    extractor: str  # display name, such as "FID (EffNet-Lite0@128)"
    reference: str  # md5 of the data set the statistics are of
    ema: str
    sampler: str  # "<sampler>-<nfe>", then what is uncommon about it
    nfe: Annotated[int, Field(ge=1)]
    seed: int
    guidance: FiniteFloat


class Timing(BaseModel):
    """One row of `timings/<name>.json`, a measured duration."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    seconds_per_image: Positive
    nfe: Annotated[int, Field(ge=1)]
    batch: Annotated[int, Field(ge=1)]
    device: str


class Floor(BaseModel):
    """FID and KID between two sets of real images of these counts: the scale on which a small difference is noise."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    fid: Positive
    kid: FiniteFloat
    between: str
    counts: tuple[int, int]


class Licence(BaseModel):
    """Licence and attribution of one source of images, from the data set's `licences.json`."""

    model_config = ConfigDict(frozen=True, extra="ignore", coerce_numbers_to_str=True)

    name: str
    version: str = ""
    licence: str
    attribution: str = ""


def read_json(path: Path, remedy: str) -> Any:
    """A JSON file; `remedy` says what to do where it is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: missing; {remedy}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}); {remedy}") from None


def parse(kind: type[M], values: Any, where: str, remedy: str) -> M:
    """Check one JSON value against its model; the first problem is one line."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the value"
        raise UserError(f"{where}: {key}: {first['msg'].lower()}; {remedy}") from None


def rows_of(kind: type[M], path: Path, remedy: str) -> dict[str, M]:
    """A JSON mapping from row name to `kind`, in the file's order, with at least one row."""
    values = read_json(path, remedy)
    if not isinstance(values, dict) or not values:
        raise UserError(f"{path}: holds no rows; {remedy}")
    return {str(name): parse(kind, value, f"{path}, row '{name}'", remedy) for name, value in values.items()}


def read_pictures(path: Path) -> np.ndarray:
    """Samples uint8 `[K, H, W, C]`, C 1 or 3; image k is of the same noise and label in every evaluation."""
    remedy = "evaluate again"
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{path}: missing; {remedy}") from None
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"{path}: not a whole array ({error}); {remedy}") from None
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] not in (1, 3) or not array.size:
        raise UserError(f"{path}: {array.dtype} of shape {array.shape}, and uint8 [K, H, W, C] is needed; {remedy}")
    return array


def read_losses(path: Path) -> pd.DataFrame:
    """A loss curve with at least the columns `iteration` and `loss`."""
    remedy = "train this model again"
    try:
        frame = pd.read_csv(path)
        return frame.astype({"iteration": int, "loss": float})
    except FileNotFoundError:
        raise UserError(f"{path}: missing; {remedy}") from None
    except (KeyError, ValueError, pd.errors.ParserError) as error:
        raise UserError(f"{path}: not a loss curve ({error}); {remedy}") from None
