"""Claims are met, not met or within the spread, by means and p as another library has it."""

import pytest
from scipy import stats

from mcm.errors import UserError
from pipelines.study.checks import CheckConfig, check
from pipelines.study.figures import figures
from tests.studies.made_up import STEPS, TEACHER, gathered, outcome, outcomes


def verdicts(found=None, **keys):
    checked = check(CheckConfig(claim="a claim", **keys), found or gathered(), "here")
    return checked.verdict, [result.verdict for result in checked.results]


def test_p_is_of_the_differences_by_seed_and_a_claim_is_met_below_its_level():
    checked = check(CheckConfig(claim="c", left="CD", right="CT", metric="fid", at=(4,)), gathered(), "here")
    (result,) = checked.results
    assert result.margin == pytest.approx(5)  # 20 / 4 against 40 / 4
    expected = stats.ttest_rel([14, 15, 16], [21, 19, 20]).pvalue
    assert result.p == pytest.approx(expected) and result.p_text == f"{expected:.2g}"
    assert (result.left, result.relation, result.right) == ("CD 15.0 ± 1.0", "less than", "CT 20.0 ± 1.0")
    assert checked.verdict == "met"


@pytest.mark.parametrize("factor", [1.0, 1.5])
def test_sides_of_other_seeds_are_independent_and_p_is_of_welchs_test(factor):
    left, right = [10.0, 10.5, 10.2], [14.0, 9.0, 15.0, 11.0, 13.0]
    found = figures(
        [
            outcome(name, 1, seed, value)
            for name, values in (("CD", left), ("CT", right))
            for seed, value in enumerate(values)
        ]
    )
    within = {"left": "CD", "right": "CT", "metric": "fid", "factor": factor}
    (result,) = check(CheckConfig(claim="c", within=within), found, "here").results
    expected = stats.ttest_ind(left, [factor * value for value in right], equal_var=False).pvalue
    assert result.p == pytest.approx(expected)
    assert result.verdict == ("within the spread" if factor == 1 else "met")


def test_two_standard_errors_of_three_differences_are_not_enough():
    """Which are 3, 3 and 0."""
    found = figures(
        [
            outcome(name, 1, seed, fid)
            for name, fids in (("CD", (10, 11, 12)), ("CT", (13, 14, 12)))
            for seed, fid in enumerate(fids)
        ]
    )
    (result,) = check(CheckConfig(claim="c", left="CD", right="CT", metric="fid"), found, "here").results
    assert result.margin == 2 and result.p == pytest.approx(0.184, rel=1e-2)
    assert result.verdict == "within the spread"


def test_seeds_that_all_come_to_the_same_are_sure():
    found = figures([outcome(name, 1, seed, fid) for name, fid in (("CD", 9.0), ("CT", 9.5)) for seed in range(3)])
    (result,) = check(CheckConfig(claim="c", left="CD", right="CT", metric="fid"), found, "here").results
    assert (result.verdict, result.p, result.p_text) == ("met", 0.0, "< 0.001")
    (result,) = check(CheckConfig(claim="c", left="CD", right="CD", metric="fid"), found, "here").results
    assert (result.verdict, result.p) == ("within the spread", 1.0)


def test_a_claim_that_is_false_is_not_met_and_one_too_close_is_within_the_spread():
    assert verdicts(left="CT", right="CD", metric="fid", at=(1, 4)) == ("not met", ["not met", "not met"])
    # 1.25 apart at 8 steps: 1.25 standard errors, p 0.34
    assert verdicts(left="CD", right="PD", metric="fid", at=(1, 8)) == (
        "within the spread",
        ["met", "within the spread"],
    )
    assert verdicts(left="PD", right="CD", metric="fid", at=(8,)) == ("within the spread", ["within the spread"])


def test_greater_turns_a_claim_around():
    assert verdicts(left="CT", right="CD", metric="fid", by="greater", at=(1,)) == ("met", ["met"])
    assert verdicts(left="CD", right="CT", metric="fid", by="greater", at=(1,)) == ("not met", ["not met"])


