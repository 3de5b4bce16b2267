"""Where the page draws each stage: layers from top to bottom, the tasks of one stage together in a block.

An edge that a longer way implies is left out, so that the drawing stays legible; the page draws it for a chosen stage.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipelines.lineage.page.order import (
    CELL_GAP,
    DENSE,
    PAD,
    TASKS,
    TITLE,
    Unit,
    connect,
    gather,
    layers,
    ordered,
    skeleton,
)

GAP, ROW_GAP, LAYER_GAP = 16.0, 30.0, 54.0  # between units, rows, layers; pixels, as all lengths here
CHANNEL = 24.0  # beside a block that has a row of its own, for lines that pass it
MARK = 8.0  # what the number of a cause takes above a node
SWEEPS = 8  # over the rows, for the places in them


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels."""

    x: float
    y: float
    width: float
    height: float

    @property
    def middle(self) -> float:
        return self.x + self.width / 2

    @property
    def bottom(self) -> float:
        return self.y + self.height


@dataclass(frozen=True)
class Block:
    """A frame around the tasks of one stage."""

    stage: str
    keys: tuple[str, ...]
    box: Box


@dataclass(frozen=True)
class Line:
    """A drawn line and the edges that it stands for, by their numbers."""

    path: str
    edges: tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """The drawing. `boxes` are those of the nodes, by key."""

    width: float
    height: float
    boxes: Mapping[str, Box]
    blocks: tuple[Block, ...]
    lines: tuple[Line, ...]


def arrange(
    nodes: Sequence[tuple[str, str, str]],
    edges: Sequence[tuple[str, str]],
    width: float,
    always: Iterable[int] = (),
) -> Layout:
    """Place nodes (key, stage, task; in an order in which they can run) in `width` pixels.

    `edges` go from maker to reader. Those of `always` are drawn even where a longer way implies them.
    """
    depth = layers([key for key, _, _ in nodes], edges)
    units, unit_of = gather(nodes, depth)
    shown = sorted({*skeleton([key for key, _, _ in nodes], edges), *always})
    bundles: dict[tuple[int, int], list[int]] = {}  # numbers of edges by the units that they join
    for number in shown:
        maker, reader = edges[number]
        bundles.setdefault((id(unit_of[maker]), id(unit_of[reader])), []).append(number)
    ways = {pair: connect([edges[number] for number in numbers], unit_of, units) for pair, numbers in bundles.items()}
    rows = _rows(ordered(units), width)
    _even(rows)
    _place(rows, width)
    width = _crop(units)
    height = _stack(rows)
    boxes, blocks = _boxes(units)
    lines = []
    bottoms = {layer: max(u.y + u.height for row in rows for u in row if u.layer == layer) for layer in depth.values()}
    for pair, numbers in bundles.items():
        for group in _split(numbers, edges, unit_of):
            lines.append(_line(group, edges, unit_of, ways[pair], boxes, bottoms))
    return Layout(width, height, boxes, blocks, tuple(lines))


def _rows(order: list[list[Unit]], width: float) -> list[list[Unit]]:
    """Rows that fit in `width`: a layer is one where it can be, else its blocks have rows of their own."""
    rows = []
    for layer in order:
        blocks = [unit for unit in layer if unit.columns]
        for unit in layer:
            unit.limit = width
        single = sum(unit.width + GAP for unit in layer if not unit.columns)
        room = (width - single + GAP) / len(blocks) - GAP if blocks else 0.0
        if all(_columns(unit, room) >= len(unit.keys) for unit in blocks):
            for unit in blocks:
                _shape(unit, room)
            rows.extend(_wrapped(layer, width))
            continue
        others = [unit for unit in layer if not unit.columns]
        for unit in others:
            unit.detour = width - CHANNEL / 2
        for unit in blocks:
            unit.limit = width - CHANNEL if others else width
            _shape(unit, unit.limit)
        rows.extend(_wrapped(others, width))
        rows.extend(_wrapped(blocks, width - CHANNEL if others else width))
    return rows


def _even(rows: Sequence[Sequence[Unit]]) -> None:
    """Blocks of many rows get the same number of columns, so that a task is at about the same place in each."""
    high = [unit for row in rows for unit in row if unit.rows > 2]
    for unit in high:
        _shape(unit, min(other.width for other in high))


