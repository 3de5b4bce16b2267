"""Properties of a comparison, over random graphs whose bytes follow from facts that act and facts that do not."""

import copy
import random
from dataclasses import dataclass, field
from typing import Any

import pytest

from components.lineage.record import Artifact, Code, Hardware, Record
from pipelines.lineage.compare.diff import Diff, compare
from tests.lineage.builders import graph, md5, record
from tests.lineage.diffs import causes, idle, states

SEEDS = range(25)
FACTS = {"parameters": ("lr", "steps", "seed"), "libraries": ("numpy", "torch"), "files": ("x.py", "y.py")}
KINDS = {"parameters": "parameter", "libraries": "library", "files": "code", "processor": "hardware", "given": "data"}


@dataclass
class Plan:
    """One execution to be: what it reads, its facts, and to which of them its bytes are deaf."""

    stage: str
    task: str
    reads: list[int]  # makers, by their place in the run
    facts: dict[str, dict[str, str]]
    deaf: set[str]
    processor: str = "cpu A"
    given: str = ""  # md5 of data that nobody made
    salt: str = ""
    attendant: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.stage} {self.task}".strip()


def plan(random_: random.Random, count: int) -> list[Plan]:
    plans = []
    for index in range(count):
        facts = {kind: {n: "1" for n in names if random_.random() < 0.7} for kind, names in FACTS.items()}
        deaf = {name for name in ("processor", "inputs", *sum(FACTS.values(), ())) if random_.random() < 0.2}
        reads = sorted(random_.sample(range(index), min(index, random_.randint(0, 3))))
        given = md5("given", random_.randint(0, 2)) if random_.random() < 0.3 else ""
        plans.append(Plan(f"stage{index % 4}", str(index), reads, facts, deaf, given=given))
    return plans


def records(plans: list[Plan], run: str, ids: str = "") -> list[Record]:
    """The run of a plan; `ids` makes other record ids."""
    made: list[str] = []
    found = []
    for index, one in enumerate(plans):
        inputs = {f"in{maker}": made[maker] for maker in one.reads}
        if one.given:
            inputs["given"] = one.given
        heard: dict[str, Any] = {
            kind: {n: v for n, v in named.items() if n not in one.deaf} for kind, named in one.facts.items()
        }
        heard |= {} if "processor" in one.deaf else {"processor": one.processor}
        heard |= {} if "inputs" in one.deaf else {"inputs": inputs}
        made.append(md5(one.name, heard, one.salt))
        code = {name: md5(name, text, folder=False) for name, text in one.facts["files"].items()}
        found.append(
            record(
                one.stage,
                one.task,
                run=run,
                begin=100.0 * index,
                inputs=inputs,
                outputs={"out": made[-1], "timing": Artifact(name="timing", md5=md5(run, index), measured=True)},
                parameters=one.facts["parameters"],
                libraries={**one.facts["libraries"], **one.attendant.get("libraries", {})},
                code=Code(commit=md5(run)[:32], files={**code, **one.attendant.get("files", {})}),
                hardware=Hardware(processor=one.processor, threads=2, memory=random.Random(run).randint(1, 99)),
                **({"id": md5("id", ids, run, index, folder=False)} if ids else {}),
            )
        )
    return found


def change(random_: random.Random, plans: list[Plan], index: int) -> tuple[str, str]:
    """Change one fact of a node: its kind and name."""
    one = plans[index]
    kinds = [kind for kind in FACTS if one.facts[kind]] + ["processor"] + ["given"] * bool(one.given)
    kind = random_.choice(kinds)
    if kind == "processor":
        one.processor = "cpu B"
        return "hardware", "processor"
    if kind == "given":
        one.given = md5("given", "new")
        return "data", "given"
    name = random_.choice(sorted(one.facts[kind]))
    one.facts[kind][name] = "2"
    return ("seed" if name == "seed" else KINDS[kind]), name


def attend(random_: random.Random, plans: list[Plan]) -> None:
    """Files and packages that one process alone loaded, which act on nothing."""
    for one in plans:
        if random_.random() < 0.5:
            one.attendant = {"libraries": {"kfp": "2"}, "files": {"extra.py": "0" * 32}}


def pair(seed: int, changes: int, count: int = 14) -> tuple[list[Plan], list[Plan]]:
    random_ = random.Random(seed)
    a = plan(random_, count)
    b = copy.deepcopy(a)
    for _ in range(changes):
        change(random_, b, random_.randrange(count))
    if random_.random() < 0.3:
        b[random_.randrange(count)].salt = "again"
    return a, b


def diff_of(a: list[Plan], b: list[Plan]) -> Diff:
    return compare(graph(records(a, "r1")), graph(records(b, "r2")))


@pytest.mark.parametrize("seed", SEEDS)
def test_one_change_is_the_one_cause_or_had_no_effect(seed: int) -> None:
    """Whatever the graph, and whatever package or file one side alone loaded."""
    random_ = random.Random(seed)
    a = plan(random_, 14)
    b = copy.deepcopy(a)
    index = random_.randrange(14)
    kind, name = change(random_, b, index)
    attend(random_, b)
    diff = diff_of(a, b)
    acted = records(a, "r1")[index].outputs[0] != records(b, "r2")[index].outputs[0]
    found, other = (causes(diff), idle(diff)) if acted else (idle(diff), causes(diff))
    assert [(*key[:2], at) for key, at in found.items()] == [(kind, name, [a[index].name])]
    assert other == {}
    assert set(states(diff)) <= {"changed", "recomputed"} and ("changed" in states(diff)) == acted