def test_without_steps_a_claim_is_of_all_that_both_sides_have():
    assert len(verdicts(left="CD", right="CT", metric="fid")[1]) == len(STEPS)
    assert len(verdicts(gathered(bases=("a", "b")), left="CD", right="CT", metric="fid")[1]) == 2 * len(STEPS)
    assert len(verdicts(gathered(bases=("a", "b")), left="CD", right="CT", metric="fid", base="b")[1]) == len(STEPS)


def test_with_one_seed_the_means_decide():
    found = figures([outcome("CD", 1, 0, 10.0), outcome("CT", 1, 0, 10.5)])
    (result,) = check(CheckConfig(claim="c", left="CD", right="CT", metric="fid"), found, "here").results
    assert (result.verdict, result.p, result.p_text) == ("met", None, "–")


def test_falling_is_held_from_each_step_to_the_next():
    assert verdicts(falls={"series": "CT", "metric": "fid"}) == ("met", ["met"] * 3)
    flat = figures([o for o in outcomes() if o.series == "CD" and o.steps < 4] + [
        outcome("CD", 4, seed, 25.0 + seed) for seed in range(3)
    ])  # fmt: skip
    assert verdicts(flat, falls={"series": "CD", "metric": "fid"}) == ("not met", ["met", "not met"])


def test_within_takes_the_factor_and_the_steps_of_the_teacher():
    keys = {"left": "CD", "right": TEACHER, "metric": "fid", "at": (8,), "right_at": 64}
    assert verdicts(within={**keys, "factor": 1.3}) == ("met", ["met"])  # 12.5 against 10
    assert verdicts(within={**keys, "factor": 1.2}) == ("not met", ["not met"])
    (result,) = check(CheckConfig(claim="c", within={**keys, "factor": 1.2}), gathered(), "here").results
    assert result.place == "8 against 64 steps" and result.margin == pytest.approx(12 - 12.5)


def test_near_is_to_both_sides():
    near = {"series": "CD", "metric": "fid", "value": 28.0, "tolerance": 1.0, "at": (1,)}  # of 29, 30, 31
    (result,) = check(CheckConfig(claim="c", near=near), gathered(), "here").results
    assert result.p == pytest.approx(stats.ttest_1samp([29, 30, 31], 29).pvalue)
    for value, verdict in ((30.0, "met"), (25.0, "not met"), (35.0, "not met"), (32.5, "within the spread")):
        near = {"series": "CD", "metric": "fid", "value": value, "tolerance": 2.5, "at": (1,)}
        assert verdicts(near=near) == (verdict, [verdict])


def test_what_is_missing_is_not_measured_and_never_met():
    found = gathered(missing=tuple(("PD", 4, seed) for seed in range(3)))
    verdict, each = verdicts(found, left="CD", right="PD", metric="fid", at=(1, 4))
    assert (verdict, each) == ("not measured", ["met", "not measured"])
    nothing = figures([outcome(o.series, o.steps, o.seed, None) for o in outcomes()])
    assert verdicts(nothing, left="CD", right="PD", metric="fid")[0] == "not measured"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"left": "CD", "right": "XY", "metric": "fid"}, "series 'XY' is unknown"),
        ({"left": "CD", "right": "PD", "metric": "fdi"}, "metric 'fdi' is unknown; did you mean 'fid'"),
        ({"left": "CD", "right": "PD", "metric": "fid", "at": (3,)}, "'CD' has no row at 3 steps"),
        ({"left": TEACHER, "right": "PD", "metric": "fid", "at": (1,)}, "has no row at 1 step; give"),
        ({"left": "CD", "right": "PD", "metric": "fid", "base": "x"}, "base 'x' is unknown"),
    ],
)
def test_a_claim_about_nothing_is_a_user_error(keys, message):
    with pytest.raises(UserError, match=message):
        check(CheckConfig(claim="c", **keys), gathered(), "studies/small.yaml: check 1")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "one of"),
        ({"left": "CD", "right": "PD"}, "needs left, right and metric"),
        ({"left": "CD", "right": "PD", "metric": "fid", "falls": {"series": "CD", "metric": "fid"}}, "one of"),
        ({"at": (1,), "falls": {"series": "CD", "metric": "fid"}}, "stand in its own section"),
    ],
)
def test_a_claim_is_one_claim(keys, message):
    with pytest.raises(UserError, match=message):
        CheckConfig.parse({"claim": "c", **keys}, "here")
