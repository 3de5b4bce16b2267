"""Executions that answer to each other: by name, by parameters, and not at all where two pairings are as good."""

from typing import Any

from components.lineage.record import Origin, Record
from pipelines.lineage.compare.align import COMMON, align
from pipelines.lineage.compare.diff import compare
from tests.lineage.builders import chain, graph, md5, record
from tests.lineage.diffs import ALL, ITERATIONS, causes, states


def aligned(a: list[Record], b: list[Record]) -> set[tuple[str | None, str | None]]:
    """Keys in both graphs of every pair."""
    return {(pair.a and pair.a.key, pair.b and pair.b.key) for pair in align(graph(a), graph(b))}


def train(task: str, run: str = "r1", begin: float = 0, **parameters: Any) -> Record:
    return record("train", task, run=run, begin=begin, parameters=parameters, outputs={"out": md5(task, parameters)})


def renamed(records: list[Record], names: dict[str, str]) -> list[Record]:
    """The same chain where tasks, and what the report calls their outputs, have other names."""

    def name(text: str) -> str:
        folder, _, last = text.rpartition("/")
        return f"{folder}/{names.get(last, last)}" if folder else text

    return [
        r.model_copy(
            update={
                "task": names.get(r.task, r.task),
                "inputs": tuple(i.model_copy(update={"name": name(i.name)}) for i in r.inputs),
            }
        )
        for r in records
    ]


def test_the_same_name_is_enough_whatever_else_differs() -> None:
    a, b = [train("x", lr=1), train("y", lr=2)], [train("x", "r2", lr=2), train("y", "r2", lr=1)]
    assert aligned(a, b) == {("train x", "train x"), ("train y", "train y")}


def test_tasks_of_other_names_pair_by_equal_parameters() -> None:
    a = [train("one", lr=1), train("two", lr=2)]
    assert aligned(a, [train("p", "r2", lr=2), train("q", "r2", lr=1)]) == {
        ("train one", "train q"),
        ("train two", "train p"),
    }


def test_tasks_of_other_names_pair_by_most_equal_parameters() -> None:
    a = [train("one", lr=1, method="cd", steps=4), train("two", lr=1, method="ct", steps=8)]
    b = [train("p", "r2", lr=2, method="ct", steps=8), train("q", "r2", lr=2, method="cd", steps=4)]
    assert aligned(a, b) == {("train one", "train q"), ("train two", "train p")}


def test_two_tries_by_hand_are_compared() -> None:
    a, b = [train("try1", lr=1)], [train("try2", "r2", lr=2)]
    diff = compare(graph(a), graph(b))
    assert causes(diff) == {("parameter", "lr", 1, 2): ["train try2"]}


def test_where_two_pairings_are_as_good_there_is_none() -> None:
    a = [train("one", method="cd", lr=1)]
    b = [train("p", "r2", method="cd", lr=2), train("q", "r2", method="cd", lr=3)]
    assert aligned(a, b) == {("train one", None), (None, "train p"), (None, "train q")}
    b = [train("p", "r2", method="cd", lr=1), train("q", "r2", method="cd", lr=1)]
    assert aligned(a, b) == {("train one", None), (None, "train p"), (None, "train q")}


def test_a_best_partner_that_has_a_better_one_is_none() -> None:
    a = [train("one", k=1, l=1, m=1), train("two", k=1, l=1, m=2)]
    b = [train("p", "r2", k=1, l=1, m=1, n=0), train("q", "r2", k=9, l=9, m=9)]
    assert aligned(a, b) == {("train one", "train p"), ("train two", None), (None, "train q")}


def test_another_student_beside_equal_ones_is_another_student() -> None:
    a, b = chain("r1", students=("cd-2", "cd-4")), chain("r2", students=("cd-2", "cd-8"))
    diff = compare(graph(a), graph(b))
    assert states(diff)["removed"] == ["train_student cd-4", "evaluate cd-4"]
    assert states(diff)["added"] == ["train_student cd-8", "evaluate cd-8"]
    assert list(causes(diff)) == [
        ("stage", "train_student cd-4", "there", None),
        ("stage", "train_student cd-8", None, "there"),
    ]


