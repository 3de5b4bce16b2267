"""Students that are not sampled by DDIM at their own steps: one training for all samplers, and rows that say which."""

import json
from pathlib import Path
from typing import Any

import pytest

from mcm.errors import UserError
from pipelines.study.jobs import Planned, distinct, plan
from pipelines.study.results import outcomes
from pipelines.study.schema import read_study
from pipelines.study.stages import run
from pipelines.study.store import Store
from tests.studies import small

TWICE = {"method": "cm", "steps": 1, "sampler": {"name": "consistency", "steps": [2, 4], "clip": False}}
MIXTURE: dict[str, Any] = {
    "exact": {
        "mixture": "line-1d",
        "network": {"width": 8, "blocks": 1, "embedding": 8},
        "start": {"iterations": 4, "batch_size": 8, "learning_rate": 1e-3, "emas": [0.9]},
        "evaluation": {"samples": 16, "flow_steps": 8},
    },
    "students": {"common": {"iterations": 4, "batch_size": 8, "learning_rate": 1e-3, "emas": [0.9]}},
}


def planned(folder: Path, *rows: dict[str, Any]) -> list[Planned]:
    base = small.base(folder / "pictures")
    del base["students"]["common"]["teacher_steps"]  # of cd and ct
    return plan(read_study("small", small.write(folder, list(rows), params=base)))


def mixture(folder: Path, *rows: dict[str, Any]) -> list[Planned]:
    return plan(read_study("small", small.write(folder, list(rows), params=MIXTURE, kind="mixture")))


def test_samplers_share_a_student_and_the_rows_say_their_steps(tmp_path: Path) -> None:
    found = planned(tmp_path, {"method": "cm", "steps": 1}, TWICE)
    assert [(each.row.series, each.row.steps, each.nfe) for each in found] == [
        ("cm", 1, 1),
        ("cm-consistency", 2, 2),
        ("cm-consistency", 4, 4),
    ]
    assert [each.row.settings for each in found[1:]] == [{"sampler": "consistency", "clip": False}] * 2
    kinds = [job.kind for job in distinct(found).values()]
    assert kinds.count("student") == 1 and kinds.count("evaluation") == 3


@pytest.mark.parametrize(
    ("method", "steps", "sampler", "said"),
    [
        ("cm", 1, "addim", "sampler addim reads the teacher's x_var; sample students by ddim"),
        ("cd", 4, "consistency", "sampler consistency asks for the data at once, and this student has 4 steps to it"),
    ],
)
def test_a_sampler_that_is_not_for_the_student_is_refused(
    tmp_path: Path, method: str, steps: int, sampler: str, said: str
) -> None:
    for make in (planned, mixture):
        with pytest.raises(UserError, match=f"row 1.*{said}"):
            make(tmp_path / make.__name__, {"method": method, "steps": steps, "sampler": {"name": sampler, "steps": 2}})


def test_a_students_samplers_on_a_mixture_come_to_different_points(tmp_path: Path) -> None:
    found = mixture(tmp_path, {"method": "cm", "steps": 1}, TWICE)
    store = Store(tmp_path / "work")
    for job in distinct(found).values():
        run(job, store)
    made = outcomes(found, store)
    assert [outcome.nfe for outcome in made] == [1, 2, 4] and all(outcome.is_student for outcome in made)
    assert len({outcome.metrics["w2"] for outcome in made}) == 3
    rows = [json.loads((store.folder(each.last) / "metrics.json").read_text())["row"] for each in found]
    assert rows == ["ddim-1", "consistency-2", "consistency-4"]
