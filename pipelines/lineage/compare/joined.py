"""The graphs of two runs as one: paired executions are one node, and its inputs say who made them in which run."""

import graphlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pipelines.lineage.compare.align import Pair, align
from pipelines.lineage.graph import Graph, Node


@dataclass(frozen=True)
class Bytes:
    """An input or output by its md5 in both runs; None where a run has no such one."""

    name: str
    a: str | None
    b: str | None
    measured: bool = False

    @property
    def equal(self) -> bool:
        """The same bytes in both."""
        return self.a == self.b


@dataclass(frozen=True)
class Input(Bytes):
    """An input, and the nodes that made it; None where no execution is known that did."""

    maker_a: str | None = None
    maker_b: str | None = None


class Joined:
    """Two graphs as one. `nodes` are by key, in an order in which they can run, whichever run comes first."""

    def __init__(self, a: Graph, b: Graph):
        pairs = {pair.key: pair for pair in align(a, b)}
        self._key = (
            {pair.a.key: pair.key for pair in pairs.values() if pair.a},
            {pair.b.key: pair.key for pair in pairs.values() if pair.b},
        )
        self._makers = _makers(a, self._key[0]), _makers(b, self._key[1])
        self._measured = _measured(a), _measured(b)
        self.inputs = {key: tuple(self._inputs(pair)) for key, pair in pairs.items()}
        self.nodes = {key: pairs[key] for key in self._order(pairs)}

    def key(self, side: int, key: str) -> str | None:
        """The key here of a node of a run (0 or 1); None of one that made nothing."""
        return self._key[side].get(key)

    def outputs(self, pair: Pair) -> Iterator[Bytes]:
        """What a node made."""
        a, b = ({made.name: made for made in node.record.outputs} if node else {} for node in (pair.a, pair.b))
        for name in {**b, **a}:
            x, y = a.get(name), b.get(name)
            measured = any(made.measured for made in (x, y) if made)
            yield Bytes(name, x.md5 if x else None, y.md5 if y else None, measured)

    def edges(self) -> Iterator[tuple[str, str, str, str]]:
        """Maker, reader, input, and which run has it: a, b or both."""
        for reader in self.nodes:
            for read in self.inputs[reader]:
                if read.maker_a is not None and read.maker_a == read.maker_b:
                    yield read.maker_a, reader, read.name, "both"
                    continue
                if read.maker_a is not None:
                    yield read.maker_a, reader, read.name, "a"
                if read.maker_b is not None:
                    yield read.maker_b, reader, read.name, "b"

    def sources(self) -> Iterator[tuple[str, Bytes]]:
        """Reader and input, where no known execution made it; the md5 of a run in which one did is left out."""
        for reader in self.nodes:
            for read in self.inputs[reader]:
                a, b = read.a if read.maker_a is None else None, read.b if read.maker_b is None else None
                if a or b:
                    yield reader, Bytes(read.name, a, b, read.measured)

    def _inputs(self, pair: Pair) -> Iterator[Input]:
        for a, b in _matched(self._reads(0, pair.a), self._reads(1, pair.b)):
            name = (b or a).name  # type: ignore[union-attr]
            measured = any(read.measured for read in (a, b) if read)
            md5s = a.md5 if a else None, b.md5 if b else None
            yield Input(name, *md5s, measured, a.maker if a else None, b.maker if b else None)

    def _reads(self, side: int, node: Node | None) -> dict[str, "_Read"]:
        """What a node of one run reads, by name."""
        reads = {}
        for read in node.record.inputs if node else ():
            maker = self._makers[side].get((node.key, read.name)) if node else None
            measured = read.measured or read.md5 in self._measured[side]
            reads[read.name] = _Read(read.name, read.md5, measured, maker)
        return reads

    def _order(self, pairs: Iterable[str]) -> list[str]:
        """Makers before readers, in levels, by name within one: the same order whichever run comes first."""
        sorter: graphlib.TopologicalSorter[str] = graphlib.TopologicalSorter()
        for key in pairs:
            makers = {maker for read in self.inputs[key] for maker in (read.maker_a, read.maker_b) if maker is not None}
            sorter.add(key, *makers)
        try:
            sorter.prepare()
        except graphlib.CycleError:  # two executions that read each other's bytes, each in one of the runs
            return list(pairs)
        order: list[str] = []
        while sorter.is_active():
            level = sorted(sorter.get_ready(), key=_natural)
            sorter.done(*level)
            order += level
        return order


@dataclass(frozen=True)
class _Read:
    """An input of a node in one run."""

    name: str
    md5: str
    measured: bool
    maker: str | None


def _matched(a: dict[str, _Read], b: dict[str, _Read]) -> Iterator[tuple[_Read | None, _Read | None]]:
    """Inputs by name, then, where a task is named otherwise in the other run, by the node that made them."""
    ours = {name: read for name, read in a.items() if name not in b}
    theirs = {name: read for name, read in b.items() if name not in a}
    by_maker = _by_maker(ours.values()), _by_maker(theirs.values())
    renamed = {by_maker[1][made].name: by_maker[0][made] for made in by_maker[0].keys() & by_maker[1].keys()}
    for name, read in b.items():
        yield a.get(name) or renamed.get(name), read
    taken = {read.name for read in renamed.values()}
    yield from ((read, None) for name, read in ours.items() if name not in taken)


def _by_maker(reads: Iterable[_Read]) -> dict[tuple[str, bool], _Read]:
    """What a maker gave one input alone."""
    reads = list(reads)
    count = Counter((read.maker, read.measured) for read in reads)
    made = [(read.maker, read) for read in reads if count[read.maker, read.measured] == 1]
    return {(maker, read.measured): read for maker, read in made if maker is not None}


def _makers(graph: Graph, keys: dict[str, str]) -> dict[tuple[str, str], str]:
    """Key here of the maker of each input, by the reader's key in its graph and the input's name."""
    return {(edge.reader, edge.input): keys[edge.maker] for edge in graph.edges if edge.maker in keys}


def _measured(graph: Graph) -> set[str]:
    """The md5 of every output that holds measured durations: a reader may not know what it reads."""
    return {made.md5 for node in graph.nodes.values() for made in node.record.outputs if made.measured}


def _natural(name: str) -> tuple[tuple[str, int], ...]:
    """`cd-2` before `cd-10`."""
    return tuple((text, int(digits or 0)) for text, digits in re.findall(r"(\D*)(\d*)", name))
