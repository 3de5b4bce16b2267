"""What differs between two executions of one stage, before anyone asks what it did.

Some differences may have changed the bytes: a parameter, a seed, a file of code, the version of a package, hardware.
Others come with something else, and count only where nothing else is left to explain the bytes: a file or a package
that one process loaded and the other did not (a folder of images is read by other code than emoji are), and the image,
which brings code and packages. None is unknown, and nothing is concluded from it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from components.lineage.record import Hardware, Record

# Cores act through threads, and memory does not act.
HARDWARE = ("processor", "threads", "accelerators", "devices")
# Parameters that say where an input lies, whose content is what counts.
PLACES = {"data.path": "images"}


@dataclass(frozen=True)
class Change:
    """A fact that differs. `before` or `after` is None where a side has no such fact."""

    kind: str  # data, parameter, seed, code, library, image or hardware
    name: str
    before: Any
    after: Any

    def json(self) -> dict[str, Any]:
        """For machines."""
        return {"kind": self.kind, "name": self.name, "before": self.before, "after": self.after}


@dataclass(frozen=True)
class Facts:
    """What differs between two executions."""

    changes: tuple[Change, ...]
    attendant: tuple[Change, ...]  # files and packages that one side alone loaded
    image: Change | None  # where neither code nor packages that both loaded differ
    unknown: tuple[str, ...]  # what a side does not tell: code, libraries, hardware
    notes: tuple[str, ...]  # worth knowing, and no cause


def is_partial(record: Record) -> bool:
    """Whether the record was made from a dvc.lock alone."""
    return record.started is None


def compare_facts(a: Record, b: Record) -> Facts:
    """Compare what ran, with what and on what. Inputs and outputs are not looked at, but for what a place names."""
    one_partial = is_partial(a) != is_partial(b)
    files = tuple(record.code.files if record.code else None for record in (a, b))
    code, code_of_one = _versions("code", *files)
    libraries, libraries_of_one = _versions("library", a.libraries, b.libraries)
    image = None
    if not code and not libraries and None not in (a.image, b.image) and a.image != b.image:
        image = Change("image", "image", a.image or None, b.image or None)
    told = {"code": files, "libraries": (a.libraries, b.libraries), "hardware": (a.hardware, b.hardware)}
    return Facts(
        changes=(*_parameters(a, b, one_partial), *code, *libraries, *_hardware(a.hardware, b.hardware)),
        attendant=(*(() if one_partial else code_of_one), *libraries_of_one),
        image=image,
        unknown=tuple(name for name, sides in told.items() if None in sides),
        notes=tuple(_notes(a, b)),
    )


def equal(a: Any, b: Any) -> bool:
    """Equal values of JSON: `true` is not 1, and 1 is 1.0."""
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)


def _parameters(a: Record, b: Record, common: bool) -> Iterator[Change]:
    inputs = {name for name in PLACES.values() if all(any(i.name == name for i in r.inputs) for r in (a, b))}
    seeds = {*(a.seeds or ()), *(b.seeds or ())}
    for name in sorted({*a.parameters, *b.parameters}):
        if PLACES.get(name) in inputs or (common and not (name in a.parameters and name in b.parameters)):
            continue
        before, after = a.parameters.get(name), b.parameters.get(name)
        if not equal(before, after):
            seed = name in seeds or name.rpartition(".")[2] == "seed"
            yield Change("seed" if seed else "parameter", name, before, after)


def _versions(kind: str, a: Mapping[str, str] | None, b: Mapping[str, str] | None) -> tuple[list[Change], list[Change]]:
    """What both have in different versions, and what one alone has."""
    if a is None or b is None:
        return [], []
    both = [Change(kind, name, a[name], b[name]) for name in sorted(a.keys() & b.keys()) if a[name] != b[name]]
    return both, [Change(kind, name, a.get(name), b.get(name)) for name in sorted(a.keys() ^ b.keys())]


def _hardware(a: Hardware | None, b: Hardware | None) -> Iterator[Change]:
    if a is None or b is None:
        return
    for name in HARDWARE:
        before, after = getattr(a, name), getattr(b, name)
        if before is not None and after is not None and before != after:
            yield Change("hardware", name, *(list(v) if isinstance(v, tuple) else v for v in (before, after)))


def _notes(a: Record, b: Record) -> Iterator[str]:
    if a.component and b.component and a.component != b.component:
        yield f"component {a.component} -> {b.component}"
    commits = [record.code and record.code.commit for record in (a, b)]
    if None not in commits and commits[0] != commits[1]:
        yield f"commit {commits[0]:.12} -> {commits[1]:.12}"
    dirty = [side for side, record in (("a", a), ("b", b)) if record.code and record.code.dirty]
    if dirty:
        yield f"uncommitted changes in {' and '.join(dirty)}"