@pytest.mark.parametrize("seed", SEEDS)
def test_causes_are_those_that_a_look_at_every_path_finds(seed: int) -> None:
    a, b = pair(seed, changes=5)
    left, right = records(a, "r1"), records(b, "r2")
    changed = {x.name for x, y in zip(left, right, strict=True) if x.outputs[0] != y.outputs[0]}
    above: dict[str, set[str]] = {}  # changed nodes on the ways of changed inputs
    own: dict[tuple[str, ...], set[str]] = {}
    expected = set()
    for one, other in zip(a, b, strict=True):
        makers = {a[maker].name for maker in one.reads} & changed
        above[one.name] = makers.union(*(above[maker] for maker in makers))
        differ: list[tuple[str, ...]] = [
            ("seed" if name == "seed" else KINDS[kind], name, "")
            for kind in FACTS
            for name, value in one.facts[kind].items()
            if other.facts[kind][name] != value
        ]
        differ += [("hardware", "processor", "")] * (one.processor != other.processor)
        differ += [("data", "given", one.given)] * (one.given != other.given)  # the same bytes are one cause
        for fact in differ if one.name in changed else ():
            own.setdefault(fact, set()).add(one.name)
        if one.name in changed and not differ and not makers:
            expected.add(("unexplained", "not reproducible", one.name))
    expected |= {(kind, name, at) for (kind, name, _), at_all in own.items() for at in at_all if not at_all & above[at]}
    diff = diff_of(a, b)
    assert {(cause.kind, cause.name, at) for cause in diff.causes for at in cause.at} == expected
    assert {node.key for node in diff.nodes if node.state == "changed"} == changed


@pytest.mark.parametrize("seed", SEEDS)
def test_a_run_against_itself_and_against_its_repetition(seed: int) -> None:
    plans = plan(random.Random(seed), 14)
    assert set(states(compare(graph(records(plans, "r1")), graph(records(plans, "r1"))))) == {"same"}
    again = diff_of(plans, copy.deepcopy(plans))
    assert (set(states(again)), again.causes, again.without_effect) == ({"recomputed"}, (), ())


@pytest.mark.parametrize("seed", SEEDS)
def test_swapped_runs_mirror(seed: int) -> None:
    a, b = pair(seed, changes=4)
    b = drop(b, seed)
    there, back = diff_of(a, b), diff_of(b, a)
    mirrored = {"added": "removed", "removed": "added"}
    assert [(n.key, mirrored.get(n.state, n.state), n.role) for n in back.nodes] == [
        (n.key, n.state, n.role) for n in there.nodes
    ]
    for found in (causes, idle):
        assert found(there) == {(kind, what, now, was): at for (kind, what, was, now), at in found(back).items()}
    for one, other in zip(there.nodes, back.nodes, strict=True):
        assert {(i.name, i.a, i.b) for i in one.inputs} == {(i.name, i.b, i.a) for i in other.inputs}
        assert {(c.kind, c.name, c.before) for c in one.changes} == {(c.kind, c.name, c.after) for c in other.changes}
    swapped = {"a": "b", "b": "a"}
    assert set(there.edges) == {(*edge[:3], swapped.get(edge[3], edge[3])) for edge in back.edges}


@pytest.mark.parametrize("seed", SEEDS)
def test_every_changed_node_has_a_cause_and_every_cause_a_node_that_nothing_above_explains(seed: int) -> None:
    a, b = pair(seed, changes=4)
    diff = diff_of(a, drop(b, seed))
    nodes = {node.key: node for node in diff.nodes}
    makers: dict[str, set[str]] = {key: set() for key in nodes}
    for maker, reader, name, _ in diff.edges:
        read = next(i for i in nodes[reader].inputs if i.name == name)
        if not read.equal and not read.measured:
            makers[reader].add(maker)
    for node in diff.nodes:
        assert bool(node.causes) == (node.state == "changed") == (node.role is not None)
        for index in node.causes:
            cause = diff.causes[index]
            assert node.key in cause.at or any(
                index in nodes[maker].causes or (cause.kind == "stage" and nodes[maker].state in ("added", "removed"))
                for maker in makers[node.key]
            )
        if node.role == "first":
            assert any(node.key in diff.causes[index].at for index in node.causes)
    for index, cause in enumerate(diff.causes):
        assert cause.at
        for at in cause.at:
            if cause.kind == "stage":
                assert nodes[at].state in ("added", "removed")
                continue
            assert nodes[at].state == "changed" and index in nodes[at].causes
            assert not any(index in nodes[maker].causes for maker in makers[at])
            known = {(c.kind, c.before, c.after) for c in nodes[at].changes}
            assert cause.kind == "unexplained" or (cause.kind, cause.before, cause.after) in known


@pytest.mark.parametrize("seed", SEEDS)
def test_neither_ids_of_records_nor_the_order_of_files_matter(seed: int) -> None:
    a, b = pair(seed, changes=4)
    once = compare(graph(records(a, "r1")), graph(records(b, "r2"))).json()
    shuffled = records(b, "r2", ids="other")
    random.Random(seed).shuffle(shuffled)
    again = compare(graph(records(a, "r1", ids="more")), graph(shuffled)).json()
    for values in (once, again):
        for node in values["nodes"]:
            for side in ("a", "b"):
                del node[side]["id"]
    assert once == again


def drop(plans: list[Plan], seed: int) -> list[Plan]:
    """The same without one node that is not read by those behind it any more."""
    gone = random.Random(seed).randrange(1, len(plans))
    kept = copy.deepcopy(plans)
    for one in kept:
        one.reads = [maker for maker in one.reads if maker != gone]
    kept[gone].stage = "elsewhere"
    return kept
