"""The harness of the benchmarks: what a ratio is, in which order things run, and that the page says all of it."""

import html
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import __main__ as program
from benchmarks import machine, page, plots, results
from benchmarks.__main__ import cases, chosen, main
from benchmarks.harness import Case, Figure, Options, Ratio, Results, Timings, at_least, at_most, in_turn
from benchmarks.machine import Machine, Peak
from mcm.errors import UserError


class Clock:
    """A clock that functions move on by hand."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def work(self, name: str, *seconds: float):
        """A function that takes these seconds, one each call."""
        left = list(seconds)

        def function() -> None:
            self.calls.append(name)
            self.now += left.pop(0)

        return function


def test_a_ratio_is_the_median_of_paired_times_with_its_range() -> None:
    clock = Clock()
    ours, peer = clock.work("ours", 9.0, 1.0, 2.0, 4.0), clock.work("peer", 9.0, 2.0, 2.0, 12.0)
    taken = in_turn({"ours": ours, "peer": peer}, rounds=3, warmup=1, clock=lambda: clock.now)
    assert taken.seconds == {"ours": [1.0, 2.0, 4.0], "peer": [2.0, 2.0, 12.0]}
    # Paired: 2, 1 and 3, whose median is 2; the ratio of the medians would be 1.
    assert taken.ratio("peer", "ours") == Ratio(2.0, 1.0, 3.0)
    assert taken.ratio("peer", "ours").scaled(0.5) == Ratio(1.0, 0.5, 1.5)
    assert taken.rate("ours", 64) == 32.0
    assert taken.best("ours", 64) == 64.0
    assert taken.share("ours", 64, 128.0) == Ratio(0.25, 0.125, 0.5)


def test_each_round_goes_the_other_way_so_that_nobody_is_always_first() -> None:
    clock = Clock()
    functions = {name: clock.work(name, *[1.0] * 5) for name in "abc"}
    in_turn(functions, rounds=4, warmup=1, clock=lambda: clock.now)
    rounds = ["".join(clock.calls[i : i + 3]) for i in range(0, 15, 3)]
    assert rounds == ["cba", "abc", "cba", "abc", "cba"]


def test_a_slow_machine_for_a_while_leaves_the_ratio_alone() -> None:
    slow = [1.0, 1.0, 10.0, 10.0, 1.0]
    taken = Timings({"ours": slow, "peer": [1.5 * seconds for seconds in slow]})
    assert taken.ratio("peer", "ours") == Ratio(1.5, 1.5, 1.5)


def test_an_aim_is_of_the_ratio_where_there_is_one() -> None:
    figure = Figure("speed", 3.0, "images/s", ratio=Ratio(1.2, 1.0, 2.0), aim=at_least(1.3))
    assert figure.reached is False
    assert replace(figure, ratio=Ratio(1.3, 1.0, 2.0)).reached is True
    assert replace(figure, ratio=None).reached is True
    assert replace(figure, ratio=None, aim=at_most(2.0)).reached is False
    assert replace(figure, aim=None).reached is None


def entry(**changed: object) -> results.Entry:
    figures = [
        Figure("a < b | c", 1234.5, "images/s", 617.0, "peer & co", Ratio(2.0, 1.9, 2.1), "ours / peer", at_least(1.3)),
        Figure("missed", 0.5, "s", aim=at_most(0.25), note="why it was missed"),
        Figure("alone", 1.0e-5, "s"),
    ]
    curve = plots.plot("curve", "What is seen.", lambda axes: axes.plot([1, 2], [3, 4], **plots.series(0)))
    found = Results(figures, [curve], ["What was the same."], {"seconds": {"ours": [1.0, 2.0]}})
    peaks = [Peak("float32", 2.0e11, (512, 512, 512))]
    where = Machine("CPU", "a processor", 2, 2, 23.5, "3.11", "2.13", "Linux")
    made = results.Entry(
        "Title", "About <this>.", "python -m benchmarks x", False, 9.0, 0.1, where, peaks, peaks, found
    )
    return replace(made, **changed)  # type: ignore[arg-type]


def test_results_come_back_from_disk_as_they_were(tmp_path: Path) -> None:
    entries = {"one": entry(), "two": entry(quick=True)}
    results.write(tmp_path, entries)
    assert results.read(tmp_path) == entries
    assert "<svg" not in (tmp_path / results.FILE).read_text()
    assert (tmp_path / "one-curve.svg").read_text() == entries["one"].results.plots[0].svg


def test_a_file_of_another_kind_is_refused_in_one_line(tmp_path: Path) -> None:
    assert results.read(tmp_path) == {}
    (tmp_path / results.FILE).write_text(json.dumps({"version": 1, "cases": {"x": {}}}))
    with pytest.raises(UserError, match="not a benchmark's results"):
        results.read(tmp_path)


@pytest.mark.parametrize("form", list(page.FILES))
def test_the_page_holds_every_figure_aim_command_and_machine(tmp_path: Path, form: str) -> None:
    made = entry(quick=True)
    page.write(tmp_path, {"one": made})
    text = html.unescape((tmp_path / form).read_text()).replace("\\|", "|")
    for figure in made.results.figures:
        words = [figure.name, page.number(figure.value), figure.unit, figure.note, figure.peer_name, figure.ratio_of]
        for word in [*words, page.ratio(figure.ratio), str(figure.aim or "")]:
            assert word in text
    for word in ("1 of 2 aims", made.about, made.command, "not for quoting", "one-curve.svg", "What is seen."):
        assert word in " ".join(text.split())
    assert "a processor, 2 cores" in text
    assert "200 GFLOP/s in float32" in text
    states = text.count(">yes<"), text.count(">no<")
    assert form != "index.html" or states == (1, 1)
    assert form != "README.md" or (text.count("| yes |"), text.count("| no |")) == (1, 1)


def test_the_page_escapes_what_cases_say(tmp_path: Path) -> None:
    page.write(tmp_path, {"one": entry(about="<script>")})
    assert "<script>" not in (tmp_path / "index.html").read_text()


def test_numbers_are_short_and_plain() -> None:
    shown = {1234567.0: "1,234,567", 12.345: "12.3", 0.1234: "0.123", 1.0e-9: "1.00e-09", 0.0: "0", -2.5: "-2.50"}
    assert {value: page.number(value) for value in shown} == shown
    assert page.number(None) == ""


def test_every_case_is_found_by_its_name_and_says_what_it_is() -> None:
    found = cases()
    assert {"train_step", "sampling"} <= set(found)
    for name, case in found.items():
        assert case.name == name
        assert case.title
        assert case.about.endswith(".")


def test_named_cases_run_and_else_those_that_do_not_take_long() -> None:
    def run(options: Options) -> Results:
        return Results([])

    known = {name: Case(name, name, "", run, default=name != "soak") for name in ("data", "soak")}
    assert [case.name for case in chosen(known, [])] == ["data"]
    assert [case.name for case in chosen(known, ["soak"])] == ["soak"]


def test_an_unknown_case_is_one_line_with_the_near_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["train_stap"])
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert "did you mean 'train_step'?" in said
    assert said.count("\n") == 1


def test_list_names_the_cases(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--list"])
    assert "sampling" in capsys.readouterr().out


def test_a_case_that_cannot_be_measured_leaves_the_others_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(options: Options) -> Results:
        raise UserError("the peer is not installed")

    def measured(options: Options) -> Results:
        return Results([Figure("speed", 2.0, "images/s")])

    known = {"a": Case("a", "First", "Broken.", missing), "b": Case("b", "Second", "Whole.", measured)}
    monkeypatch.setattr(program, "cases", lambda: known)
    monkeypatch.setattr(machine, "SHAPES", [(8, 8, 8)])
    monkeypatch.setattr(program, "PEAK_SECONDS", 0.01)
    with pytest.raises(SystemExit) as left:
        main(["--quick", "--out", str(tmp_path)])
    assert left.value.code == 2
    assert "not measured: a" in capsys.readouterr().err
    written = results.read(tmp_path)
    assert list(written) == ["b"]
    assert written["b"].quick
    # Another case beside it leaves it where it is.
    known["a"] = Case("a", "First", "Whole now.", measured)
    main(["a", "--out", str(tmp_path)])
    assert list(results.read(tmp_path)) == ["a", "b"]
    assert results.read(tmp_path)["b"] == written["b"]


def test_a_peak_measured_in_a_slow_minute_does_not_lower_the_highest(monkeypatch: pytest.MonkeyPatch) -> None:
    place = torch.device("cpu")
    monkeypatch.setattr(machine, "SHAPES", [(8, 8, 8)])
    monkeypatch.setattr(machine, "_HIGHEST", {("float32", place): Peak("float32", 1e30, (9, 9, 9))})
    assert machine.highest("float32", place).shape == (9, 9, 9)
    machine._HIGHEST.clear()
    assert machine.highest("float32", place).shape == (8, 8, 8)
