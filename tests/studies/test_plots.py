"""Plots are SVG that says what its axes are, whose lines differ, and whose bytes are of figures alone."""

import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest

from components.report.figures import DARK, LIGHT
from mcm.errors import UserError
from pipelines.study.drawing import COLOURS, GAP, _spread_out, colours
from pipelines.study.drawing import _look as look
from pipelines.study.figures import figures
from pipelines.study.paper import PaperConfig, source
from pipelines.study.plots import PlotConfig, plot
from tests.studies.made_up import FID, TEACHER, gathered, outcome, outcomes

LINES = PlotConfig(name="fid")
PAPER = source(PaperConfig(table="table1", dataset="imagenet64", size="small", series={"CD": "CD"}), "here")


def words(svg):
    """All text of an SVG, which must be well-formed."""
    return [element.text for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")]


@pytest.mark.parametrize("kind", ["lines", "bars"])
def test_axes_series_and_the_noise_floor_are_named(kind):
    (chart,) = plot(LINES.model_copy(update={"kind": kind}), gathered(), (), "here").charts
    for svg in (chart.light, chart.dark):
        text = words(svg)
        assert "FID (EffNet-Lite0@128)" in text and "noise floor" in text
        assert {*FID, TEACHER} <= set(text)
        assert ("steps" in text) == (kind == "lines")
    assert "CD: 30.0 at 1" in chart.alt or "CD 30.0" in chart.alt


def test_ticks_are_the_steps_as_plain_numbers():
    text = words(plot(LINES, gathered(), (), "here").charts[0].light)
    assert {"1", "2", "4", "8", "64"} <= set(text)
    assert not any("10^" in word or "mathdefault" in word for word in text)


def test_the_papers_figures_have_a_panel_of_their_own():
    drawn = plot(LINES, gathered(), [PAPER], "here")
    assert [chart.caption for chart in drawn.charts] == ["This study", PAPER.kind]
    assert "FID (Inception)" in words(drawn.charts[1].light)
    assert "1.70 at 4" in drawn.charts[1].alt and "1.70 at 4" not in drawn.charts[0].alt
    assert len(plot(LINES.model_copy(update={"paper": False}), gathered(), [PAPER], "here").charts) == 1
    assert len(plot(LINES.model_copy(update={"metric": "recall"}), gathered(), [PAPER], "here").charts) == 1


def test_each_base_has_a_panel():
    drawn = plot(LINES, gathered(bases=("a", "b")), (), "here")
    assert [(chart.name, chart.caption) for chart in drawn.charts] == [("fid-a", "a"), ("fid-b", "b")]
    assert len(plot(LINES.model_copy(update={"bases": ("b",)}), gathered(bases=("a", "b")), (), "here").charts) == 1


def test_bytes_depend_on_figures_alone():
    order = outcomes()
    timed = [replace(o, seconds=123.0, measured={"device": "another"}) for o in reversed(order)]
    first = plot(LINES, figures(order), [PAPER], "here")
    assert plot(LINES, figures(timed), [PAPER], "here") == first
    other = [replace(o, metrics={name: value * 2 for name, value in o.metrics.items()}) for o in order]
    assert plot(LINES, figures(other), [PAPER], "here") != first


def test_no_two_lines_look_alike():
    for theme in (LIGHT, DARK):
        assert len(set(colours(theme))) == COLOURS == 7
        seen = [look(index, theme) for index in range(2 * COLOURS)]
        assert len({(each["color"], each["linestyle"], each["marker"]) for each in seen}) == 2 * COLOURS
        assert len({each["color"] for each in seen[:COLOURS]}) == COLOURS
        assert len({str(each["linestyle"]) for each in seen[:COLOURS]}) == COLOURS  # on a grey printer too
        assert len({each["marker"] for each in seen[:COLOURS]}) == COLOURS


def test_names_at_the_edge_do_not_touch():
    places = _spread_out([0.5, 0.5, 0.51, 0.9])
    assert all(high - low >= GAP - 1e-4 for low, high in zip(sorted(places), sorted(places)[1:], strict=False))
    assert sorted(range(3), key=places.__getitem__)[-1] == 2 and places[3] == pytest.approx(0.9)


def test_a_key_that_rows_set_makes_an_axis():
    found = figures(
        [
            replace(outcome(f"eta {eta}", n, seed, 20 - eta - n + seed, settings={"students.cd.eta": eta}), method="cd")
            for eta in (0.0, 0.5, 1.0)
            for n in (1, 2)
            for seed in (0, 1)
        ]
    )
    config = PlotConfig(name="eta", x="students.cd.eta", x_scale="linear")
    (chart,) = plot(config, found, (), "here").charts
    assert "students.cd.eta" in words(chart.light)
    assert "cd, 2 steps: 18.5 at 0, 18.0 at 0.5, 17.5 at 1" in chart.alt
    with pytest.raises(UserError, match="is 0 or less in a row; set x_scale: linear"):
        plot(config.model_copy(update={"x_scale": "log"}), found, (), "here")
    named = figures([outcome("CD", 1, 0, 3.0, settings={"loss": "huber"})])
    with pytest.raises(UserError, match="loss is no number in any row; draw kind: bars"):
        plot(PlotConfig(name="loss", x="loss"), named, (), "here")


def test_a_study_of_which_nothing_is_done_has_its_plots():
    nothing = figures([outcome(o.series, o.steps, o.seed, None) for o in outcomes()])
    for kind in ("lines", "bars"):
        (chart,) = plot(LINES.model_copy(update={"kind": kind}), nothing, (), "here").charts
        assert "no row is there yet" in words(chart.light)


def test_names_that_the_study_has_not_are_user_errors():
    for keys, message in (
        ({"series": ("XY",)}, "plot 'fid': series 'XY' is unknown"),
        ({"metric": "fdi"}, "metric 'fdi' is unknown"),
        ({"bases": ("b",)}, "base 'b' is unknown"),
        ({"x": "eta"}, "dimension 'eta' is unknown"),
    ):
        with pytest.raises(UserError, match=message):
            plot(LINES.model_copy(update=keys), gathered(), (), "studies/small.yaml: plot")


def test_names_at_the_edge_stand_at_the_height_of_their_lines():
    found = figures([outcome(name, n, 0, fid) for name, fid in (("CT", 20.0), ("CD", 10.0)) for n in (1, 2)])
    svg = plot(LINES.model_copy(update={"y_scale": "linear"}), found, (), "here").charts[0].light
    elements = [e for e in ElementTree.fromstring(svg).iter() if e.text in ("CT", "CD", "noise floor")]
    places = {e.text: float(e.attrib["y"]) for e in elements}
    # From the foot up: floor 9.5, CD 10, CT 20. In SVG y grows downwards.
    assert places["CT"] < places["CD"] < places["noise floor"]
    assert places["CD"] - places["CT"] > 100
