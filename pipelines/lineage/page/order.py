"""The order in which the page draws stages: layers, what is drawn together, and which of its layer comes first.

The way of Sugiyama, Tagawa and Toda (1981): layers by the longest way from a start, fewer crossings by barycentres.
"""

import bisect
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

TASKS = 3  # so many tasks of one stage in one layer are a block
DENSE = 48  # a block of more tasks has lower cells
SWEEPS = 8  # over the layers
NODE_HEIGHT = 46.0  # pixels, as all lengths
CELL_GAP, PAD, TITLE = 6.0, 10.0, 20.0  # in a block: between cells, around them, the title above them
LETTER, BADGE, FLAG = 7.6, 30.0, 22.0  # widths of a letter, of the sign and of a cause's number, with margins


@dataclass
class Unit:
    """What takes a place in a layer: a node, a block, or a point that a long line passes."""

    keys: tuple[str, ...]
    layer: int
    stage: str
    width: float
    height: float
    cell: float = 0.0  # width of a cell of a block
    columns: int = 0  # of a block
    x: float = 0.0  # middle
    y: float = 0.0  # top
    limit: float = 0.0  # it stays left of this
    detour: float | None = None  # where its lines go down beside the rows of its layer that are below it
    # What its lines lead to: the other unit, which member of this one, which member of the other.
    before: list[tuple["Unit", int, int]] = field(default_factory=list)
    after: list[tuple["Unit", int, int]] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not self.keys

    def offset(self, member: int) -> float:
        """From the middle to the middle of a member."""
        if not self.columns:
            return 0.0
        return PAD + (member % self.columns) * (self.cell + CELL_GAP) + self.cell / 2 - self.width / 2

    @property
    def rows(self) -> int:
        return -(-len(self.keys) // self.columns) if self.columns else 1


def layers(keys: Sequence[str], edges: Iterable[tuple[str, str]]) -> dict[str, int]:
    """The longest way from a start to each node. `keys` are in an order in which they can run."""
    makers: dict[str, list[str]] = {key: [] for key in keys}
    for maker, reader in edges:
        makers[reader].append(maker)
    depth: dict[str, int] = {}
    for key in keys:
        depth[key] = max((depth[maker] + 1 for maker in makers[key]), default=0)
    return depth


def skeleton(keys: Sequence[str], edges: Sequence[tuple[str, str]]) -> list[int]:
    """Numbers of the edges that no longer way implies (the transitive reduction)."""
    place = {key: 1 << number for number, key in enumerate(keys)}
    readers: dict[str, list[str]] = {key: [] for key in keys}
    for maker, reader in edges:
        readers[maker].append(reader)
    below: dict[str, int] = {}  # for each node a bit for each that it leads to
    for key in reversed(keys):
        below[key] = 0
        for reader in readers[key]:
            below[key] |= below[reader] | place[reader]
    implied: dict[str, int] = {}
    for key in keys:
        implied[key] = 0
        for reader in readers[key]:
            implied[key] |= below[reader]
    return [number for number, (maker, reader) in enumerate(edges) if not implied[maker] & place[reader]]


def natural(text: str) -> list[tuple[int, int, str]]:
    """A key that sorts `cd-4` before `cd-16`."""
    parts = re.findall(r"\d+|\D+", text)
    return [(0, int(part), "") if part.isdecimal() and part.isascii() else (1, 0, part) for part in parts]


def gather(nodes: Sequence[tuple[str, str, str]], depth: Mapping[str, int]) -> tuple[list[Unit], dict[str, Unit]]:
    """Blocks and single nodes."""
    together: dict[tuple[int, str], list[tuple[str, str]]] = {}
    for key, stage, task in nodes:
        together.setdefault((depth[key], stage), []).append((key, task))
    units = []
    cell = 68.0
    for (layer, stage), members in together.items():
        if len(members) < TASKS:
            for key, task in members:
                letters = min(24, max(len(stage), len(task)))
                units.append(Unit((key,), layer, stage, letters * LETTER + BADGE + 18, NODE_HEIGHT))
            continue
        members.sort(key=lambda member: (natural(member[1]), natural(member[0])))
        letters = min(20, max(len(task) or len(stage) for _, task in members))
        cell = max(cell, letters * LETTER + BADGE + (FLAG if len(members) > DENSE else 10))
        units.append(Unit(tuple(key for key, _ in members), layer, stage, 0, 0, cell, len(members)))
    for unit in units:
        unit.cell = cell  # the same in all blocks, so that equal tasks can stand below each other
    return units, {key: unit for unit in units for key in unit.keys}


def connect(edges: Sequence[tuple[str, str]], unit_of: Mapping[str, Unit], units: list[Unit]) -> list[Unit]:
    """The points between two units, one in each layer that their line passes; they are added to `units`."""
    first, last = unit_of[edges[0][0]], unit_of[edges[0][1]]
    points = [Unit((), layer, "", 14.0, NODE_HEIGHT) for layer in range(first.layer + 1, last.layer)]
    units.extend(points)
    for maker, reader in edges:
        chain = [(first, first.keys.index(maker)), *((point, 0) for point in points), (last, last.keys.index(reader))]
        for (one, member), (other, others) in itertools.pairwise(chain):
            one.after.append((other, member, others))
            other.before.append((one, others, member))
    return points


def ordered(units: Sequence[Unit]) -> list[list[Unit]]:
    """Units by layer, each layer in an order with few crossings."""
    order: list[list[Unit]] = [[] for _ in range(1 + max((unit.layer for unit in units), default=-1))]
    for unit in units:
        order[unit.layer].append(unit)
    best, fewest = [list(layer) for layer in order], crossings(order)
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        for layer in order if down else reversed(order):
            place = {id(unit): at for row in order for at, unit in enumerate(row)}

            def barycentre(unit: Unit, down: bool = down, place: dict[int, int] = place) -> float:
                near = unit.before if down else unit.after
                ends = [place[id(other)] + (at + 0.5) / max(1, len(other.keys)) for other, _, at in near]
                return sum(ends) / len(ends) if ends else place[id(unit)] + 0.5

            layer.sort(key=barycentre)
        count = crossings(order)
        if count < fewest:
            best, fewest = [list(layer) for layer in order], count
    return best


def crossings(order: Sequence[Sequence[Unit]]) -> int:
    """How many pairs of lines between neighbouring layers cross."""
    total = 0
    for upper, lower in itertools.pairwise(order):
        place = {id(unit): at for at, unit in enumerate(lower)}
        ends: list[float] = []
        for unit in upper:
            targets = sorted(place[id(other)] + at / max(1, len(other.keys)) for other, _, at in unit.after)
            total += sum(len(ends) - bisect.bisect_right(ends, target) for target in targets)
            for target in targets:
                bisect.insort(ends, target)
    return total
