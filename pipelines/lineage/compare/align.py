"""Which execution of one run answers to which of another.

By name first: the same stage and task. Where a run has several executions of one name (a rerun, or two teachers of
which each trained some students), the same execution finds itself, then the same bytes, then the same parameters; what
is left pairs from the last one back, since the last is what the run ended with.

Then by stage and parameters, for tasks of other names: equal parameters and inputs first. Most equal ones are enough
only where no task of that stage has the same name in both runs: two runs by hand, `try1` and `try2`, are two tries of
one thing, while `cd-8` in the place of `cd-4`, beside a `cd-2` in both, is another student. Where another pairing is as
good there is none: such nodes are added and removed. What made the inputs counts like a parameter, so that an
evaluation finds that of the student which its own was paired with.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass

from components.lineage.record import Record
from pipelines.lineage.graph import Graph, Node

COMMON = 16  # a value that more nodes than this share tells none of them apart; the bound also keeps the work linear

Facts = Callable[[Node], Hashable]
Found = list[tuple[Node, Node]]


@dataclass(frozen=True)
class Pair:
    """Two executions that answer to each other, or one that none answers to. `key` is unique in a comparison."""

    key: str
    a: Node | None
    b: Node | None


def align(a: Graph, b: Graph) -> list[Pair]:
    """Pair the executions that succeeded, in no particular order. The work grows linearly with the nodes."""
    found: Found = []
    left: list[Node] = []
    right: list[Node] = []
    ours, theirs = _by(_succeeded(a), _name), _by(_succeeded(b), _name)
    for name in dict.fromkeys([*ours, *theirs]):
        x, y, same = _same_name(ours.get(name, []), theirs.get(name, []))
        left += x
        right += y
        found += same
    if left and right:
        found += _other_names(a, b, left, right, found)
    paired = {x.key for x, _ in found}, {y.key for _, y in found}
    rows: list[tuple[Node | None, Node | None]] = [*found]
    rows += [(x, None) for x in left if x.key not in paired[0]]
    rows += [(None, y) for y in right if y.key not in paired[1]]
    return list(_keyed(rows))


def origin(record: Record) -> str:
    """Id of the execution that really ran: for one taken from a cache, that which filled it."""
    return record.cached_from.record if record.cached_from else record.id


def _keyed(rows: Iterable[tuple[Node | None, Node | None]]) -> Iterator[Pair]:
    """Name the pairs, after the second run where both have a name."""
    met: Counter[str] = Counter()
    for x, y in rows:
        name = (y or x).record.name  # type: ignore[union-attr]
        met[name] += 1
        yield Pair(name if met[name] == 1 else f"{name} #{met[name]}", x, y)


def _succeeded(graph: Graph) -> list[Node]:
    """What made something, in order of time."""
    nodes = [node for node in graph.nodes.values() if node.record.status == "succeeded"]
    return sorted(nodes, key=lambda n: (n.record.started is None, n.record.started and n.record.started.timestamp()))


def _by(nodes: Iterable[Node], facts: Facts) -> dict[Hashable, list[Node]]:
    found: dict[Hashable, list[Node]] = defaultdict(list)
    for node in nodes:
        found[facts(node)].append(node)
    return found


def _name(node: Node) -> Hashable:
    return node.record.name


def _stage(node: Node) -> Hashable:
    return node.record.stage


def _execution(node: Node) -> Hashable:
    return origin(node.record)


def _bytes(node: Node) -> Hashable:
    return frozenset((made.name, made.md5) for made in node.record.outputs if not made.measured) or None


def _parameters(node: Node) -> frozenset[tuple[str, str]]:
    values = node.record.parameters.items()
    return frozenset((f"parameter {name}", json.dumps(value, sort_keys=True)) for name, value in values)


def _same_name(a: list[Node], b: list[Node]) -> tuple[list[Node], list[Node], Found]:
    """Executions of one name, in order of time: what is left of both, and the pairs."""
    pairs: Found = []
    if len(a) > 1 or len(b) > 1:
        for facts in (_execution, _bytes, _parameters):
            found = _alone_in_both(a, b, facts, facts)
            pairs += found
            a, b = _without(a, found, 0), _without(b, found, 1)
    count = min(len(a), len(b))
    pairs += zip(a[len(a) - count :], b[len(b) - count :], strict=True)
    return a[: len(a) - count], b[: len(b) - count], pairs


def _alone_in_both(a: Iterable[Node], b: Iterable[Node], facts_a: Facts, facts_b: Facts) -> Found:
    """Pairs of equal facts that nobody else on either side has. None is no fact."""
    ours, theirs = _by(a, facts_a), _by(b, facts_b)
    return [
        (nodes[0], theirs[fact][0])
        for fact, nodes in ours.items()
        if fact is not None and len(nodes) == 1 and len(theirs.get(fact, ())) == 1
    ]


def _without(nodes: Iterable[Node], found: Found, side: int) -> list[Node]:
    gone = {pair[side].key for pair in found}
    return [node for node in nodes if node.key not in gone]


def _other_names(a: Graph, b: Graph, left: list[Node], right: list[Node], paired: Found) -> Found:
    """Pair executions of other names, stage after stage in the order in which they run."""
    known = {_stage(x) for x, _ in paired}
    ours, theirs = _by(left, _stage), _by(right, _stage)
    sides = (_Side("a", a, [x.key for x, _ in paired]), _Side("b", b, [y.key for _, y in paired]))
    found: Found = []
    for stage in dict.fromkeys(_stage(node) for node in a.nodes.values()):
        x, y = ours.get(stage, []), theirs.get(stage, [])
        pairs = _alone_in_both(x, y, sides[0].facts, sides[1].facts)
        if stage not in known:
            x, y = _without(x, pairs, 0), _without(y, pairs, 1)
            pairs += _most_equal(x, y, sides[0].facts, sides[1].facts)
        for first, second in pairs:
            sides[0].add(first.key)
            sides[1].add(second.key)
        found += pairs
    return found


class _Side:
    """The facts of one run's nodes, with what made their inputs named alike in both runs where it is paired."""

    def __init__(self, name: str, graph: Graph, paired: Iterable[str]):
        self.name = name
        self.number = {key: str(k) for k, key in enumerate(paired)}
        self.inputs: dict[str, set[tuple[str, str]]] = defaultdict(set)  # (input, key of its maker)
        self.given: dict[str, set[tuple[str, str]]] = defaultdict(set)  # (input, md5) that no known execution made
        for edge in graph.edges:
            if not edge.artifact.measured:
                self.inputs[edge.reader].add((edge.input, edge.maker))
        for source in graph.sources:
            self.given[source.reader].add((f"given {source.artifact.name}", source.artifact.md5))

    def add(self, key: str) -> None:
        """The next pair has `key` on this side."""
        self.number[key] = str(len(self.number))

    def facts(self, node: Node) -> frozenset[tuple[str, str]]:
        """Parameters and inputs of a node."""
        made = {(f"input {i}", self.number.get(maker, f"{self.name} {maker}")) for i, maker in self.inputs[node.key]}
        return _parameters(node) | made | self.given[node.key]


