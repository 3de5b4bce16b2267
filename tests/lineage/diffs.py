"""Short forms of a comparison, for tests that say what it must find."""

import json
from typing import Any

from pipelines.lineage.compare.causes import Cause
from pipelines.lineage.compare.diff import Diff, compare
from tests.lineage.builders import chain, graph, md5

ITERATIONS = ("parameter", "students.iterations", 400, 800)
TEACHER = ["train_teacher", "estimate_variance", "train_student cd-1", "train_student cd-2"]
EVALUATIONS = ["evaluate cd-1", "evaluate cd-2", "evaluate teacher"]
ALL = ["prepare_data", *TEACHER, *EVALUATIONS, "report"]

Change = tuple[str, str, Any, Any]  # kind, name, before, after


def runs(a: dict[str, Any], b: dict[str, Any], **both: Any) -> Diff:
    """Compare two chains."""
    return compare(graph(chain("r1", **both, **a)), graph(chain("r2", **both, **b)))


def code(name: str) -> Change:
    """The change of a file that a chain was given as `new`."""
    return "code", name, md5(name, "", folder=False), md5(name, "new", folder=False)


def causes(diff: Diff) -> dict[Change, list[str]]:
    """Each cause and where it came first."""
    return _short(diff.causes)


def idle(diff: Diff) -> dict[Change, list[str]]:
    """Each change without effect, and where it is."""
    return _short(diff.without_effect)


def _short(found: tuple[Cause, ...]) -> dict[Change, list[str]]:
    return {(c.kind, c.name, _value(c.before), _value(c.after)): list(c.at) for c in found}


def _value(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list) else value


def states(diff: Diff) -> dict[str, list[str]]:
    """Keys of the nodes by their state."""
    found: dict[str, list[str]] = {}
    for node in diff.nodes:
        found.setdefault(node.state, []).append(node.key)
    return found


def notes(diff: Diff) -> dict[str, tuple[str, ...]]:
    """Notes of the nodes, but for durations."""
    kept = {n.key: tuple(note for note in n.notes if note != "measured durations differ") for n in diff.nodes}
    return {key: found for key, found in kept.items() if found}
