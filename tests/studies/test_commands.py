"""`mcm study list`, `page` and `run` on a study of an exact mixture, every row of which is made here."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

from pipelines.study.commands import list as listing
from pipelines.study.commands import page, run
from pipelines.study.jobs import Planned, distinct, plan
from pipelines.study.results import outcomes
from pipelines.study.schema import read_study
from pipelines.study.store import Store
from pipelines.study.worker import _serve as serve
from tests.studies import small

ROWS = [{"series": "CD", "method": "cd", "steps": 2}, small.EXACT_ROWS[1]]


class Made:
    """A folder of studies, and a work folder in which every row of `exact` is done."""

    def __init__(self, folder: Path):
        self.studies, self.work = small.write_exact(folder, ROWS), folder / "work"
        self.store = Store(self.work)
        self.planned: list[Planned] = plan(read_study("exact", self.studies))

    def places(self) -> list[str]:
        return ["--studies", str(self.studies), "--work", str(self.work)]

    def without(self, number: int, folder: Path) -> "Made":
        """The same, but for the artifact of one row."""
        shutil.copytree(self.work, folder / "work")
        other = Made(folder)
        shutil.rmtree(other.store.folder(other.planned[number].last))
        return other


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Made:
    made = Made(tmp_path_factory.mktemp("exact"))
    for job in distinct(made.planned).values():
        assert serve(job, made.store, {"commit": "abc", "dirty": False}).status == "done"
    return made


def tree(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*")}


def left_with(capsys: pytest.CaptureFixture[str], status: object) -> str:
    """The one line that a command said on leaving with status 2."""
    said = capsys.readouterr().err
    assert status == 2 and said.startswith("error: ") and said.count("\n") == 1
    return said


def test_a_rows_figures_are_of_its_own_seed_steps_and_sampler(whole: Made) -> None:
    found = outcomes(whole.planned, whole.store)
    for each, outcome in zip(whole.planned, found, strict=True):
        made = json.loads((whole.store.folder(each.last) / "metrics.json").read_text())
        assert outcome.metrics == made["metrics"] and outcome.about.items() >= made["about"].items()
    assert [(o.series, o.steps, o.nfe, o.seed) for o in found] == [
        (*row, seed) for seed in (0, 1) for row in (("CD", 2, 2), ("Heun", 1, 1), ("Heun", 2, 3))
    ]
    assert len({o.metrics["w2"] for o in found}) == len(found)
    assert len({o.about["noise_floor_w2"] for o in found}) == 2  # of each seed's own draws
    assert [o.seconds is None for o in found] == [o.series == "Heun" for o in found]


def test_list_says_how_far_each_study_is(whole: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = whole.without(2, tmp_path)
    (made.studies / "broken.yaml").write_text("title: Broken\n")
    other = {**yaml.safe_load((made.studies / "exact.yaml").read_text()), "seeds": [5], "title": "Not begun"}
    (made.studies / "new.yaml").write_text(yaml.safe_dump(other))
    listing.main(made.places())
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["study", "rows", "left", "title"]
    assert lines[1][:2] == ["broken", "error:"] and "rows" in " ".join(lines[1])
    assert lines[2] == ["exact", "5/6", "0", "s", "Exact"]
    assert [line[:2] for line in lines[3:]] == [["new", "0/3"]]
    shutil.rmtree(made.work)
    listing.main(made.places())
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[2] == ["exact", "0/6", "?", "Exact"] and not made.work.exists()


def test_page_shows_what_is_done_and_runs_nothing(
    whole: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = whole.without(2, tmp_path)
    before, out = tree(made.work), tmp_path / "out"
    page.main(["exact", *made.places(), "--out", str(out)])
    assert capsys.readouterr().out == f"{out}: written, with 5 of 6 rows\n"
    assert tree(made.work) == before
    results = pd.read_csv(out / "results.csv")
    empty = results[results["w2"].isna()][["series", "steps", "seed"]]
    assert len(results) == 6 and empty.to_numpy().tolist() == [["Heun", 2, 0]]
    page.main(["exact", *made.places()])
    assert (made.work / "studies/exact/results.csv").read_bytes() == (out / "results.csv").read_bytes()


def test_page_of_nothing_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = Made(tmp_path)
    for name, said in (
        ("exact", f"{made.work}: no row of study 'exact' is done there; run `mcm study run exact`"),
        ("exac", "study 'exac' is unknown; did you mean 'exact'"),
    ):
        with pytest.raises(SystemExit) as left:
            page.main([name, *made.places()])
        assert said in left_with(capsys, left.value.code)
    assert not made.work.exists()


def test_run_of_a_study_that_is_done_only_writes_its_page(
    whole: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, out = tree(whole.work), tmp_path / "out"
    run.main(["exact", *whole.places(), "--out", str(out), "--jobs", "1"])
    assert capsys.readouterr().out == f"exact: 6 rows, 9 jobs, 0 to do\n{out}: written\n"
    assert tree(whole.work) == before and (out / "index.html").is_file()


@pytest.mark.parametrize(
    ("values", "words", "said"),
    [
        ({}, ["--jobs", "0"], "--jobs 0: give 1 or more"),
        ({"plots": [{"name": "a", "metric": "w3"}]}, [], "studies/exact.yaml: plot 'a': metric 'w3' is unknown"),
        ({"rows": [{"method": "cdd", "steps": 1}]}, [], "row 1, base 'rings': method 'cdd' is unknown"),
    ],
)
def test_run_finds_what_is_wrong_before_anything_is_made(
    tmp_path: Path, values: dict, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    studies = small.write_exact(tmp_path, **values)
    with pytest.raises(SystemExit) as left:
        run.main(["exact", "--studies", str(studies), "--work", str(tmp_path / "work"), *words])
    assert said in left_with(capsys, left.value.code)
    assert not (tmp_path / "work").exists()
