"""First causes: the state of each node of two runs, what changed it first, and what merely followed.

A changed node has its own changes as causes, and those of the makers of its changed inputs. A cause is `at` the
upstream-most nodes where it acts: a package of another version everywhere is named at the first node that gave other
bytes. Inputs of equal bytes pass nothing on, whatever became of their makers.

Where more than one reading is possible:
- An input is `data` where no execution is known that made it, on one side at least, or where it comes from an execution
  that answers to another one. Read under several names (`teacher`, `model`) it is one cause, named as first read.
- What only attends a change (`facts.py`) is a cause where the node has no change of its own and no changed input, and
  a note elsewhere. So is an input that one side alone was given.
- An input that one side alone has, from a node that was added or removed, has as its cause that node (`stage`): with a
  student more, the report follows from the student.
- Bytes that nothing explains are `unexplained`: not reproducible where everything is known, else it says what is not.
- Of outputs that hold measured durations, bytes say nothing: a node without others changed where its inputs or its own
  data, code, parameters or seeds did, and these alone are its causes.
- An execution that was stopped or failed made nothing: it is a note at the node that it would have been.
"""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from components.lineage.record import Record
from pipelines.lineage.compare.align import Pair, origin
from pipelines.lineage.compare.facts import Change, Facts, compare_facts, is_partial
from pipelines.lineage.compare.joined import Bytes, Input, Joined
from pipelines.lineage.graph import Graph, Node

State = Literal["same", "recomputed", "changed", "added", "removed"]
STATES: tuple[State, ...] = ("same", "recomputed", "changed", "added", "removed")
KINDS = ("data", "parameter", "seed", "code", "library", "image", "hardware", "stage", "unexplained")
DECIDED = ("data", "code", "parameter", "seed")  # what changes a node whose outputs are all measured
THERE = "there"  # a node that one run alone has


@dataclass(frozen=True)
class Cause:
    """A difference that acted `at` these nodes first. `kind` is one of KINDS."""

    kind: str
    name: str
    before: Any
    after: Any
    at: tuple[str, ...]


@dataclass(frozen=True)
class Figure:
    """A metric that differs; None where a run has no such one."""

    name: str
    a: float | None
    b: float | None
    measured: bool


@dataclass(frozen=True)
class Compared:
    """One node of the two graphs drawn as one."""

    key: str
    a: Node | None
    b: Node | None
    state: State
    changes: tuple[Change, ...]
    inputs: tuple[Input, ...]
    outputs: tuple[Bytes, ...]
    metrics: tuple[Figure, ...]
    notes: tuple[str, ...]
    role: Literal["first", "followed"] | None = None  # of a changed node
    causes: tuple[int, ...] = ()  # places in Diff.causes


Identity = tuple[str, ...]  # of a cause


