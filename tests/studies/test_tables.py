"""Mean and spread over seeds, and where figures stand in tables."""

import math
import random
import statistics
from dataclasses import replace

import pytest

from mcm.errors import UserError
from pipelines.study.figures import as_json, csv, figures
from pipelines.study.paper import PaperConfig, source
from pipelines.study.tables import TableConfig, number, spread, tables
from tests.studies.made_up import FID, STEPS, TEACHER, gathered, outcome, outcomes

STUDENTS = TableConfig(series=tuple(FID), reference=(TEACHER,))


def texts(config, found, sources=()):
    """{(row, column): text} of the only table."""
    (table,) = tables(config, found, sources, "here")
    return {
        (line.headings[0], column): cell.text
        for line in table.lines
        for column, cell in zip(table.columns, line.cells, strict=True)
    }


def test_mean_and_sample_deviation_are_those_of_the_seeds():
    summary = gathered().summary.set_index(["series", "steps", "metric"])
    for series, fid in FID.items():
        for steps in STEPS:
            seeds = [fid / steps + 10 + off for off in (-1, 0, 1)]
            row = summary.loc[(series, steps, "fid")]
            assert row["mean"] == pytest.approx(statistics.mean(seeds))
            assert row["std"] == pytest.approx(statistics.stdev(seeds)) == pytest.approx(1)
            assert row["n"] == row["planned"] == 3
    assert math.isnan(summary.loc[(TEACHER, 64, "fid"), "std"])  # one seed has no spread, and not a spread of 0


def test_rows_are_steps_in_order_and_columns_series_in_the_studys():
    found = figures([o for o in outcomes() if o.series != "PD" or o.steps != 2] + [outcome("CD", 16, 0, 9.0)])
    (table,) = tables(TableConfig(series=("PD", "CD")), found, (), "here")
    assert table.columns == ("PD", "CD")
    assert [line.headings for line in table.lines if line.kind == "ours"] == [("1",), ("2",), ("4",), ("8",), ("16",)]
    shown = texts(TableConfig(series=("PD", "CD")), found)
    assert shown["1", "PD"] == "40.0 ± 1.0" and shown["1", "CD"] == "30.0 ± 1.0"
    assert shown["2", "PD"] == shown["16", "PD"] == ""  # the study asks for no such row
    assert shown["16", "CD"] == "9.00"  # of one seed: no spread


def test_the_teacher_and_the_noise_floor_stand_in_every_column():
    shown = texts(STUDENTS, gathered())
    for series in FID:
        assert shown[f"{TEACHER} at 64 steps", series] == "10.0"
        assert shown["noise floor", series] == "9.50"


def mixture(base, steps, seed, **about):
    return replace(outcome("CD", steps, seed, None, base), metrics={"w2": 1.0, "flow_rmse": 2.0}, about=about)


def test_seeds_with_floors_of_their_own_have_their_mean_and_bases_that_are_rows_a_floor_each():
    drawn = {0: 0.19, 1: 0.17, 2: 0.18}
    rows = [
        mixture(base, n, seed, noise_floor_w2=level * drawn[seed], noise_floor_flow_rmse=1e-4)
        for base, level in (("a", 1), ("b", 100))
        for n in (1, 2)
        for seed in drawn
    ]
    found = figures(rows, kind="mixture")
    floor = found.floor("w2", "a")
    assert floor is not None and floor["mean"] == pytest.approx(0.18) and floor["std"] == pytest.approx(0.01)
    error, distance = tables(TableConfig(index=("base", "steps"), metrics=("flow_rmse", "w2")), found, (), "here")
    assert [(line.headings, line.cells[0].text) for line in distance.lines if line.kind == "floor"] == [
        (("a", "noise floor"), "0.180 ± 0.010"),
        (("b", "noise floor"), "18.0 ± 1.0"),
    ]
    assert not [line for line in error.lines if line.kind == "floor"], "a solver's own error is no floor of data"


@pytest.mark.parametrize(
    ("title", "index", "shown"),
    [
        ("wasserstein-2 distance to the data", "steps", "Wasserstein-2 distance to the data"),
        ("Students", "steps", "Students: Wasserstein-2 distance to the data"),
        ("Of 1 step", "base", "Of 1 step: Wasserstein-2 distance to the data"),
        ("Of 11 steps", "base", "Of 11 steps: Wasserstein-2 distance to the data, 1 step"),
    ],
)
def test_a_title_says_each_thing_once(title, index, shown):
    found = figures([mixture("a", 1, 0)], kind="mixture")
    (table,) = tables(TableConfig(title=title, index=index, metrics="w2"), found, (), "here")
    assert table.title == shown


