"""What the page says in plain words: causes, the answer on top, and why a stage is as it is."""

import itertools
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from pipelines.lineage.compare.render import value

# State -> its sign, and what the page says where it explains the sign.
STATES = {
    "changed": ("≠", "other bytes came out"),
    "recomputed": ("↻", "ran again, the same bytes came out"),
    "same": ("=", "the same execution in both"),
    "added": ("+", "only in B"),
    "removed": ("−", "only in A"),
}

KINDS = {
    "data": "data",
    "code": "code",
    "image": "container image",
    "parameter": "parameter",
    "seed": "seed",
    "library": "library",
    "hardware": "hardware",
    "stage": "stage",
    "unexplained": "not reproducible",
}

COMMIT = re.compile("[0-9a-f]{40}")


def cause(given: Mapping[str, Any]) -> str:
    """One cause or change in a few words, without a full stop."""
    kind, name, before, after = given["kind"], given["name"], given["before"], given["after"]
    what = KINDS.get(kind, kind).capitalize()
    if kind == "unexplained":
        known = name == "not reproducible"
        return f"{what}: other bytes from the same facts" if known else f"Unexplained: {name}"
    if kind == "stage":
        return f"{what} {name} is only in {'B' if before is None else 'A'}"
    named = what if kind == name else f"{what} {name}"
    if kind == "code":
        return f"{named} {'is new' if before is None else 'is gone' if after is None else 'was edited'}"
    if before is None or after is None:
        return f"{named} is only in {'B' if before is None else 'A'}: {value(after if before is None else before)}"
    return f"{named} changed from {value(before)} to {value(after)}"


def place(given: Mapping[str, Any]) -> str:
    """Where a cause acted, as the end of a sentence; a stage that came or went says it itself."""
    return "" if given["kind"] == "stage" else f", at {listed(given['at'])}"


def headline(diff: Mapping[str, Any]) -> str:
    """The answer in one sentence."""
    counts, causes = diff["counts"], diff["causes"]
    if len(causes) == 1:
        return f"{cause(causes[0])}."
    if causes:
        return f"{len(causes)} first causes changed {plural(counts['changed'], 'stage')}."
    if counts["added"] or counts["removed"]:
        return "No stage changed; the graphs have different stages."
    if counts["changed"]:
        return f"{plural(counts['changed'], 'stage')} changed, and no cause is known."
    return "Nothing changed: the same bytes at every stage."


def summary(diff: Mapping[str, Any]) -> str:
    """How far it went, in one sentence."""
    counts, nodes = diff["counts"], diff["nodes"]
    first = list(dict.fromkeys(key for item in diff["causes"] for key in item["at"]))
    said = []
    if first:
        followed = sum(node["state"] == "changed" and node["key"] not in first for node in nodes)
        who = "It" if len(diff["causes"]) == 1 else "They"
        said.append(f"{who} acted at {listed(first)}, and {plural(followed, 'stage')} followed")
    equal = counts["same"] + counts["recomputed"]
    if equal:
        said.append(f"{equal} of {plural(len(nodes), 'stage')} gave the same bytes")
    for state, where in (("added", "B"), ("removed", "A")):
        if counts[state]:
            said.append(f"{plural(counts[state], 'stage')} only in {where}")
    return f"{'; '.join(said)}." if said else ""


def why(node: Mapping[str, Any], causes: Sequence[Mapping[str, Any]]) -> str:
    """Why a node has its state, in one line without a full stop."""
    state = node["state"]
    if state != "changed":
        said = STATES[state][1]
        return said[:1].upper() + said[1:]
    of = [causes[index] for index in node["causes"]]
    if not of:
        return "No cause is known"
    here = [item for item in of if node["key"] in item["at"]]
    if here:
        more = f", and followed {plural(len(of) - len(here), 'other')}" if len(of) > len(here) else ""
        return f"First cause: {'; '.join(cause(item) for item in here)}{more}"
    return "Followed: " + "; ".join(f"{cause(item)}{place(item)}" for item in of)


def facts(run: Mapping[str, Any]) -> list[str]:
    """What is known of a run beside its name."""
    of = [run["by"]]
    if run["run"] not in (run["name"], run["commit"]) and not COMMIT.fullmatch(run["run"]):
        of.append(run["run"])
    if run["started"]:
        of.append(f"{datetime.fromisoformat(run['started']).astimezone(UTC):%Y-%m-%d %H:%M} UTC")
    commit = run["commit"] or (run["run"] if COMMIT.fullmatch(run["run"]) else None)
    return [*of, f"commit {commit[:10]}"] if commit else of


def listed(keys: Sequence[str], most: int = 3) -> str:
    """Keys of stages in a row, and how many more; the stage is not said again where the one before has the same."""
    names = list(keys[:1])
    for before, key in itertools.pairwise(keys[:most]):
        stage, _, task = key.partition(" ")
        names.append(task if task and stage == before.partition(" ")[0] else key)
    if len(keys) > most:
        return f"{', '.join(names)} and {len(keys) - most} more"
    return " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} and {names[-1]}"


def plural(count: int, what: str) -> str:
    """`1 stage`, `2 stages`."""
    return f"{count} {what}{'' if count == 1 else 's'}"
