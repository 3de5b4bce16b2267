"""Where things stand in a chart: spreads, the noise floor, and the names that lines and bars are known by."""

import re
import xml.etree.ElementTree as ElementTree

import matplotlib.pyplot as plt
import pytest

from components.report.figures import LIGHT
from pipelines.study.drawing import FLOOR, Curve, Panel, Style, _apart, svg

LINES = Style(bars=False, x_label="steps", x_log=True, y_log=False)
BARS = Style(bars=True, x_label="", x_log=False, y_log=False)
CURVES = (Curve("A", 0, (1.0, 2.0), (8.0, 4.0), (1.0, 0.5)), Curve("B", 1, (1.0, 2.0), (16.0, 12.0), (0.0, 0.0)))
# Series A has 1 step, B has 1 and 2, C has 2.
OF_BARS = (
    Curve("1 step", 0, (0.0, 1.0), (8.0, 4.0), (1.0, 0.5)),
    Curve("2 steps", 1, (1.0, 2.0), (16.0, 12.0), (0.0, 0.0)),
)

Segment = tuple[float, float, float, float]


def texts(drawn: str) -> dict[str, float]:
    """The height of each text."""
    found = (e for e in ElementTree.fromstring(drawn).iter() if e.tag.endswith("text"))
    return {str(e.text): float(e.attrib["y"]) for e in found if "y" in e.attrib}


def segments(drawn: str, group: str, style: str = "") -> list[Segment]:
    """Straight lines (x, y to x, y) in the groups of this name, of this style."""
    found = []
    for element in ElementTree.fromstring(drawn).iter():
        for path in element if element.attrib.get("id", "").startswith(group) else ():
            values = [float(value) for value in re.findall(r"-?[\d.]+", path.attrib.get("d", ""))]
            if len(values) == 4 and style in path.attrib["style"]:
                found.append((values[0], values[1], values[2], values[3]))
    return found


def spreads(drawn: str) -> list[Segment]:
    """The bars of deviations."""
    return segments(drawn, "LineCollection")


def test_a_spread_stands_upright_at_its_point_and_is_as_wide_as_the_deviations() -> None:
    drawn = svg(Panel("n", "c", "FID", CURVES), LINES, LIGHT)
    first, second = spreads(drawn)
    for x, _, other, _ in (first, second):
        assert x == other
    assert abs(first[1] - first[3]) == pytest.approx(2 * abs(second[1] - second[3]), rel=1e-3)
    # From 8 to 4 is as much as both ways of the first deviation, twice.
    middle = [(segment[1] + segment[3]) / 2 for segment in (first, second)]
    assert middle[1] - middle[0] == pytest.approx(2 * abs(first[1] - first[3]), rel=1e-3)


def test_the_noise_floor_lies_where_its_name_stands() -> None:
    drawn = svg(Panel("n", "c", "FID", CURVES, floor=3.0), LINES, LIGHT)
    (line,) = segments(drawn, "line2d", f"stroke: {LIGHT.faint}; stroke-width: 0.9")
    at_8, at_4 = ((s[1] + s[3]) / 2 for s in spreads(drawn))
    assert line[1] - at_4 == pytest.approx((at_4 - at_8) / 4, rel=1e-3)  # of an even axis: 3 lies below 4
    assert texts(drawn)[FLOOR] == pytest.approx(line[1], abs=8)


def test_bars_stand_at_their_series_from_the_top_with_their_own_figures() -> None:
    drawn = svg(Panel("n", "c", "FID", OF_BARS, ("A", "B", "C"), 3.0), BARS, LIGHT)
    heights = texts(drawn)
    order = sorted(("8.00", "4.00", "16.0", "12.0"), key=heights.__getitem__)
    assert order == ["8.00", "4.00", "16.0", "12.0"]
    for name, figure in (("A", "8.00"), ("C", "12.0")):
        assert heights[name] == pytest.approx(heights[figure], abs=2)
    assert heights["4.00"] < heights["B"] < heights["16.0"]
    first, second = spreads(drawn)
    assert first[1] == first[3] and second[1] == second[3]
    assert first[2] - first[0] == pytest.approx(2 * (second[2] - second[0]), rel=1e-3)


def test_a_legend_names_the_colours_and_puts_the_floor_last() -> None:
    many = tuple(Curve(f"line {k}", k, (1.0, 2.0), (k + 1.0, k + 2.0), (0.0, 0.0)) for k in range(6))
    drawn = svg(Panel("n", "c", "FID", many, floor=0.5), LINES, LIGHT)
    legend = drawn[drawn.index('<g id="legend_1">') :]
    labels = re.findall(r">(line \d|noise floor[^<]*)</text>", legend)
    assert labels == [*(f"line {k}" for k in range(6)), FLOOR]
    strokes = re.findall(r"stroke: (#[0-9a-f]{6})", legend)
    assert strokes[-1] == LIGHT.faint and strokes[0] == LIGHT.series[0].lower()


def at_end(*heights: float, names: tuple[str, ...] = ()) -> str:
    """Lines from 0 that end at these heights; an even axis from 0 to 10."""
    labels = names or tuple(f"line {k}" for k in range(len(heights)))
    curves = [
        Curve(name, k, (1.0, 2.0), (0.0, y), (0.0, 0.0))
        for k, (name, y) in enumerate(zip(labels, heights, strict=True))
    ]
    return svg(Panel("n", "c", "FID", (*curves, Curve("top", 6, (1.0, 2.0), (10.0, 10.0), (0.0, 0.0)))), LINES, LIGHT)


def test_lines_are_named_at_their_ends_only_where_names_are_short_and_stand_near() -> None:
    assert "legend_1" not in at_end(3.0, 6.0)
    assert "legend_1" not in at_end(3.0, 3.2), "a little apart is near enough"
    assert "legend_1" in at_end(3.0, 3.0, 3.0, 3.0), "names would fan out"
    assert "legend_1" in at_end(9.9, 9.9), "names would stand above the axes"
    assert "legend_1" in at_end(3.0, 6.0, names=("of sixteen letters", "b"))


def test_a_legend_takes_no_room_from_the_axes() -> None:
    def height(drawn: str) -> float:
        return float(ElementTree.fromstring(drawn).attrib["height"].removesuffix("pt"))

    few, many = at_end(3.0, 6.0), at_end(3.0, 6.0, names=("a long name that needs a line", "another of the same kind"))
    assert height(many) > height(few) + 20


def test_ticks_stand_where_most_lines_have_a_point() -> None:
    assert _apart([7.0, 15.0, *(8.0, 16.0) * 2, 3.0, 4.0, 4.0]) == [3.0, 4.0, 8.0, 16.0]
    assert _apart([7.0, 8.0]) == [7.0]


def test_charts_are_closed() -> None:
    svg(Panel("n", "c", "FID", CURVES), LINES, LIGHT)
    assert plt.get_fignums() == []