def test_a_table_that_names_no_metric_has_the_first_of_its_kind():
    found = figures([mixture("a", 1, 0)], kind="mixture")
    assert [table.title for table in tables(TableConfig(), found, (), "here")] == ["Error to the exact flow (RMSE)"]
    assert len(tables(TableConfig(), gathered(), (), "here")) == 1


def test_missing_rows_are_dashes_and_seeds_that_are_there_are_counted():
    missing = (("PD", 4, 1), *(("CD", 2, seed) for seed in range(3)))
    found = gathered(missing=missing)
    shown = texts(STUDENTS, found)
    assert shown["2", "CD"] == "–"
    assert shown["4", "PD"] == "17.0 ± 0.7 (n = 2)"
    assert found.missing == 4


def test_a_study_of_which_nothing_is_done_has_its_whole_table():
    nothing = [outcome(o.series, o.steps, o.seed, None) for o in outcomes()]
    (table,) = tables(STUDENTS, figures(nothing), (), "here")
    assert {cell.text for line in table.lines for cell in line.cells} == {"–"}
    assert len(table.lines) == len(STEPS) + 1


def test_the_best_is_marked_among_students_of_the_same_steps_and_base():
    found = gathered(bases=("a", "b"))
    for metric, best in (("fid", "CD"), ("recall", "CD")):  # less is better, and greater
        for table in tables(TableConfig(metrics=(metric,), columns=("series",)), found, (), "here"):
            for line in (line for line in table.lines if line.kind == "ours"):
                marked = [name for name, cell in zip(table.columns, line.cells, strict=True) if cell.best]
                assert marked == ([] if line.headings == ("64",) else [best])
    (table,) = tables(TableConfig(index=("series",), columns=("base", "steps")), found, (), "here")
    assert {line.headings[0] for line in table.lines for cell in line.cells if cell.best} == {"CD"}
    assert sum(cell.best for line in table.lines for cell in line.cells) == 2 * len(STEPS)


def test_each_base_and_metric_has_a_table_unless_they_are_columns():
    found = gathered(bases=("mixture-2", "mixture-64"))
    titles = [table.title for table in tables(TableConfig(metrics=("fid", "recall")), found, (), "here")]
    assert [title.rpartition(", ")[2] for title in titles] == ["mixture-2"] * 2 + ["mixture-64"] * 2
    assert titles[0].startswith("FID (EffNet-Lite0@128)")  # never without its features
    both = TableConfig(index=("series", "steps"), columns=("base", "metrics"), metrics=("fid", "recall"))
    (table,) = tables(both, found, (), "here")
    assert len(table.columns) == 4 and len(table.lines) == 3 * len(STEPS) + 2  # the teacher's, and the floor


def test_a_key_that_rows_set_is_a_dimension():
    found = figures(
        [outcome(f"eta {eta}", 4, 0, 20 - eta, settings={"students.cd.eta": eta}) for eta in (0.8, 0.0, 0.5)]
    )
    config = TableConfig(index=("students.cd.eta",), columns=("steps",))
    assert texts(config, found) == {
        ("0.0", "4 steps"): "20.0",
        ("0.5", "4 steps"): "19.5",
        ("0.8", "4 steps"): "19.2",
        ("noise floor", "4 steps"): "9.50",
    }


def test_ratios_are_of_means_over_the_teachers():
    table = tables(TableConfig(series=tuple(FID), reference=(TEACHER,), over=TEACHER), gathered(), (), "here")[1]
    assert table.title == f"FID (EffNet-Lite0@128) over that of {TEACHER} at 64 steps"
    shown = {line.headings[0]: [cell.text for cell in line.cells] for line in table.lines}
    assert table.columns == ("CT", "CD", "PD")
    assert shown["1"] == ["5.00", "3.00", "4.00"] and shown["8"] == ["1.50", "1.25", "1.38"]
    assert shown[f"{TEACHER} at 64 steps"] == ["1.00"] * 3