class Comparison:
    """Two runs, visited from the makers to the readers. `warnings` are those of each run."""

    nodes: tuple[Compared, ...]
    causes: tuple[Cause, ...]
    without_effect: tuple[Cause, ...]
    warnings: tuple[tuple[str, ...], tuple[str, ...]]

    def __init__(self, a: Graph, b: Graph):
        self.graphs = a, b
        self.joined = Joined(a, b)
        self._found: dict[Identity, tuple[Change, dict[str, None]]] = {}  # causes, and where they acted first
        self._idle: dict[Identity, tuple[Change, dict[str, None]]] = {}  # changes at nodes that gave the same bytes
        self._of: dict[str, dict[Identity, None]] = {}  # the causes of each changed node
        self._roots: dict[str, dict[str, None]] = {}  # of an added or removed node: those that it came with
        rows = [
            self._both(key, pair) if pair.a and pair.b else self._alone(key, pair)
            for key, pair in self.joined.nodes.items()
        ]
        rank = {key: index for index, key in enumerate(self.joined.nodes)}
        causes = _sorted(self._found, rank)
        place = {identity: index for index, identity in enumerate(causes)}
        unfinished, self.warnings = self._unfinished()
        self.causes = tuple(causes.values())
        idle = {identity: where for identity, where in self._idle.items() if identity not in self._found}
        self.without_effect = tuple(_sorted(idle, rank).values())
        self.nodes = tuple(
            replace(
                row,
                role=self._role(row.key),
                causes=tuple(sorted(place[identity] for identity in self._of.get(row.key, ()))),
                notes=(*row.notes, *unfinished.get(row.key, ())),
            )
            for row in rows
        )

    def _alone(self, key: str, pair: Pair) -> Compared:
        """A node of one run."""
        makers = [read.maker_a or read.maker_b for read in self.joined.inputs[key]]
        above = [root for maker in makers for root in self._roots.get(maker or "", ())]
        self._roots[key] = dict.fromkeys(above or [key])
        return self._row(key, pair, "removed" if pair.a else "added")

    def _both(self, key: str, pair: Pair) -> Compared:
        """A node of both runs: its state, and for a changed one its causes."""
        assert pair.a and pair.b
        a, b = pair.a.record, pair.b.record
        outputs, facts = list(self.joined.outputs(pair)), compare_facts(a, b)
        given, given_alone, above = self._inputs(key, one_partial=is_partial(a) != is_partial(b))
        own, image = [*given, *facts.changes], [*filter(None, [facts.image])]
        attendant = [*given_alone, *facts.attendant]
        timed = all(made.measured for made in outputs)
        changed = any(not made.equal for made in outputs if not made.measured)
        if not changed and _one_execution(a, b, outputs, bool(own)):
            return self._row(key, pair, "same")
        notes = [*facts.notes]
        if any(not made.equal for made in outputs if made.measured):
            notes.append("measured durations differ")
        acting = [change for change in own if not timed or change.kind in DECIDED]
        if not (changed or (timed and (acting or above or given_alone))):
            own += image
            for change in own:
                self._idle.setdefault(_identity(change), (change, {}))[1][key] = None
            return self._row(key, pair, "recomputed", own, [*notes, *map(_attends, attendant)])
        if acting or above:
            notes += map(_attends, attendant + image)
        else:
            acting = given_alone if timed else attendant or image
            own += acting
        if not (acting or above):
            acting = [_unexplained(outputs, facts)]
        self._blame(key, acting, above)
        return self._row(key, pair, "changed", own, notes)

    def _inputs(
        self, key: str, one_partial: bool
    ) -> tuple[list[Change], list[Change], dict[Identity, tuple[Change, str] | None]]:
        """What came in otherwise: data; what one side alone was given; causes of the makers, and where a node that one
        run alone has is the cause, that."""
        given, alone, above = [], [], {}
        for read in self.joined.inputs[key]:
            if read.measured or read.equal:
                continue
            change = Change("data", read.name, read.a, read.b)
            makers = dict.fromkeys(maker for maker in (read.maker_a, read.maker_b) if maker is not None)
            roots = [root for maker in makers for root in self._roots.get(maker, ())]
            both = read.a is not None and read.b is not None
            if both and (len(makers) == 0 or None in (read.maker_a, read.maker_b)):
                given.append(change)
            elif both and len(makers) == 1:
                above.update(dict.fromkeys(self._of.get(next(iter(makers)), ())))
            elif roots:
                for root in roots:
                    removed = self.joined.nodes[root].a is not None
                    stage = Change("stage", root, THERE if removed else None, None if removed else THERE)
                    above[_identity(stage)] = (stage, root)
            elif both:
                given.append(change)
            elif not one_partial:
                alone.append(change)
        return given, alone, above

    def _blame(self, key: str, acting: Iterable[Change], above: Mapping[Identity, tuple[Change, str] | None]) -> None:
        """Note the causes of a changed node: its own act here first where they did not act above."""
        own = {_identity(change): change for change in acting}
        for identity, there in above.items():
            if there is not None:
                self._found.setdefault(identity, (there[0], {}))[1][there[1]] = None
        for identity, change in own.items():
            if identity not in above:
                self._found.setdefault(identity, (change, {}))[1][key] = None
        self._of[key] = dict.fromkeys([*own, *above])

    def _role(self, key: str) -> Literal["first", "followed"] | None:
        if key not in self._of:
            return None
        return "first" if any(key in self._found[identity][1] for identity in self._of[key]) else "followed"

    def _row(
        self, key: str, pair: Pair, state: State, changes: Iterable[Change] = (), notes: Iterable[str] = ()
    ) -> Compared:
        """A node, but for the causes."""
        return Compared(
            key=key,
            a=pair.a,
            b=pair.b,
            state=state,
            changes=tuple(changes),
            inputs=self.joined.inputs[key],
            outputs=tuple(self.joined.outputs(pair)),
            metrics=tuple(_figures(pair)),
            notes=(*notes, *_taken(pair)),
        )

    def _unfinished(self) -> tuple[dict[str, list[str]], tuple[tuple[str, ...], tuple[str, ...]]]:
        """What did not succeed: notes of the nodes that it would have been, and warnings where there is none."""
        notes: dict[str, list[str]] = defaultdict(list)
        warnings: tuple[list[str], list[str]] = ([], [])
        keys = {
            (k, node.record.name): key
            for key, pair in self.joined.nodes.items()
            for k, node in enumerate((pair.a, pair.b))
            if node
        }
        for side, graph in enumerate(self.graphs):
            tries = Counter((n.record.name, n.record.status) for n in graph.nodes.values())
            for (name, status), count in tries.items():
                if status == "succeeded":
                    continue
                often = "" if count == 1 else f" {count} times"
                if (side, name) in keys:
                    notes[keys[side, name]].append(f"{status}{often} in {'ab'[side]}, then succeeded")
                elif (1 - side, name) in keys:
                    notes[keys[1 - side, name]].append(f"{status}{often} in {'ab'[side]}")
                else:
                    warnings[side].append(f"{name}: {status}{often}, and made nothing")
        return notes, ((*self.graphs[0].warnings, *warnings[0]), (*self.graphs[1].warnings, *warnings[1]))


