"""A data set of torchvision, by its name: CIFAR10, SVHN, Flowers102, and so on. Its training part is taken."""

import functools
import inspect
from pathlib import Path
from typing import Any

from mcm.artifacts import cache_folder
from mcm.config import suggest
from mcm.data.config import DataConfig
from mcm.data.images import Picture
from mcm.data.sources import layout
from mcm.data.sources.record import Licence, Listing, Record
from mcm.errors import UserError


def listing(config: DataConfig) -> Listing:
    """Every training image of `torchvision.datasets.<data.name>` under `data.path`, fetched there where it can be."""
    from mcm.vision import torchvision as library

    if config.name is None:
        raise UserError("data.name: missing; name the torchvision data set, such as CIFAR10")
    known = [name for name in library.datasets.__all__ if inspect.isclass(getattr(library.datasets, name))]
    if config.name not in known:
        raise UserError(f"data.name: torchvision has no data set '{config.name}'; {suggest(config.name, known)}")
    root = Path(config.path) if config.path else cache_folder() / "torchvision"
    data = build(getattr(library.datasets, config.name), root, config.name)
    targets = next((getattr(data, key) for key in ("targets", "labels", "_labels") if hasattr(data, key)), None)
    names = tuple(getattr(data, "classes", ()))
    licence = layout.own_licence(f"torchvision {config.name}", config)
    licence = Licence(licence.name, library.__version__, licence.licence, licence.attribution)
    records = []
    for index in range(len(data)):
        target = None if targets is None else int(targets[index])
        label = None if target is None else str(names[target]) if names else f"{target:04d}"
        records.append(
            Record(
                name=f"{config.name}/{index}",
                read=functools.partial(_image, data, index),
                licence=licence,
                label=layout.class_of(label, config),
                decode=_decoded,
            )
        )
    return Listing(records, classes=names if targets is not None else ())


def build(kind: Any, root: Path, name: str) -> Any:
    """The training part of a torchvision data set, whichever way its class asks for it; UserError where it fails."""
    parameters = inspect.signature(kind.__init__).parameters
    arguments: dict[str, Any] = {"root": str(root)} if "root" in parameters else {}
    arguments |= {key: value for key, value in (("train", True), ("split", "train")) if key in parameters}
    if "download" in parameters:
        arguments["download"] = True
    try:
        return kind(**arguments)
    except (RuntimeError, ValueError, TypeError, OSError, ImportError) as error:
        raise UserError(f"torchvision data set {name}: {error}; put its files into '{root}' by hand") from None


def _image(data: Any, index: int) -> Any:
    return data[index][0]


def _decoded(raw: Any, name: str) -> Picture:
    return raw
