"""States of nodes, and what is compared where facts are missing, executions failed or a run took earlier results."""

from typing import Any

import pytest

from components.lineage.record import Artifact, Hardware, Record
from mcm.errors import UserError
from pipelines.lineage.compare.diff import compare
from tests.lineage.builders import HARDWARE, IMAGE, chain, graph, md5, partial, record
from tests.lineage.diffs import ALL, EVALUATIONS, causes, code, idle, notes, runs, states

IMAGE_2 = IMAGE.replace("1" * 64, "2" * 64)
NEW = md5("images", "one more")
LR = ("parameter", "teacher.learning_rate", 0.002, 0.001)


def test_a_student_more_is_added_and_the_report_follows_from_it() -> None:
    diff = runs({}, {"students": ("cd-1", "cd-2", "cd-4")})
    assert states(diff)["added"] == ["train_student cd-4", "evaluate cd-4"]
    assert states(diff)["changed"] == ["report"]
    assert causes(diff) == {("stage", "train_student cd-4", None, "there"): ["train_student cd-4"]}
    back = runs({"students": ("cd-1", "cd-2", "cd-4")}, {})
    assert states(back)["removed"] == ["train_student cd-4", "evaluate cd-4"]
    assert causes(back) == {("stage", "train_student cd-4", "there", None): ["train_student cd-4"]}


def test_a_student_more_of_a_changed_teacher() -> None:
    diff = runs({}, {"students": ("cd-1", "cd-2", "cd-4"), "parameters": {"teacher.learning_rate": 0.001}})
    assert causes(diff) == {
        LR: ["train_teacher"],
        ("stage", "train_student cd-4", None, "there"): ["train_student cd-4"],
    }
    assert [n.causes for n in diff.nodes if n.key == "report"] == [(0, 1)]
    assert [n.role for n in diff.nodes if n.state == "added"] == [None, None]


def test_a_teacher_that_was_trained_and_is_now_imported_is_other_data() -> None:
    diff = runs({}, {"teacher": NEW})
    [(kind, name, _, now)] = causes(diff)
    assert (kind, name, now) == ("data", "teacher", NEW)
    assert states(diff)["removed"] == ["train_teacher"]


def test_executions_taken_from_a_cache_or_an_earlier_run_are_the_same() -> None:
    a = chain("r1", by="kubeflow")
    changed = {"students.iterations@train_student cd-1": 800}
    taken = chain("r2", by="kubeflow", parameters=changed, earlier=a, begin=9000)
    diff = compare(graph(a), graph(taken))
    assert states(diff)["changed"] == ["train_student cd-1", "evaluate cd-1", "report"]
    assert "recomputed" not in states(diff) and len(states(diff)["same"]) == 6
    assert notes(diff)["train_teacher"] == ("cached from run r1 in b",)
    third = chain("r3", by="kubeflow", parameters=changed, earlier=a, begin=19000)
    assert set(states(compare(graph(taken), graph(third)))) == {"same", "recomputed"}
    assert states(compare(graph(taken), graph(third)))["same"] == states(diff)["same"]


def test_what_dvc_did_not_run_again_is_the_same() -> None:
    a = chain("r1", by="dvc")
    b = chain("r2", by="dvc", parameters={"students.iterations@train_student cd-1": 800}, earlier=a, begin=9000)
    diff = compare(graph(a), graph(b, a))
    assert len(states(diff)["same"]) == 6 and "recomputed" not in states(diff)
    assert notes(diff)["train_teacher"] == ("made by run r1 in b",)


def test_a_run_against_itself() -> None:
    diff = compare(graph(chain()), graph(chain()))
    assert states(diff) == {"same": [node.key for node in diff.nodes]}
    assert (diff.causes, diff.without_effect) == ((), ())
    assert not any(node.changes or node.metrics or node.notes for node in diff.nodes)


def test_an_execution_that_was_stopped_is_a_note_where_it_went_on() -> None:
    b = chain("r2", begin=1000)
    teacher = next(r for r in b if r.stage == "train_teacher")
    stopped = record(
        "train_teacher",
        run="r2",
        begin=500,
        status="stopped",
        inputs={read.name: read for read in teacher.inputs},
        parameters={"teacher.learning_rate": 99.0},
    )
    diff = compare(graph(chain()), graph([*b, stopped]))
    assert states(diff) == {"recomputed": [n.key for n in diff.nodes]} and len(diff.nodes) == len(ALL)
    assert notes(diff) == {"train_teacher": ("stopped in b, then succeeded",)}
    assert next(n for n in diff.nodes if n.key == "train_teacher").b.key == "train_teacher #2"  # type: ignore[union-attr]


