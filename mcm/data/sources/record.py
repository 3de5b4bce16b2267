"""What every source gives: a list of records, read one by one in order, decoded by whoever has time."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mcm.data.images import Picture, decode


@dataclass(frozen=True)
class Licence:
    """Whose images these are: package or collection, its version, an SPDX name where there is one, whom to name."""

    name: str
    version: str
    licence: str
    attribution: str


@dataclass(frozen=True, slots=True)
class Record:
    """One image to be.

    `read` gives its bytes (or array); it is called in the order of the list, from one thread, so that an archive is
    read from front to back. `decode(raw, name)` turns that into a picture, in any thread. `name` is relative to the
    source. `concept` is what the split into train and holdout goes by; where it is None, the image's own content is.
    """

    name: str
    read: Callable[[], Any]
    licence: Licence
    label: str | None = None
    caption: str | None = None
    concept: str | None = None
    decode: Callable[[Any, str], Picture] = decode


@dataclass(frozen=True)
class Listing:
    """All records of a source, in a fixed order.

    `classes` in the order of their labels (empty: sorted by name); `distinct` drops blank and repeated pictures;
    `close` ends reading.
    """

    records: list[Record]
    classes: tuple[str, ...] = ()
    distinct: bool = False
    close: Callable[[], None] = lambda: None
