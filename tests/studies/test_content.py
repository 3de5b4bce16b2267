"""What a page says beside its tables: what rows took, which code made them, what their figures were measured with."""

from dataclasses import replace

from pipelines.study.content import budget, facts
from pipelines.study.figures import figures
from pipelines.study.metrics import METRICS, metric
from tests.studies.made_up import ABOUT, TEACHER, outcome, outcomes


def shown(found: list) -> dict[tuple[str, ...], list[str]]:
    """{(headings, steps): the other cells} of the budget."""
    table = budget(found, figures(found, series=("CD", TEACHER)))
    assert len(table.columns) == len(table.lines[0].cells)
    return {(*line.headings, line.cells[0].text): [cell.text for cell in line.cells[1:]] for line in table.lines}


def test_a_budget_is_of_each_row_and_evaluations_are_of_those_that_are_done() -> None:
    found = [
        outcome("CD", 2, 0, 10.0, measured={"seconds_per_image": 0.25}),
        replace(outcome("CD", 2, 1, None), nfe=4, seconds=None),  # a plan, which its seed that is done has mended
        outcome("CD", 4, 0, 8.0, images=512, seconds=30.0),
        replace(outcome(TEACHER, 2, 0, None), nfe=3),
        outcome(TEACHER, 4, 0, 9.0, measured={"seconds_per_image": 0.5}),
    ]
    assert shown(found) == {
        ("CD", "2"): ["2", "25\u202f600", "60.0", "1 of 2"],
        ("CD", "4"): ["4", "512", "30.0", "1 of 1"],
    }
    both = [*found, *(replace(o, base="other", images=256) for o in found if o.series == "CD")]
    assert [key for key in shown(both) if "other" in key] == [("other", "CD", "2"), ("other", "CD", "4")]
    assert shown(both)["emoji", "CD", "4"][1] == "512" and shown(both)["other", "CD", "4"][1] == "256"


def test_a_budget_leaves_out_what_nobody_knows() -> None:
    untimed = [replace(o, seconds=None) for o in outcomes()]
    table = budget(untimed, figures(untimed))
    assert table.columns == ("steps", "evaluations", "training images", "seeds done")
    assert table.notes == ("Samplers of the teacher are not trained.",)
    timed = [replace(o, measured={"clock": "by a clock"}) for o in outcomes() if o.is_student]
    table = budget(timed, figures(timed))
    assert table.notes == ("Seconds of training were measured: by a clock; lowest to highest over seeds.",)
    samplers = [o for o in outcomes() if not o.is_student]
    table = budget(samplers, figures(samplers))
    assert not table.lines and not table.columns
    assert table.notes == ("All rows are samplers of the teacher: none is trained.",)


def test_the_code_of_rows_is_named_and_whether_files_differ_from_it() -> None:
    first = outcome("CD", 1, 0, 1.0, measured={"commit": "abc", "dirty": True, "device": "cpu, 1 threads"})
    second = outcome("CD", 1, 1, 1.0, measured={"commit": "def", "dirty": False, "device": "cpu, 1 threads"})
    missing = outcome("CD", 1, 2, None, measured={"commit": "fff", "device": "another"})
    found = [first, second, missing]
    (_, run), *_ = facts("small", found, figures(found))
    assert dict(run) == {
        "Command": "mcm study run small",
        "Seeds": "0, 1, 2",
        "Commit of the rows": "abc, files differ from it, def",
        "Rows ran on": "cpu, 1 threads",
    }
    (_, run), *_ = facts("small", [missing], figures([missing]))
    assert dict(run)["Commit of the rows"] == "–"


def test_each_base_says_what_its_own_figures_were_measured_with() -> None:
    about = {**ABOUT, "noise_floor_kid": 0.5, "noise_floor_counts": [20, 4]}
    other = {**about, "samples": 512, "noise_floor_fid": 4.5}
    found = [replace(o, about=about) for o in outcomes()]
    found += [replace(o, about=other) for o in outcomes(("digits",))]
    gathered = figures(found)
    groups = {title: dict(values) for title, values in facts("small", found, gathered)}
    first, second = groups["Figures of emoji"], groups["Figures of digits"]
    assert (first["Samples of each row"], second["Samples of each row"]) == ("2000", "512")
    assert first["Real samples of the noise floor"] == "20 and 4"
    for group, fid in ((first, "9.50"), (second, "4.50")):
        assert group["Noise floor of FID (EffNet-Lite0@128)"] == fid
        assert group["Noise floor of KID (EffNet-Lite0@128)"] == "0.500"
    floors = {key: [gathered.floor(key, base) for base in ("emoji", "digits")] for key in ("fid", "kid", "recall")}
    assert [floor and floor["mean"] for floor in floors["fid"]] == [9.5, 4.5]
    assert [floor and floor["mean"] for floor in floors["kid"]] == [0.5, 0.5]
    assert floors["recall"] == [None, None]
    same = [o for o in found if o.base == "emoji" and o.seed == 0][:2]
    two = figures([same[0], replace(same[1], about=other)])
    assert two.floor("fid", "emoji") is None, "rows of a seed that were measured against different floors have none"


def test_what_a_solver_adds_is_not_called_a_noise_floor() -> None:
    about = {"noise_floor_flow_rmse": 1e-3, "noise_floor_w2": 0.5}
    found = [replace(outcome("CD", 1, 0, None), metrics={"w2": 1.0, "flow_rmse": 0.25}, about=about)]
    groups = {title: dict(values) for title, values in facts("small", found, figures(found, kind="mixture"))}
    assert groups["Figures"]["Noise floor of Wasserstein-2 distance to the data"] == "0.500"
    assert groups["Figures"]["Error of the exact map itself"] == "0.00100"
    assert not any("floor of error" in name for name in groups["Figures"])


def test_metrics_know_which_way_is_better() -> None:
    better = {
        "fid": (1, 2),
        "kid": (1, 2),
        "precision": (2, 1),
        "recall": (2, 1),
        "flow_rmse": (1, 2),
        "w2": (1, 2),
        "frechet": (1, 2),
    }
    for name, (good, bad) in {**better, "norm_ratio": (0.95, 1.2)}.items():
        assert METRICS[name].loss(good) < METRICS[name].loss(bad), name
    assert METRICS["norm_ratio"].loss(1.1) < METRICS["norm_ratio"].loss(0.8), "both sides of 1 are off"
    of_features = {"fid": True, "kid": True, "precision": True, "recall": True, "flow_rmse": False, "w2": False}
    assert {name: METRICS[name].of_features for name in of_features} == of_features
    assert (metric("norm_sq").aim, metric("of_mine").aim, metric("of_mine").title) == (None, None, "of mine")