def test_a_stage_that_failed_is_missing_with_a_note() -> None:
    b = chain("r2")
    failed = [r for r in b if r.name not in ("train_student cd-2", "evaluate cd-2", "report")]
    failed.append(record("train_student", "cd-2", run="r2", status="failed", begin=1))
    failed.append(record("train_student", "ct-9", run="r2", status="failed", begin=1))
    diff = compare(graph(chain()), graph(failed))
    assert states(diff)["removed"] == ["train_student cd-2", "evaluate cd-2", "report"]
    assert notes(diff) == {"train_student cd-2": ("failed in b",)}
    assert diff.warnings == ((), ("train_student ct-9: failed, and made nothing",))
    assert causes(diff) == {}


def test_against_a_lock_only_what_both_know_is_compared() -> None:
    a = [
        partial(r, parameters=[n for n in r.parameters if n != "teacher.seed"], files=["mcm/steps.py"]) for r in chain()
    ]
    b = chain("r2", files={"mcm/steps.py": "new", "mcm/methods/diffusion.py": "unknown in a"}, libraries={"torch": "9"})
    diff = compare(graph(a), graph(b))
    assert causes(diff) == {code("mcm/steps.py"): ["train_teacher"]}
    assert states(diff)["recomputed"] == ["prepare_data"]


def test_bytes_that_what_a_lock_tells_cannot_explain_are_not_called_irreproducible() -> None:
    diff = compare(graph(map(partial, chain())), graph(chain("r2", libraries={"torch": "2.2.0"})))
    assert [(c.kind, c.name, c.at) for c in diff.causes] == [
        ("unexplained", "not recorded: libraries, hardware", ("train_teacher",))
    ]


def test_two_locks() -> None:
    a, b = chain(), chain("r2", parameters={"students.iterations@train_student cd-1": 800, "teacher.iterations": 1},
                          inert=("teacher.iterations",))  # fmt: skip
    a = chain(inert=("teacher.iterations",))
    diff = compare(graph(map(partial, a)), graph(map(partial, b)))
    assert causes(diff) == {("parameter", "students.iterations", 400, 800): ["train_student cd-1"]}
    # Equal durations to the last digit: the same execution; a lock in which a parameter differs: another one.
    assert states(diff)["recomputed"] == ["train_teacher", "evaluate cd-2", "evaluate teacher"]
    assert states(diff)["same"] == ["prepare_data", "estimate_variance", "train_student cd-2"]


def test_a_lock_and_the_record_of_its_own_execution() -> None:
    a = chain()
    diff = compare(graph(map(partial, a)), graph(a))
    assert set(EVALUATIONS) <= set(states(diff)["same"]) and causes(diff) == idle(diff) == {}


def test_unknown_facts_conclude_nothing() -> None:
    def known(run: str, **fields: Any) -> list[Record]:
        return [r.model_copy(update=fields) for r in chain(run, salt={"train_teacher": run})]

    a = known("r1", libraries=None, code=None, hardware=None, image=None)
    diff = compare(graph(a), graph(known("r2")))
    assert [(c.kind, c.name) for c in diff.causes] == [("unexplained", "not recorded: code, libraries, hardware")]
    assert idle(diff) == {}


def test_one_maker_of_two_outputs_passes_on_what_was_read() -> None:
    """The reader of an output that stayed the same has nothing to follow."""

    def run(name: str, second: str, seed: int) -> list[Record]:
        made = {"first": md5("first"), "second": md5(second)}
        return [
            record("split", run=name, outputs=made, parameters={"split.seed": seed}),
            record("left", run=name, begin=100, inputs={"part": made["first"]}, outputs={"out": md5("left")}),
            record(
                "right", run=name, begin=100, inputs={"part": made["second"]}, outputs={"out": md5(second, "right")}
            ),
        ]

    diff = compare(graph(run("r1", "x", 0)), graph(run("r2", "y", 1)))
    assert states(diff) == {"changed": ["split", "right"], "recomputed": ["left"]}
    assert causes(diff) == {("seed", "split.seed", 0, 1): ["split"]}