def _identity(change: Change) -> Identity:
    """What makes two changes one cause. Data is named by its readers, and is what its bytes are."""
    name = "" if change.kind == "data" else change.name
    return change.kind, name, json.dumps(change.before, sort_keys=True), json.dumps(change.after, sort_keys=True)


def _sorted(
    found: Mapping[Identity, tuple[Change, Mapping[str, None]]], rank: Mapping[str, int]
) -> dict[Identity, Cause]:
    """Causes in the order in which they came."""
    causes = {identity: Cause(c.kind, c.name, c.before, c.after, tuple(at)) for identity, (c, at) in found.items()}
    return dict(sorted(causes.items(), key=lambda one: (rank[one[1].at[0]], KINDS.index(one[1].kind), one[0])))


def _one_execution(a: Record, b: Record, outputs: Sequence[Bytes], differ: bool) -> bool:
    """Whether two records of equal bytes are of one execution. A lock alone has no ids: durations, which no execution
    repeats, tell, or that nothing differs in two locks."""
    if {a.id, origin(a)} & {b.id, origin(b)}:
        return True
    durations = [made.equal for made in outputs if made.measured]
    if durations and (is_partial(a) or is_partial(b)):
        return all(durations)
    return is_partial(a) and is_partial(b) and not differ


def _unexplained(outputs: Iterable[Bytes], facts: Facts) -> Change:
    made = next(made for made in outputs if not made.measured and not made.equal)
    name = f"not recorded: {', '.join(facts.unknown)}" if facts.unknown else "not reproducible"
    return Change("unexplained", name, made.a, made.b)


def _attends(change: Change) -> str:
    """A note on what is no cause while there are others."""
    if change.kind == "image":
        return "the image is another one"
    where = "b" if change.before is None else "a"
    version = f" {change.after or change.before}" if change.kind == "library" else ""
    return f"{'input' if change.kind == 'data' else change.kind} {change.name}{version} only in {where}"


def _taken(pair: Pair) -> Iterator[str]:
    """Which earlier runs a node is from."""
    for side, node in (("a", pair.a), ("b", pair.b)):
        if node and node.record.cached_from:
            yield f"cached from run {node.record.cached_from.run} in {side}"
        elif node and node.reused:
            yield f"made by run {node.record.run.id} in {side}"


def _figures(pair: Pair) -> Iterator[Figure]:
    a, b = (dict(node.record.metrics) if node else {} for node in (pair.a, pair.b))
    for name in {**b, **a}:
        x, y = (value if value is not None and math.isfinite(value) else None for value in (a.get(name), b.get(name)))
        if x != y:
            yield Figure(name, x, y, measured=name.rpartition(".")[2].startswith("seconds"))
