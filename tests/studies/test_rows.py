"""How rows, lists and seeds multiply, what a row sets, and which rows contradict each other."""

from typing import Any

import pytest

from mcm.errors import UserError
from pipelines.study.rows import Row, resolve
from pipelines.study.schema import RowConfig, Study

SEEDS = ("students.common.seed", "evaluation.seed")
PARAMS: dict[str, Any] = {
    "teacher": {"iterations": 5},
    "students": {
        "common": {"iterations": 10, "teacher_steps": {"first": 8}},
        "cd": {"iterations": 20},
        "cd-4": {"iterations": 40},
    },
    "evaluation": {"samples": 16},
}


def rows(*entries: dict[str, Any], seeds: tuple[int, ...] = (0,), bases: tuple[str, ...] = ("one",)) -> list[Row]:
    parsed = tuple(RowConfig.parse(entry, "row") for entry in entries)
    study = Study(name="s", folder="studies", title="S", bases=bases, seeds=seeds, rows=parsed)
    return resolve(study, dict.fromkeys(bases, PARAMS), SEEDS)


def keys(found: list[Row]) -> list[tuple[str, str, str, int, int]]:
    return [(row.base, row.series, row.method, row.steps, row.seed) for row in found]


def test_lists_seeds_and_bases_multiply_and_the_first_seed_comes_first() -> None:
    found = rows({"method": ["cd", "ct"], "steps": [1, 2]}, seeds=(0, 7), bases=("one", "two"))
    wanted = [(b, m, m, s, seed) for seed in (0, 7) for b in ("one", "two") for m in ("cd", "ct") for s in (1, 2)]
    assert keys(found) == wanted


def test_a_sampler_is_multiplied_and_called_by_what_is_said_of_it() -> None:
    found = rows(
        {"sampler": {"name": ["ddim", "heun"], "steps": [2, 4], "grid": "karras"}},
        {"sampler": {"name": "ddim", "steps": 2, "guidance": 0.5, "clip": False}},
    )
    assert [row.series for row in found] == ["ddim-karras"] * 2 + ["heun-karras"] * 2 + ["ddim-guidance0.5"]
    assert found[-1].sampler == {"name": "ddim", "steps": 2, "guidance": 0.5, "clip": False}
    assert found[-1].settings == {"guidance": 0.5, "clip": False}


def test_seeds_reach_the_parameters_and_the_base_stays_as_it_is() -> None:
    first, second = rows({"method": "cd", "steps": 1, "set": {"teacher.iterations": 6}}, seeds=(3, 4))
    assert (first.params["students"]["common"]["seed"], first.params["evaluation"]["seed"]) == (3, 3)
    assert (second.params["students"]["common"]["seed"], second.params["teacher"]["iterations"]) == (4, 6)
    assert "seed" not in PARAMS["evaluation"] and PARAMS["teacher"] == {"iterations": 5}


def test_seeds_of_a_row_are_its_own() -> None:
    assert [row.seed for row in rows({"method": "cd", "steps": 1, "seeds": [9]}, seeds=(0, 1))] == [9]


def merged(row: Row) -> dict[str, Any]:
    students = row.params["students"]
    parts = [students.get(name) or {} for name in ("common", row.method, f"{row.method}-{row.steps}")]
    return {key: value for part in parts for key, value in part.items()}


def test_what_a_row_sets_wins_over_more_special_sections_of_the_base() -> None:
    (row,) = rows({"method": "cd", "steps": 4, "set": {"students.common.iterations": 7}})
    assert merged(row)["iterations"] == 7
    values = {"students.common.iterations": 7, "students.cd-4.iterations": 9, "students.ct.iterations": 8}
    found = rows({"method": ["cd", "ct"], "steps": [2, 4], "set": values})
    assert [merged(row)["iterations"] for row in found] == [7, 9, 8, 8]
    (row,) = rows({"method": "cd", "steps": 4, "set": {"students.cd.teacher_steps.first": 4}})
    assert row.params["students"]["cd"] == {"iterations": 20, "teacher_steps": {"first": 4}}


def test_rows_of_one_series_and_steps_with_other_parameters_are_a_conflict_that_names_both() -> None:
    with pytest.raises(UserError) as error:
        rows(
            {"series": "CD", "method": "cd", "steps": [1, 2]},
            {"series": "CD", "method": "cd", "steps": 2, "set": {"students.cd.iterations": 3}},
        )
    message = str(error.value)
    assert "row 1 ('CD') and row 2 ('CD') of studies/s.yaml" in message
    assert "series 'CD' at 2 steps, seed 0, with other parameters" in message and "\n" not in message


def test_the_same_row_twice_is_said_to_be_so() -> None:
    with pytest.raises(UserError, match="are the same: series 'cd' at 1 step, seed 0; drop one"):
        rows({"method": "cd", "steps": [1]}, {"method": "cd", "steps": 1})
    with pytest.raises(UserError, match=r"row 1 .*and row 1 .*with other parameters"):
        rows({"series": "all", "method": ["cd", "ct"], "steps": 1})


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("student.common.iterations", "no section 'student'; did you mean 'students'"),
        ("students.ct.iterations", "no student of this row reads 'ct'"),
        ("students.cdd.iterations", "reads 'cdd'; did you mean 'cd'"),
        ("students.cd-8.iterations", "reads 'cd-8'; did you mean 'cd-4'"),
        ("students.common", "sets the whole of 'students.common'"),
        ("evaluation", "sets the whole of 'evaluation'"),
        ("students.common.seed", "seeds are the study's"),
        ("students.cd-4.seed", "seeds are the study's"),
        ("evaluation.seed", "seeds are the study's"),
        ("teacher.iterations.first", "'iterations' is 5, not a section"),
    ],
)
def test_keys_that_nothing_reads_are_refused(key: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        rows({"series": "CD", "method": "cd", "steps": 4, "set": {key: 1}})
    assert str(error.value).startswith("studies/s.yaml, row 1 ('CD'): sets ")


def test_a_sampler_sets_nothing_of_students() -> None:
    with pytest.raises(UserError, match="a sampler of the teacher reads no students"):
        rows({"sampler": {"name": "ddim", "steps": 1}, "set": {"students.common.iterations": 1}})
    with pytest.raises(UserError, match="'sampler' has no steps"):
        rows({"sampler": {"name": "ddim"}})
    with pytest.raises(UserError, match="steps of 'sampler' are 0"):
        rows({"sampler": {"name": "ddim", "steps": [1, 0]}})