def test_durations_that_are_read_pass_nothing_on() -> None:
    diff = runs({}, {"parameters": {"evaluation.samples@evaluate cd-1": 9}}, inert=("evaluation.samples",))
    assert states(diff) == {"recomputed": [node.key for node in diff.nodes]}
    report = next(node for node in diff.nodes if node.key == "report")
    assert report.notes == ("measured durations differ",)
    assert {read.name for read in report.inputs if not read.equal} == {
        "timings/cd-1", "timings/cd-2", "timings/teacher"
    }  # fmt: skip
    assert [(f.name, f.measured) for f in report.metrics] == [("teacher.ddim-4.seconds_per_image", True)]


def test_a_reader_that_does_not_know_that_its_input_is_a_duration() -> None:
    def forgetful(run: str) -> list[Record]:
        return [
            r.model_copy(update={"inputs": tuple(i.model_copy(update={"measured": False}) for i in r.inputs)})
            for r in chain(run)
        ]

    diff = compare(graph(forgetful("r1")), graph(forgetful("r2")))
    assert set(states(diff)) == {"recomputed"}
    assert {read.name for read in diff.nodes[-1].inputs if read.measured} == {
        "timings/cd-1",
        "timings/cd-2",
        "timings/teacher",
    }


def test_the_report_is_not_blamed_on_libraries_while_its_bytes_say_nothing() -> None:
    diff = runs({}, {"libraries": {"jinja2": "9"}, "parameters": {"teacher.learning_rate": 0.001}})
    assert causes(diff) == {LR: ["train_teacher"]}
    alone = runs({}, {"libraries": {"jinja2": "9"}})
    assert set(states(alone)) == {"recomputed"}
    assert idle(alone) == {("library", "jinja2", "2.1.0", "9"): ["report"]}


def test_notes_say_what_is_worth_knowing_and_is_no_cause() -> None:
    b = chain("r2", libraries={"kfp@train_teacher": "2.17"}, files={"mcm/new.py@train_teacher": "x"},
              image=IMAGE_2, parameters={"teacher.learning_rate": 0.001}, component="1.1.0")  # fmt: skip
    dirty = [
        r.model_copy(update={"code": r.code and r.code.model_copy(update={"commit": "d" * 40, "dirty": True})})
        for r in b
    ]
    diff = compare(graph(chain()), graph(dirty))
    assert notes(diff)["train_teacher"] == (
        "component 1.0.0 -> 1.1.0",
        "commit cccccccccccc -> dddddddddddd",
        "uncommitted changes in b",
        "code mcm/new.py only in b",
        "library kfp 2.17 only in b",
        "the image is another one",
    )
    assert causes(diff) == {LR: ["train_teacher"]}


def test_true_is_not_one_and_one_is_one_point_zero() -> None:
    diff = runs({"parameters": {"teacher.iterations": 1, "teacher.mirror@train_teacher": 1}},
                {"parameters": {"teacher.iterations": 1.0, "teacher.mirror@train_teacher": True}})  # fmt: skip
    assert list(causes(diff)) == [("parameter", "teacher.mirror", 1, True)]


def test_runs_of_different_pipelines() -> None:
    a, b = graph(chain(), name="HEAD"), graph([record("bake", outputs={"out": md5("cake")})], name="cake")
    with pytest.raises(UserError) as raised:
        compare(a, b)
    assert str(raised.value) == (
        "HEAD and cake: runs of different pipelines, which have no stage in common; choose two runs of one pipeline"
    )


def test_two_executions_that_read_each_other_in_one_run_each_do_not_loop() -> None:
    def run(name: str, order: str) -> list[Record]:
        first, second = order
        return [
            record(first, run=name, outputs={"out": md5(first)}),
            record(second, run=name, begin=100, inputs={"x": md5(first)}, outputs={"out": md5(second, name)}),
        ]

    diff = compare(graph(run("r1", "pq")), graph(run("r2", "qp")))
    assert {node.key: node.state for node in diff.nodes} == {"p": "changed", "q": "changed"}
    assert all(node.causes for node in diff.nodes)


def test_hardware_that_a_side_does_not_tell() -> None:
    few = Hardware(processor="cpu A", threads=None)
    a, b = (
        record("train", run=run, hardware=hardware, outputs={"out": Artifact(name="out", md5=md5(run))})
        for run, hardware in (("r1", few), ("r2", HARDWARE))
    )
    assert [c.kind for c in compare(graph([a]), graph([b])).causes] == ["unexplained"]