def test_the_papers_figures_stand_beside_the_same_series_and_steps():
    sizes = [
        source(
            PaperConfig(
                table="table1",
                dataset="imagenet64",
                size=size,
                series={"CD": "CD", "CT": "CT", TEACHER: "aDDIM"},
            ),
            "here",
        )
        for size in ("small", "large")
    ]
    shown = texts(STUDENTS, gathered(), sizes)
    assert [shown[str(n), "CD: paper, Table 1, small"] for n in STEPS] == ["4.3", "2.0", "1.7", "1.6"]
    assert [shown[str(n), "CT: paper, Table 1, large"] for n in STEPS] == ["6.4", "2.3", "1.6", "1.5"]
    assert shown[f"{TEACHER} at 64 steps", "CD: paper, Table 1, small"] == "1.5 at 512"
    assert "PD: paper, Table 1, small" not in {column for _, column in shown}
    across = texts(TableConfig(index=("series",), columns=("steps",), series=("CD",)), gathered(), sizes[:1])
    assert across["CD: paper, Table 1, small", "4 steps"] == "1.7"
    (table,) = tables(TableConfig(metrics=("recall",)), gathered(), sizes, "here")
    assert not table.papers and len(table.notes) == 1
    (table,) = tables(STUDENTS, gathered(), sizes[:1], "here")
    assert "paper, Table 1 (small network, ImageNet64, Inception FID, 50\u202f000 samples)" in table.notes[1]


def test_ratios_of_the_paper_are_to_its_own_teacher():
    config = PaperConfig(table="table1", dataset="imagenet64", size="small", series={"CD": "CD", TEACHER: "aDDIM"})
    table = tables(TableConfig(series=tuple(FID), over=TEACHER), gathered(), [source(config, "here")], "here")[1]
    place = table.columns.index("CD: paper, Table 1, small")
    shown = {line.headings[0]: line.cells[place].text for line in table.lines}
    assert [shown[str(n)] for n in STEPS] == [f"{fid / 1.5:.2f}" for fid in (4.3, 2.0, 1.7, 1.6)]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"index": ("step",)}, "dimension 'step' is unknown; did you mean 'steps'"),
        ({"metrics": ("fdi",)}, "metric 'fdi' is unknown; did you mean 'fid'"),
        ({"series": ("CDD",)}, "series 'CDD' is unknown; did you mean 'CD'"),
        ({"columns": ("metrics",)}, "rows .* fall into one cell"),
    ],
)
def test_a_table_that_cannot_be_laid_out_is_a_user_error(config, message):
    with pytest.raises(UserError, match=message):
        tables(TableConfig(**config), gathered(), (), "studies/small.yaml: table 1")


def test_a_row_that_is_there_twice_is_a_user_error():
    with pytest.raises(UserError, match="'CD' at 1 step, seed 0, is there twice"):
        figures([*outcomes(), outcome("CD", 1, 0, 3.0)])


def test_frames_do_not_depend_on_the_order_of_outcomes():
    order = outcomes(missing=(("CD", 2, 0),))
    shuffled = random.Random(0).sample(order, len(order))
    first, second = figures(order, series=[*FID, TEACHER]), figures(shuffled, series=[*FID, TEACHER])
    assert csv(first.results) == csv(second.results)
    assert csv(first.summary) == csv(second.summary)
    assert "nan" not in (csv(first.results) + csv(first.summary)).lower()
    assert ",2000," in csv(first.results)  # a whole number, though one row lacks it


def test_a_figure_that_is_not_finite_is_missing_and_the_others_of_its_row_are_there():
    found = figures([outcome("CD", 1, 0, math.inf), outcome("CD", 1, 1, 12.0), outcome("CD", 1, 2, None)])
    assert found.missing == 1
    summary = found.summary.set_index("metric")
    assert (summary.loc["fid", "mean"], summary.loc["fid", "n"], summary.loc["recall", "n"]) == (12.0, 1, 2)
    assert "inf" not in csv(found.results) + csv(found.summary)


def test_what_a_figure_cost_is_known_where_a_seed_of_its_row_is_done():
    planned = replace(outcome("CD", 2, 0, None), nfe=4)  # before it runs, evaluations are an estimate
    found = figures([planned, outcome("CD", 2, 1, 12.0)])
    assert len(found.summary) == 2 and set(found.summary["nfe"]) == {2}


def test_figures_are_printed_with_the_digits_that_they_need():
    row = {"mean": 140.0, "std": 0.4}
    assert spread(row) == "140.0 ± 0.4"
    assert spread({"mean": 0.0123, "std": 0.00456}) == "0.0123 ± 0.0046"
    assert spread({"mean": 12.0, "std": 0.0}) == "12.0 ± 0.0"
    assert spread({"mean": 12.0, "std": math.nan}) == "12.0"
    assert number(-0.00012) == "−0.000120" and number(1234.5) == "1\u202f230" and number(1e-5) == "1.00e-05"


def test_settings_are_one_text_whatever_their_order():
    assert as_json({"b": 1, "a": [2]}) == as_json({"a": [2], "b": 1}) != as_json({})
