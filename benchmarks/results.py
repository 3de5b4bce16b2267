"""Results on disk: `benchmarks.json`, one entry a case, each with its command, its machine and the peak beside it."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from benchmarks.harness import Plot, Results
from benchmarks.machine import Machine, Peak
from mcm.artifacts import atomic_file, write_json
from mcm.errors import UserError

FILE = "benchmarks.json"
VERSION = 1


@dataclass(frozen=True)
class Entry:
    """One case as it was run."""

    title: str
    about: str
    command: str
    quick: bool
    taken: float  # seconds the case took
    load: float  # processes that wanted a core in the minute before
    machine: Machine
    peaks_before: list[Peak]
    peaks_after: list[Peak]  # lower than before: the machine slowed down, or somebody else used it
    results: Results


_ENTRIES: TypeAdapter[dict[str, Entry]] = TypeAdapter(dict[str, Entry])


def plot_file(case: str, plot: Plot) -> str:
    """The name of a plot's file beside the JSON."""
    return f"{case}-{plot.name}.svg"


def write(folder: Path, entries: dict[str, Entry]) -> None:
    """Write the JSON, and each plot as a file of its own, whose text the JSON does not repeat."""
    kept: dict[str, Any] = {}
    for name, entry in entries.items():
        for plot in entry.results.plots:
            with atomic_file(folder / plot_file(name, plot)) as temporary:
                temporary.write_text(plot.svg)
        bare = replace(entry.results, plots=[replace(plot, svg="") for plot in entry.results.plots])
        kept[name] = asdict(replace(entry, results=bare))
    write_json(folder / FILE, {"kind": "benchmarks", "version": VERSION, "cases": kept})


def read(folder: Path) -> dict[str, Entry]:
    """The inverse of `write`; empty where there is no file. UserError where it is not one of ours."""
    path = folder / FILE
    if not path.exists():
        return {}
    try:
        values = json.loads(path.read_text())
        if values["version"] != VERSION:
            raise ValueError(f"version {values['version']}, and {VERSION} is needed")
        entries = _ENTRIES.validate_python(values["cases"])
        return {name: _with_plots(folder, name, entry) for name, entry in entries.items()}
    except (OSError, KeyError, TypeError, ValueError, ValidationError) as error:
        raise UserError(f"{path}: not a benchmark's results ({error}); remove it or name another --out") from None


def _with_plots(folder: Path, name: str, entry: Entry) -> Entry:
    plots = [replace(plot, svg=(folder / plot_file(name, plot)).read_text()) for plot in entry.results.plots]
    return replace(entry, results=replace(entry.results, plots=plots))
