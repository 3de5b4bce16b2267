"""`mcm lineage show`: the tree, its parts, one record, JSON, artifacts, and errors as one line."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from components.lineage.record import Record
from pipelines.lineage.commands.show import main
from pipelines.lineage.graph import Graph
from pipelines.lineage.tree import as_table, figure, parents, state
from tests.chain.programs import ROOT
from tests.lineage.builders import chain, graph, record, write

HEAVY = {"torch", "dvc", "kfp", "numpy", "pandas", "google.cloud", "networkx", "kubernetes"}
FIRST = chain("run-one")
SECOND = chain("run-two", parameters={"students.iterations@train_student cd-2": 9}, earlier=FIRST, begin=10_000)


@pytest.fixture(autouse=True)
def _store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TZ", "UTC")
    for name in ("KFP_HOST", "KF_PIPELINES_ENDPOINT", "MCM_LINEAGE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    write(Path("artifacts/lineage"), [*FIRST, *SECOND])


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    main(list(words))
    return capsys.readouterr().out


def rows(text: str) -> list[str]:
    """The lines of the tree, below its head."""
    return text.split("stage ", 1)[1].splitlines()[1:]


def test_the_tree_has_every_execution_once_below_what_it_follows_from(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "run-one")
    assert text.splitlines()[0].startswith("run-one: mcm, 9 executions, begun 2026-03-01 ")
    drawn = [line.partition("  executed")[0].rstrip() for line in rows(text)]
    assert drawn == [
        "prepare_data",
        "└── train_teacher",
        "    ├── estimate_variance",
        "    │   └── evaluate teacher",
        "    ├── train_student cd-1",
        "    │   └── evaluate cd-1",
        "    ├── train_student cd-2",
        "    │   └── evaluate cd-2",
        "    └── report",
    ]


def test_a_line_says_state_outputs_duration_figure_and_what_else_was_read(capsys: pytest.CaptureFixture[str]) -> None:
    lines = {line.split("── ")[-1].split("  ")[0]: line for line in rows(shown(capsys, "run-two"))}
    by_name = {r.name: r for r in SECOND}
    student, evaluation = by_name["train_student cd-2"], by_name["evaluate cd-2"]
    loss, fid = student.metrics["loss"], evaluation.metrics["ddim-4.fid"]
    said = ["executed", student.outputs[0].md5[:7], "60", "s", "loss", f"{loss:.4g}", "prepare_data"]
    assert lines["train_student cd-2"].split()[-len(said) :] == said
    assert f"  FID {fid:.4g} ddim-4  " in lines["evaluate cd-2"]
    assert "  reused [1]  " in lines["train_teacher"]
    assert "[1] run-one" in lines
    assert f"  {by_name['report'].outputs[0].md5[:7]}  " in lines["report"]  # measured, and all there is
    assert lines["report"].endswith("prepare_data, estimate_variance, 2 of train_student, 3 of evaluate")


def test_text_for_pipes_has_no_colours_and_no_spaces_at_the_ends(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "run-one")
    assert "\x1b" not in text
    assert all(line == line.rstrip() for line in text.splitlines())


def test_no_line_of_the_tree_is_folded_on_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "85")
    text = re.sub("\x1b\\[[0-9;]*m", "", shown(capsys, "run-two"))
    assert all(len(line) <= 85 for line in text.splitlines())
    assert len(rows(text)) == 9 + 1
    assert all(record.name in text for record in FIRST) and "…" in text


def test_parts_of_a_graph(capsys: pytest.CaptureFixture[str]) -> None:
    def keys(*words: str) -> set[str]:
        return {node["key"] for node in json.loads(shown(capsys, "run-one", "--json", *words))["nodes"]}

    down = json.loads(shown(capsys, "run-one", "--json", "--down", "train_student cd-1"))
    assert {(edge["maker"], edge["reader"]) for edge in down["edges"]} == {
        ("train_student cd-1", "evaluate cd-1"),
        ("train_student cd-1", "report"),
        ("evaluate cd-1", "report"),
    }
    up = {"prepare_data", "train_teacher", "train_student cd-1", "evaluate cd-1"}
    assert keys("--up", "evaluate cd-1") == up
    assert keys("--up", next(r for r in FIRST if r.name == "evaluate cd-1").outputs[0].md5[:8]) == up
    assert keys("--down", "train_student cd-1") == {"train_student cd-1", "evaluate cd-1", "report"}
    assert keys("--down", "train_teacher", "--up", "evaluate cd-1") == up - {"prepare_data"}
    assert keys("--up", "prepare_data") == {"prepare_data"}


def test_json_holds_the_graph_with_full_records(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(shown(capsys, "run-two", "--json"))
    assert (found["name"], found["by"], found["run"], found["asked"]) == ("run-two", "mcm", "run-two", None)
    records = {node["key"]: Record.model_validate(node["record"]) for node in found["nodes"]}
    assert {r.id for r in SECOND} <= {r.id for r in records.values()}
    assert {n["key"] for n in found["nodes"] if n["reused"]} == {r.name for r in FIRST} - {r.name for r in SECOND}
    for edge in found["edges"]:
        assert edge["artifact"]["md5"] in {a.md5 for a in records[edge["maker"]].outputs}
        assert edge["artifact"]["md5"] in {a.md5 for a in records[edge["reader"]].inputs}
    assert len(found["edges"]) == sum(len(r.inputs) for r in records.values())


def test_one_record_as_it_was_written(capsys: pytest.CaptureFixture[str]) -> None:
    wanted = next(r for r in FIRST if r.name == "train_student cd-1")
    for name in ("train_student cd-1", wanted.id[:8], wanted.outputs[0].md5[:6]):
        assert Record.model_validate_json(shown(capsys, "run-one", "--record", name)) == wanted


def test_an_artifact_shows_makers_users_and_what_led_to_it(capsys: pytest.CaptureFixture[str]) -> None:
    made = next(r for r in FIRST if r.name == "train_student cd-1")
    artifact = made.outputs[0]
    text = shown(capsys, artifact.md5)
    head, _, tree = text.partition("what led to it\n")
    assert head.splitlines()[0] == f"{artifact.md5}: students/cd-1, 3 files, {artifact.size:,} bytes"
    made_by, used_by = head.split("made by\n")[1].split("used by\n")
    assert [line.split("  ")[1] for line in made_by.splitlines() if line] == ["train_student cd-1"]
    assert sorted(line.split()[0] + " " + line.split()[-1] for line in used_by.splitlines() if line) == [
        "evaluate run-one",
        "report run-one",
        "report run-two",
    ]
    assert [line.split("── ")[-1].split("  ")[0] for line in rows(tree)] == [
        "prepare_data",
        "train_teacher",
        "train_student cd-1",
    ]
    found = json.loads(shown(capsys, artifact.md5, "--json"))
    assert (found["artifact"]["md5"], len(found["made"]), len(found["used"])) == (artifact.md5, 1, 3)
    assert len(found["graph"]["nodes"]) == 3


def test_given_pictures_have_no_tree(capsys: pytest.CaptureFixture[str]) -> None:
    write(Path("artifacts/lineage"), chain("run-own", images="d" * 32 + ".dir"))
    text = shown(capsys, "d" * 32)
    assert "made by no known run\nused by\n  prepare_data " in text and "what led" not in text
    assert any(line.endswith("images ddddddd (given)") for line in rows(shown(capsys, "run-own")))


def test_broken_files_are_warnings_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    Path("artifacts/lineage/run-one/half.json").write_text("{")
    main(["run-one", "--json"])
    said = capsys.readouterr()
    assert len(json.loads(said.out)["nodes"]) == 9
    assert said.err.startswith("warning: ") and "run-one/half.json" in said.err and said.err.count("\n") == 1


# States, parents


def test_states() -> None:
    cached = chain("three", by="kubeflow", parameters={"teacher.seed": 3}, earlier=FIRST, begin=30_000)
    nodes = graph(cached).nodes
    assert state(nodes["prepare_data"]) == "cached from run-one"
    assert state(nodes["train_teacher"]) == "executed"
    lost = [r.model_copy(update={"status": "failed", "outputs": ()}) if r.stage == "report" else r for r in FIRST]
    assert state(graph(lost).nodes["report"]) == "failed"
    known = [r.model_copy(update={"started": None}) for r in FIRST]
    assert state(graph(known).nodes["report"]) == "no record"


def test_the_lowest_fid_is_the_figure() -> None:
    assert (
        figure(record("evaluate", metrics={"ddim-8.fid": 3.0, "ddim-4.fid": 2.5, "ddim-4.kid": 0.1}))
        == "FID 2.5 ddim-4"
    )
    assert figure(record("other", metrics={"fid": 2.0})) == "FID 2"
    assert figure(record("train_teacher", metrics={"loss": 0.123456})) == "loss 0.1235"
    assert figure(record("prepare_data")) == ""


def ways(of: Graph, key: str) -> Iterable[list[str]]:
    """Every way from a node without makers to a node."""
    makers = {edge.maker for edge in of.upstream(key)}
    if not makers:
        yield [key]
    for maker in makers:
        yield from ([*way, key] for way in ways(of, maker))


@pytest.mark.parametrize("students", [("cd-1",), ("cd-1", "cd-2", "ct-1")])
def test_a_parent_lies_on_every_way_that_no_longer_one_goes_round(students: tuple[str, ...]) -> None:
    of = graph(chain("r", students=students))
    above = parents(of)
    for key, parent in above.items():
        before = {node for way in ways(of, key) for node in way[:-1]}
        assert (parent is None) == (not before)
        assert parent is None or parent in before
    assert above["report"] == "train_teacher"
    assert above["evaluate teacher"] == "estimate_variance"


def test_branches_are_in_order_of_time_and_number(capsys: pytest.CaptureFixture[str]) -> None:
    write(Path("artifacts/lineage"), chain("many", students=("cd-16", "ct-1", "cd-2")))
    keys = [line.split("── ")[-1].split("  ")[0] for line in rows(shown(capsys, "many"))]
    students = [key for key in keys if key.startswith("train_student")]
    assert students == ["train_student cd-2", "train_student cd-16", "train_student ct-1"]
    assert keys[-1] == "report"


def test_a_long_chain_and_many_branches_are_drawn() -> None:
    deep = [
        record(f"s{k}", inputs={"a": f"{k:032x}"} if k else {}, outputs={"out": f"{k + 1:032x}"}, begin=100 * k)
        for k in range(1500)
    ]
    assert as_table(graph(deep)).row_count == 1500
    wide = [record("root", outputs={"out": "f" * 32})]
    wide += [
        record("leaf", f"{k}", inputs={"a": "f" * 32}, outputs={"out": f"{k:032x}"}, begin=100) for k in range(500)
    ]
    assert as_table(graph(wide)).row_count == 501


# Errors, and what is imported


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("run-onr",),
            "run-onr: no such run; did you mean 'run-one'? Looked at 2 runs in artifacts/lineage, "
            "git (project: no git repository), no Kubeflow server (--host); `mcm lineage log` lists the runs",
        ),
        (("run-one", "--up", "cd-1"), "run-one: 'cd-1' may be train_student cd-1, evaluate cd-1; name one of them"),
        (
            ("run-one", "--down", "evaluate cd-3"),
            "run-one: has no stage or output 'evaluate cd-3'; did you mean 'evaluate cd-2'?",
        ),
        (
            ("run-one", "--record", "0" * 8),
            "run-one: has no stage or output '00000000'; it has " + ", ".join(graph(FIRST).nodes),
        ),
        (
            ("run-one", "--up", "prepare_data", "--down", "report"),
            "run-one: nothing of prepare_data follows from report; turn them round or leave one out",
        ),
        (("workspace",), "workspace: no dvc.lock in this folder; run `dvc repro`, or go to the folder of dvc.yaml"),
        (("x", "--store", "none"), "none: no such lineage store; a stage makes one named lineage beside its output"),
    ],
)
def test_bad_input_is_one_line(capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str) -> None:
    with pytest.raises(SystemExit) as left:
        main(list(words))
    assert left.value.code == 2
    assert capsys.readouterr().err == f"error: {said}\n"


@pytest.mark.parametrize("words", [["--help"], ["run-one"], ["run-one", "--json"]])
def test_nothing_heavy_is_imported(words: list[str]) -> None:
    script = (
        "import sys\n"
        "from pipelines.lineage.commands.show import main\n"
        f"try: main({words!r})\n"
        "except SystemExit: pass\n"
        f"print(sorted({HEAVY} & set(sys.modules)), file=sys.stderr)"
    )
    settings = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=settings, check=True)
    assert done.stderr == "[]\n"