def _columns(unit: Unit, room: float) -> int:
    return int((room - 2 * PAD + CELL_GAP) // (unit.cell + CELL_GAP))


def _shape(unit: Unit, room: float) -> None:
    """The columns of a block, so that it fits and its rows are about equally long."""
    most = max(1, min(len(unit.keys), _columns(unit, room)))
    unit.columns = -(-len(unit.keys) // -(-len(unit.keys) // most))
    unit.width = unit.columns * (unit.cell + CELL_GAP) - CELL_GAP + 2 * PAD
    unit.height = unit.rows * (_cell_height(unit) + CELL_GAP) - CELL_GAP + 2 * PAD + TITLE


def _cell_height(unit: Unit) -> float:
    return 24.0 if len(unit.keys) > DENSE else 30.0


def _wrapped(units: Sequence[Unit], width: float) -> list[list[Unit]]:
    rows: list[list[Unit]] = [[]]
    used = 0.0
    for unit in units:
        if rows[-1] and used + unit.width > width:
            rows.append([])
            used = 0.0
        rows[-1].append(unit)
        used += unit.width + GAP
    return [row for row in rows if row]


def _place(rows: Sequence[Sequence[Unit]], width: float) -> None:
    """The middles: each as near as can be to those it is joined to, without overlap."""
    for row in rows:
        _settle(row, [width / 2] * len(row))
    for sweep in range(SWEEPS):
        near = "after" if sweep % 2 else "before"
        for row in rows[::-1] if sweep % 2 else rows:
            wanted = []
            for unit in row:
                ends = [other.x + other.offset(at) - unit.offset(own) for other, own, at in getattr(unit, near)]
                # The median, so that most lines of a block are straight rather than all of them nearly so.
                wanted.append(unit.detour or (statistics.median(ends) if ends else unit.x))
            _settle(row, wanted)


def _settle(row: Sequence[Unit], wanted: Sequence[float]) -> None:
    """The least squares places in the given order at least GAP apart: isotonic regression by pooling neighbours."""
    offsets, at = [], 0.0
    for number, unit in enumerate(row):
        at += (row[number - 1].width + unit.width) / 2 + GAP if number else unit.width / 2
        offsets.append(at)
    pools: list[tuple[float, int]] = []  # mean and count of units that touch
    for want, offset in zip(wanted, offsets, strict=True):
        mean, count = want - offset, 1
        while pools and pools[-1][0] > mean:
            other, more = pools.pop()
            mean, count = (mean * count + other * more) / (count + more), count + more
        pools.append((mean, count))
    most = max(0.0, row[0].limit - offsets[-1] - row[-1].width / 2)
    shifts = [min(max(mean, 0.0), most) for mean, count in pools for _ in range(count)]
    for unit, shift, offset in zip(row, shifts, offsets, strict=True):
        unit.x = shift + offset


def _crop(units: Sequence[Unit]) -> float:
    """Move all units to the left side; the width that they take."""
    left = min((unit.x - unit.width / 2 for unit in units), default=0.0) - PAD
    for unit in units:
        unit.x -= left
        if unit.detour is not None:
            unit.detour -= left
    return max((unit.x + unit.width / 2 for unit in units), default=PAD) + PAD


def _stack(rows: Sequence[Sequence[Unit]]) -> float:
    """The tops; the height of it all."""
    y, layer = PAD + MARK, 0
    for number, row in enumerate(rows):
        if number:
            y += ROW_GAP if row[0].layer == layer else LAYER_GAP
        layer = row[0].layer
        for unit in row:
            unit.y = y
        y += max(unit.height for unit in row)
    return y + PAD


def _boxes(units: Iterable[Unit]) -> tuple[dict[str, Box], tuple[Block, ...]]:
    boxes: dict[str, Box] = {}
    blocks = []
    for unit in units:
        left = unit.x - unit.width / 2
        if unit.columns:
            blocks.append(Block(unit.stage, unit.keys, Box(left, unit.y, unit.width, unit.height)))
            height = _cell_height(unit)
            for number, key in enumerate(unit.keys):
                row, column = divmod(number, unit.columns)
                x = left + PAD + column * (unit.cell + CELL_GAP)
                boxes[key] = Box(x, unit.y + TITLE + PAD + row * (height + CELL_GAP), unit.cell, height)
        elif not unit.passed:
            boxes[unit.keys[0]] = Box(left, unit.y, unit.width, unit.height)
    return boxes, tuple(blocks)


def _split(numbers: list[int], edges: Sequence[tuple[str, str]], unit_of: Mapping[str, Unit]) -> list[list[int]]:
    """The lines for the edges between two units: one each where there is room, else one for all."""
    maker, reader = (unit_of[key] for key in edges[numbers[0]])
    pairs: dict[tuple[str, str], list[int]] = {}
    for number in numbers:
        pairs.setdefault(edges[number], []).append(number)
    several = max(len({one for one, _ in pairs}), len({other for _, other in pairs}))
    matched = maker.columns and reader.columns and maker.rows == reader.rows == 1 and len(pairs) == several
    if matched or len(pairs) < TASKS:
        return list(pairs.values())
    return [numbers]


def _line(
    numbers: Sequence[int],
    edges: Sequence[tuple[str, str]],
    unit_of: Mapping[str, Unit],
    way: Sequence[Unit],
    boxes: Mapping[str, Box],
    bottoms: Mapping[int, float],
) -> Line:
    """From the lower side of what makes to the upper side of what reads, through the points between."""
    makers, readers = ({edges[number][side] for number in numbers} for side in (0, 1))
    maker, reader = unit_of[edges[numbers[0]][0]], unit_of[edges[numbers[0]][1]]
    from_x = boxes[min(makers)].middle if len(makers) == 1 else maker.x
    end = (boxes[min(readers)].middle if len(readers) == 1 else reader.x, reader.y)
    stops: list[tuple[float, float, float]] = []  # where it comes, from where on down to where it is straight
    for unit, x, y in [(maker, from_x, maker.y + maker.height), *((point, point.x, point.y) for point in way)]:
        # Beside a higher neighbour a line first goes straight down, so that it does not run behind it.
        if unit.detour is None:
            stops.append((x, y, bottoms[unit.layer]))
        else:
            below = unit.y + unit.height
            stops += [(x, y, below), (unit.detour, below + ROW_GAP, bottoms[unit.layer])]
    path = f"M{stops[0][0]:.1f} {stops[0][1]:.1f}"
    for number, (x, _, low) in enumerate(stops):
        to_x, to_y = (stops[number + 1][0], stops[number + 1][1]) if number + 1 < len(stops) else end
        bend = min(60.0, (to_y - low) * 0.55)
        path += f"V{low:.1f}C{x:.1f} {low + bend:.1f} {to_x:.1f} {to_y - bend:.1f} {to_x:.1f} {to_y:.1f}"
    return Line(path, tuple(numbers))