def node(run: str, out: str, **fields: Any) -> Record:
    """An execution of one stage that gave the bytes `out`."""
    return record("train", run=run, begin=500, outputs={"out": md5(out)}, **fields)


def of_two(a: list[Record], b: list[Record]) -> list[tuple[str, str]]:
    """Kinds and names of the causes."""
    return [(cause.kind, cause.name) for cause in compare(graph(a), graph(b)).causes]


def test_a_place_counts_where_its_content_is_not_known() -> None:
    a, b = (node(run, run, parameters={"data.path": run}) for run in ("r1", "r2"))
    assert of_two([a], [b]) == [("parameter", "data.path")]


def test_a_package_of_one_side_goes_before_the_image_that_brought_it() -> None:
    a, b = node("r1", "x", image="1"), node("r2", "y", image="2", libraries={"flash": "1"})
    assert of_two([a], [b]) == [("library", "flash")]


def test_a_file_that_a_lock_does_not_name_is_not_new() -> None:
    a, b = partial(node("r1", "x")), node("r2", "y", files={"mcm/x.py": md5("x", folder=False)})
    assert of_two([a], [b]) == [("unexplained", "not recorded: libraries, hardware")]


def test_an_input_that_a_lock_does_not_name_is_not_new() -> None:
    a, b = partial(node("r1", "x")), node("r2", "y", inputs={"extra": NEW})
    assert of_two([a], [b]) == [("unexplained", "not recorded: libraries, hardware")]


def test_an_input_that_one_side_alone_was_given() -> None:
    a = node("r1", "x")
    assert of_two([a], [node("r2", "y", inputs={"extra": NEW})]) == [("data", "extra")]
    beside = node("r2", "y", inputs={"extra": NEW}, parameters={"lr": 1})
    assert of_two([a], [beside]) == [("parameter", "lr")]
    assert notes(compare(graph([a]), graph([beside]))) == {"train": ("input extra only in b",)}


def test_an_input_more_changes_a_node_whose_bytes_say_nothing() -> None:
    def timed(run: str, **inputs: str) -> list[Record]:
        out = Artifact(name="out", md5=md5(run), measured=True)
        return [record("report", run=run, inputs=inputs, outputs={"out": out})]

    assert of_two(timed("r1"), timed("r2", extra=NEW)) == [("data", "extra")]
    assert of_two(timed("r1"), timed("r2")) == []


def test_durations_from_somewhere_else_are_no_data() -> None:
    def read(run: str) -> list[Record]:
        return [node(run, run, inputs={"timing": Artifact(name="timing", md5=md5("t", run), measured=True)})]

    assert of_two(read("r1"), read("r2")) == [("unexplained", "not reproducible")]


def test_an_input_from_another_execution_is_other_data() -> None:
    """Both teachers are in both runs; the student has gone over to the other one."""

    def run(name: str, teacher: str) -> list[Record]:
        tried = [record("teach", task, run=name, outputs={"out": md5(task)}) for task in ("one", "two")]
        return [*tried, node(name, f"of {teacher}", inputs={"teacher": md5(teacher)}, parameters={"name": name})]

    diff = compare(graph(run("r1", "one")), graph(run("r2", "two")))
    assert causes(diff) == {
        ("data", "teacher", md5("one"), md5("two")): ["train"],
        ("parameter", "name", "r1", "r2"): ["train"],
    }
    assert {edge[3] for edge in diff.edges} == {"a", "b"}


def test_a_maker_of_another_stage_is_the_cause() -> None:
    def run(name: str, maker: str) -> list[Record]:
        return [record(maker, run=name, outputs={"out": md5(maker)}), node(name, maker, inputs={"x": md5(maker)})]

    diff = compare(graph(run("r1", "old")), graph(run("r2", "new")))
    assert causes(diff) == {("stage", "new", None, "there"): ["new"], ("stage", "old", "there", None): ["old"]}


def test_what_an_added_node_made_of_another_is_traced_to_the_first() -> None:
    a = [node("r1", "x")]
    first = record("clean", run="r2", outputs={"out": md5("clean")})
    second = record("crop", run="r2", begin=100, inputs={"in": md5("clean")}, outputs={"out": md5("crop")})
    assert of_two(a, [first, second, node("r2", "y", inputs={"crop": md5("crop")})]) == [("stage", "clean")]