def _most_equal(
    a: list[Node],
    b: list[Node],
    facts_a: Callable[[Node], frozenset[tuple[str, str]]],
    facts_b: Callable[[Node], frozenset[tuple[str, str]]],
) -> Found:
    """Pairs of which each is the only best of the other, by the number of equal facts."""
    if len(a) == len(b) == 1:
        return [(a[0], b[0])]
    holders: dict[tuple[str, str], tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for side, (nodes, facts) in enumerate(((a, facts_a), (b, facts_b))):
        for index, node in enumerate(nodes):
            for fact in facts(node):
                holders[fact][side].append(index)
    equal: Counter[tuple[int, int]] = Counter()
    for ours, theirs in holders.values():
        if len(ours) <= COMMON and len(theirs) <= COMMON:
            equal.update((i, j) for i in ours for j in theirs)
    best_a, best_b = _only_best(equal, 0), _only_best(equal, 1)
    return [(a[i], b[j]) for i, j in sorted(equal) if best_a.get(i) == j and best_b.get(j) == i]


def _only_best(equal: Counter[tuple[int, int]], side: int) -> dict[int, int | None]:
    """For each node of one side its best on the other; None where two are as good."""
    best: dict[int, tuple[int, int | None]] = {}
    for pair, count in equal.items():
        mine, other = pair[side], pair[1 - side]
        most, _ = best.get(mine, (0, None))
        if count >= most:
            best[mine] = (count, other if count > most else None)
    return {mine: other for mine, (_, other) in best.items()}
