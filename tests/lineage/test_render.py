"""What `mcm lineage diff` prints: the answer first, every node with its state in words, nothing to steer a terminal."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipelines.lineage.commands.diff import main
from pipelines.lineage.compare.diff import compare
from pipelines.lineage.compare.render import as_lines, as_markdown, as_text, headline, phrase, value
from pipelines.lineage.graph import build
from tests.chain.programs import ROOT
from tests.lineage.builders import IMAGE, chain, graph, md5, partial, record, write
from tests.lineage.diffs import runs

LESS_LR = {"parameters": {"teacher.learning_rate": 0.001}}


def lines(a: dict[str, Any], b: dict[str, Any], everything: bool = False, **both: Any) -> list[str]:
    return as_lines(runs(a, b, **both).json(), everything).split("\n")


def test_the_first_line_after_the_runs_is_the_answer() -> None:
    shown = lines({}, LESS_LR)
    assert shown[0].startswith("a: r1 (mcm, 2026-03-01 ") and shown[0].endswith(", commit cccccccccccc)")
    assert shown[2:6] == [
        "",
        "first cause: parameter teacher.learning_rate 0.002 -> 0.001, at train_teacher; 7 nodes followed",
        "9 nodes: 8 changed, 1 recomputed to the same bytes",
        "",
    ]


def test_a_git_revision_is_named_by_its_commit() -> None:
    lock = build("HEAD", "dvc", "e" * 40, [(partial(r), False) for r in chain()])
    assert as_lines(compare(lock, lock).json()).startswith("a: HEAD (dvc, commit eeeeeeeeeeee)\n")


def test_equal_runs_have_the_same_bytes_at_every_node() -> None:
    assert lines({}, {})[3:5] == ["same bytes at every node", "9 nodes: 9 recomputed to the same bytes"]
    assert headline(runs({}, {}).json()) == "same bytes at every node"
    own = compare(graph(chain()), graph(chain())).json()
    assert "9 nodes: 9 the same execution" in as_lines(own)


def test_several_causes_come_in_the_order_of_the_graph() -> None:
    b = {"parameters": {"evaluation.seed": 3, "teacher.learning_rate": 0.001}, "students": ("cd-1", "cd-2", "cd-4")}
    assert lines({}, b)[3:9] == [
        "3 first causes:",
        "  parameter teacher.learning_rate 0.002 -> 0.001, at train_teacher; 7 nodes followed",
        "  train_student cd-4 added; 1 node followed",
        "  seed evaluation.seed 0 -> 3, at evaluate cd-1, evaluate cd-2, evaluate teacher; 1 node followed",
        "only in b: train_student cd-4, evaluate cd-4",
        "11 nodes: 8 changed, 2 added, 1 recomputed to the same bytes",
    ]
    assert headline(runs({}, b).json()) == "3 first causes"


def test_what_did_nothing_is_said() -> None:
    shown = lines({}, {"libraries": {"numpy": "2.2.0"}}, inert=("numpy",))
    assert shown[3:5] == [
        "same bytes at every node",
        "without effect: library numpy 2.1.0 -> 2.2.0, at prepare_data, train_teacher, estimate_variance and 5 more",
    ]


def test_files_that_acted_at_the_same_nodes_are_one_edit() -> None:
    names = [f"mcm/x{k}.py" for k in range(6)]
    both = {f"{name}@train_teacher": "old" for name in names}
    new = {f"{name}@train_teacher": "new" for name in names} | {"mcm/samplers.py": "new"}
    shown = lines({"files": both}, {"files": new})
    assert shown[3:6] == [
        "2 first causes:",
        "  code mcm/x0.py, mcm/x1.py, mcm/x2.py and 3 more, at train_teacher; 7 nodes followed",
        "  code mcm/samplers.py " + " -> ".join(md5("mcm/samplers.py", text, folder=False)[:8] for text in ("", "new"))
        + ", at evaluate cd-1, evaluate cd-2, evaluate teacher; 1 node followed",
    ]  # fmt: skip
    idle = lines({"files": both}, {"files": new}, inert=[*names, "mcm/samplers.py"])
    assert idle[4].startswith("without effect: code mcm/x0.py, mcm/x1.py, mcm/x2.py and 3 more, at train_teacher")


def test_nodes_that_only_one_run_has() -> None:
    a, b = chain("r1"), [r for r in chain("r2") if r.stage in ("prepare_data", "train_teacher")]
    shown = as_lines(compare(graph(a), graph(b)).json()).split("\n")
    assert shown[3:5] == [
        "same bytes at every node that both runs have",
        "only in a: estimate_variance, train_student cd-1, train_student cd-2 and 4 more",
    ]


def test_a_row_says_the_state_in_words_and_what_it_followed() -> None:
    shown = lines({}, LESS_LR)
    rows = {row.split("  ")[0]: row.split() for row in shown[: shown.index("", 6)]}
    assert rows["prepare_data"][1] == "recomputed" and rows["prepare_data"][2] == rows["prepare_data"][3]
    assert rows["train_teacher"][1] == "changed" and "first:" in rows["train_teacher"]
    assert rows["evaluate cd-1"][2] == "changed" and rows["evaluate cd-1"][-2:] == ["followed", "train_teacher"]


def test_parameters_and_metrics_stand_beside() -> None:
    shown = lines({}, {"parameters": {"teacher.learning_rate": 0.001, "teacher.emas": [0.9]}}, inert=("teacher.emas",))
    start = next(k for k, line in enumerate(shown) if line.startswith("parameter"))
    assert [line.split() for line in shown[start : start + 3]] == [
        ["parameter", "a", "b", "at", "effect"],
        ["teacher.emas", "[0.995]", "[0.9]", "train_teacher", "first", "cause"],
        ["teacher.learning_rate", "0.002", "0.001", "train_teacher", "first", "cause"],
    ]
    loss = next(line.split() for line in shown if line.startswith("train_teacher") and " loss " in line)
    a, b = float(loss[2]), float(loss[3])
    assert float(loss[4]) == pytest.approx(b - a, rel=0.01) and loss[5].endswith("%)")
    assert not any("seconds_per_image" in line for line in shown)


def test_figures_of_evaluations_are_not_repeated_from_the_report() -> None:
    a, b = (
        graph(
            [
                record("evaluate", "cd-1", run=run, metrics={"ddim-1.fid": fid}, outputs={"out": md5(run)}),
                record("report", run=run, metrics={"cd-1.ddim-1.fid": fid, "best.fid": fid / 2}, begin=100),
            ]
        )
        for run, fid in (("r1", 20.0), ("r2", 30.0))
    )
    rows = [line.split() for line in as_lines(compare(a, b).json()).split("\n")]
    assert ["evaluate", "cd-1", "ddim-1.fid", "20", "30", "+10", "(+50.0%)"] in rows
    assert ["report", "best.fid", "10", "15", "+5", "(+50.0%)"] in rows
    assert not any("cd-1.ddim-1.fid" in row for row in rows)


def test_all_adds_what_differs_where_bytes_are_equal() -> None:
    changed = {"libraries": {"numpy": "2.2.0"}}
    few, full = (lines({}, changed, everything, inert=("numpy",)) for everything in (False, True))
    assert not any("despite" in line for line in few)
    teacher = next(line for line in full if line.startswith("train_teacher"))
    assert teacher.endswith("despite library numpy 2.1.0 -> 2.2.0")
    assert any("measured durations differ" in line for line in full)
    assert not any("measured durations" in line for line in few)
    assert ["report", "recomputed", "durations", "durations"] in [line.split() for line in few]
    assert any("seconds_per_image" in line for line in full)


def test_a_failed_node_says_so() -> None:
    b = [*(r for r in chain("r2") if r.stage != "report"), record("report", run="r2", status="failed", begin=9999)]
    shown = as_lines(compare(graph(chain()), graph(b)).json()).split("\n")
    assert next(line for line in shown if line.startswith("report")).endswith("failed in b")


def test_long_lists_are_cut_and_all_shows_them() -> None:
    students = tuple(f"cd-{k}" for k in range(1, 41))
    salt = {f"train_student {name}": "again" for name in students}
    few, full = (lines({}, {"salt": salt}, everything, students=students) for everything in (False, True))
    assert few[3] == full[3] == "40 first causes:"
    assert "  and 28 more" in few and "  and 28 more" not in full
    assert any(line == "and 81 more metrics; --all shows them" for line in few)
    assert not any("--all" in line for line in full)
    assert len(full) > len(few) + 81


def test_lines_are_whole_where_no_terminal_is() -> None:
    name = "data." + "long" * 100
    shown = lines({}, {"parameters": {f"{name}@prepare_data": "x" * 500}})
    assert shown[3] == f"first cause: parameter {name} none -> {'x' * 20}…{'x' * 19}, at prepare_data; 8 nodes followed"
    assert not any(line != line.rstrip() for line in shown)


def test_a_narrow_terminal_folds_and_loses_nothing() -> None:
    from rich.console import Console

    written = io.StringIO()
    Console(file=written, width=80, color_system=None).print(as_text(runs({}, LESS_LR).json()))
    assert all(len(line.rstrip("\n")) <= 80 for line in written.getvalue().splitlines())
    assert "".join(["first:", "parameter", "teacher.learning_rate", "0.002", "->", "0.001"]) in "".join(
        "".join(line[44:] for line in written.getvalue().splitlines()).split()
    )


def test_names_cannot_steer_a_terminal_or_break_a_table() -> None:
    hostile = "x\x1b[31m|`</td>[red]\nnext"
    a = graph([record("train", hostile, outputs={"out": md5("a")})], name=hostile)
    b = graph([record("train", hostile, run="r2", outputs={"out": md5("b")}, parameters={hostile: hostile})])
    diff = compare(a, b).json()
    for text in (as_lines(diff), as_markdown(diff)):
        assert "\x1b" not in text and "\nnext" not in text
        assert "[red]" in text
    row = next(line for line in as_markdown(diff).split("\n") if line.startswith("| `train"))
    assert row.count("`") % 2 == 0 and row.replace("\\|", "").count("|") == 4


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (None, "none"),
        (md5("x"), md5("x")[:8]),
        (True, "true"),
        ([1, 2], "[1, 2]"),
        (0.002, "0.002"),
        ("text", "text"),
        (IMAGE, "sha256:111111111111"),
        ("a" * 40, "a" * 40),
        ("a" * 30 + "b" * 30, "a" * 20 + "…" + "b" * 19),
    ],
)
def test_values_are_short(given: Any, shown: str) -> None:
    assert value(given) == shown


@pytest.mark.parametrize(
    ("kind", "name", "before", "after", "shown"),
    [
        ("parameter", "teacher.seed", None, 1, "parameter teacher.seed none -> 1"),
        ("library", "kfp", None, "2.17", "library kfp only in b (2.17)"),
        ("code", "mcm/x.py", "0" * 32, None, "code mcm/x.py only in a"),
        ("data", "images", "0" * 32, "1" * 32, "data images 00000000 -> 11111111"),
        ("image", "image", None, IMAGE, "image none -> sha256:111111111111"),
        ("hardware", "threads", 1, 2, "hardware threads 1 -> 2"),
        ("stage", "report", "there", None, "report removed"),
        ("unexplained", "not reproducible", "0", "1", "not reproducible: other bytes from the same facts"),
        ("unexplained", "not recorded: code", "0", "1", "unexplained, not recorded: code"),
    ],
)
def test_causes_in_words(kind: str, name: str, before: Any, after: Any, shown: str) -> None:
    assert phrase({"kind": kind, "name": name, "before": before, "after": after}, lambda text: text) == shown


def test_markdown_for_a_pull_request() -> None:
    text = as_markdown(runs({}, LESS_LR).json())
    first = "parameter `teacher.learning_rate` `0.002` -> `0.001`"
    assert text.startswith(
        f"### Lineage: `r1` → `r2`\n\n**First cause: {first}, at `train_teacher`; 7 nodes followed**\n\n9 nodes: "
    )
    assert f"| node | state | because |\n| --- | --- | --- |\n| `train_teacher` | changed | first: {first} |\n" in text
    assert "| `teacher.learning_rate` | `0.002` | `0.001` | `train_teacher` | first cause |" in text
    assert "prepare_data" not in text


def test_markdown_of_many_nodes_fits_into_a_comment() -> None:
    students = [f"cd-{k}" for k in range(1, 248)]
    text = as_markdown(runs({}, LESS_LR, students=students).json())
    assert len(text) < 65536 and "and 398 more nodes" in text


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of two runs of other teachers, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("MCM_LINEAGE", raising=False)
    write(tmp_path / "lineage", [*chain("run-one"), *chain("run-two", begin=9000, **LESS_LR)])
    return tmp_path / "lineage"


def test_the_command_prints_each_form(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = ["run-one", "run-two", "--store", str(store)]
    main(both)
    text = capsys.readouterr().out
    assert "\nfirst cause: parameter teacher.learning_rate 0.002 -> 0.001, at train_teacher; 7 nodes followed\n" in text
    main([*both, "--json"])
    diff = json.loads(capsys.readouterr().out)
    assert as_lines(diff) + "\n" == text
    main([*both, "--markdown"])
    assert capsys.readouterr().out == as_markdown(diff)


def test_the_command_writes_the_page(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["run-one", "run-two", "--store", str(store), "--html", "diff.html"])
    assert capsys.readouterr().out.startswith("diff.html: first cause: parameter teacher.learning_rate")
    assert "teacher.learning_rate" in Path("diff.html").read_text()


def test_the_exit_status_is_asked_for(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["run-one", "run-two", "--store", str(store)])
    with pytest.raises(SystemExit) as left:
        main(["run-one", "run-two", "--store", str(store), "--exit-code"])
    assert left.value.code == 1
    main(["run-one", "run-one", "--store", str(store), "--exit-code"])
    assert "same bytes at every node" in capsys.readouterr().out


def test_bad_input_is_one_line(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(store, [record("bake", run="run-cake", outputs={"out": md5("cake")})])
    for words, said in (
        (
            ["run-one", "run-cake"],
            "error: run-one and run-cake: runs of different pipelines, which have no stage in common; choose two runs "
            "of one pipeline\n",
        ),
        (["run-one", "run-two", "--json", "--markdown"],
         "error: --json: one form at a time; leave out --markdown and --html\n"),
    ):  # fmt: skip
        with pytest.raises(SystemExit) as left:
            main([*words, "--store", str(store)])
        assert (left.value.code, capsys.readouterr().err) == (2, said)


def test_comparing_local_records_loads_nothing_heavy(store: Path) -> None:
    heavy = ("torch", "numpy", "pandas", "dvc", "kfp", "google.cloud", "kubernetes", "networkx")
    code = (
        "import sys\nfrom pipelines.lineage.commands.diff import main\n"
        f"main(['run-one', 'run-two', '--store', {str(store)!r}])\n"
        f"print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": str(ROOT)}
    )
    assert done.stderr == "[]\n"
