"""What is whole, what is somebody else's, and what a killed attempt left."""

import json
from pathlib import Path

import pytest

from pipelines.study.jobs import Job
from pipelines.study.store import Store

TEACHER = Job("teacher", "tiny", {"iterations": 3})
STUDENT = Job("student", "CD", {"of": 1}, {"teacher": TEACHER}, {"method": "cd"})


def test_a_job_is_one_process_until_it_ends(tmp_path: Path) -> None:
    claims = (Store(tmp_path).claim(job) for job in (STUDENT, STUDENT, TEACHER))
    with next(claims) as first, next(claims) as second, next(claims) as other:
        assert (first, second, other) == (True, False, True)
    with pytest.raises(KeyError), Store(tmp_path).claim(STUDENT) as again:
        assert again
        raise KeyError
    with Store(tmp_path).claim(STUDENT) as after_a_failure:
        assert after_a_failure
    Store(tmp_path).folder(STUDENT).mkdir(parents=True)
    with Store(tmp_path).claim(STUDENT) as done:
        assert not done, "what is there is not made again"


def test_what_a_killed_attempt_left_goes_and_what_others_are_at_stays(tmp_path: Path) -> None:
    store = Store(tmp_path)
    other = Job("student", "CT", {"of": 2})
    for job in (STUDENT, other):
        (tmp_path / "store" / f".{job.name}.k3x" / "part").mkdir(parents=True)
        (tmp_path / "store" / f".{job.name}.timing.json.k3x").write_text("{")
        store.describe(job)
    assert not store.done(STUDENT)
    with store.claim(STUDENT) as ours:
        left = {path.name for path in (tmp_path / "store").iterdir()}
        assert ours and left == {
            f".{other.name}.k3x",
            f".{other.name}.timing.json.k3x",
            f"{other.name}.job.json",
            f"{STUDENT.name}.job.json",
        }


def test_beside_an_artifact_stands_what_it_is_of(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.describe(STUDENT)
    assert json.loads(store.beside(STUDENT, "job").read_text()) == {
        "kind": "student",
        "label": "CD",
        "is": {"params": {"of": 1}, "arguments": {"method": "cd"}},
        "inputs": {"teacher": TEACHER.name},
        "fingerprint": STUDENT.fingerprint,
    }


@pytest.mark.parametrize("text", ['{"seconds": 1', "[1]", ""])
def test_times_that_were_not_written_whole_are_unknown(tmp_path: Path, text: str) -> None:
    store = Store(tmp_path)
    assert store.measured(TEACHER) == {}
    store.describe(TEACHER)
    store.beside(TEACHER, "timing").write_text(text)
    assert store.measured(TEACHER) == {}