def test_a_renamed_student_is_found_with_its_evaluation_and_where_the_report_reads_them() -> None:
    b = renamed(chain("r2"), {"cd-1": "mine"})
    diff = compare(graph(chain()), graph(b))
    assert {"train_student mine", "evaluate mine"} <= set(states(diff)["recomputed"])
    assert set(states(diff)) == {"recomputed"} and len(diff.nodes) == len(ALL)
    report = diff.nodes[-1]
    assert {"students/mine", "evaluations/mine", "timings/mine"} <= {read.name for read in report.inputs}
    assert all(read.equal for read in report.inputs if not read.measured)
    assert all(edge[3] == "both" for edge in diff.edges)


def test_all_students_renamed_and_one_changed() -> None:
    changed = chain("r2", parameters={"students.iterations@train_student cd-1": 800})
    diff = compare(graph(chain()), graph(renamed(changed, {"cd-1": "mine", "cd-2": "yours"})))
    assert causes(diff) == {ITERATIONS: ["train_student mine"]}
    assert states(diff)["changed"] == ["train_student mine", "evaluate mine", "report"]


def test_evaluations_of_other_names_follow_their_models() -> None:
    """All evaluations have the same parameters: only the model that they read tells them apart."""
    a = chain("r1", students=("cd-1", "cd-2"))
    b = chain("r2", students=("ct-1", "ct-2"))
    assert {("evaluate cd-1", "evaluate ct-1"), ("evaluate cd-2", "evaluate ct-2")} <= aligned(a, b)


def test_the_execution_itself_is_found_among_several() -> None:
    """Two teachers in a run, of which each trained students; the other run has the earlier one alone."""
    first, second = train("", lr=1), train("", begin=100, lr=2)
    assert aligned([first, second], [first]) == {("train", "train"), ("train #2", None)}
    assert aligned([first, second], [second]) == {("train", None), ("train #2", "train")}


def test_an_execution_taken_from_a_cache_is_found_among_several() -> None:
    first, second = train("", lr=1), train("", begin=100, lr=1)
    taken = train("", "r2", lr=1).model_copy(update={"cached_from": Origin(run="r1", record=first.id)})
    assert aligned([first, second], [taken]) == {("train", "train"), ("train #2", None)}


def test_of_several_executions_the_same_bytes_then_the_same_parameters_pair() -> None:
    a = [train("", lr=1), train("", begin=100, lr=2)]
    again = train("", "r2", begin=500, lr=1)
    assert aligned(a, [again]) == {("train", "train"), ("train #2", None)}
    moved = again.model_copy(update={"parameters": {"lr": 2}})
    assert aligned(a, [moved]) == {("train", "train"), ("train #2", None)}
    other = again.model_copy(update={"outputs": ()})
    assert aligned(a, [other]) == {("train", "train"), ("train #2", None)}


def test_of_several_executions_with_nothing_in_common_the_last_pair() -> None:
    a = [train("", lr=1), train("", begin=100, lr=2)]
    b = [train("", "r2", begin=1000 + 100 * k, lr=3 + k) for k in range(3)]
    assert aligned(a, b) == {(None, "train"), ("train", "train #2"), ("train #2", "train #3")}


def test_keys_of_a_comparison_are_unique() -> None:
    a = [train("", begin=100 * k, lr=k) for k in range(3)]
    keys = [pair.key for pair in align(graph(a), graph(a[:1]))]
    assert sorted(keys) == ["train", "train #2", "train #3"]


def test_many_tasks_of_other_names_are_paired_by_what_few_share() -> None:
    """A value that all share tells none apart, and does not cost a look at every pair of tasks."""
    count = COMMON * 8
    a = [train(f"a{k}", method="cd", lr=1, steps=k) for k in range(count)]
    b = [train(f"b{k}", "r2", method="cd", lr=2, steps=k) for k in range(count)]
    assert aligned(a, b) == {(f"train a{k}", f"train b{k}") for k in range(count)}


def test_inputs_of_other_names_pair_where_their_maker_gave_one_alone() -> None:
    def run(name: str, *reads: str) -> list[Record]:
        made = {part: md5(part) for part in ("left", "right")}
        inputs = {read: made[part] for read, part in zip(reads, made, strict=False)}
        return [record("split", run=name, outputs=made), record("join", run=name, begin=100, inputs=inputs)]

    [one] = compare(graph(run("r1", "x")), graph(run("r2", "y"))).nodes[1].inputs
    assert (one.name, one.equal) == ("y", True)
    both = compare(graph(run("r1", "x", "xx")), graph(run("r2", "y", "yy"))).nodes[1].inputs
    assert {(read.name, read.a is None, read.b is None) for read in both} == {
        ("x", False, True),
        ("xx", False, True),
        ("y", True, False),
        ("yy", True, False),
    }
