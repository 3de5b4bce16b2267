"""What a job's fingerprint depends on, and what is found out before anything runs."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from mcm.errors import UserError
from pipelines.study import jobs
from pipelines.study.estimate import left, spoken
from pipelines.study.jobs import KINDS, Job, Planned, distinct, missing, plan
from pipelines.study.rows import resolve
from pipelines.study.schema import RowConfig, Study, read_study
from pipelines.study.store import Store
from tests.studies import small


def planned(folder: Path, rows: list[dict[str, Any]] | None = None, **values: Any) -> list[Planned]:
    return plan(read_study("small", small.write(folder, rows, **values)))


def chain(each: Planned) -> dict[str, str]:
    """Names of the jobs of a row by kind."""
    return {job.kind: job.name for job in each.last.chain()}


def change(folder: Path, key: str, value: Any, base: str = "tiny") -> None:
    """Another value in the base, which `planned` would write anew: so plan with `read_study` afterwards."""
    path = folder / f"studies/base/{base}.yaml"
    params = yaml.safe_load(path.read_text())
    *sections, name = key.split(".")
    part = params
    for section in sections:
        part = part[section]
    part[name] = value
    path.write_text(yaml.safe_dump(params))


def again(folder: Path, name: str = "small") -> list[Planned]:
    return plan(read_study(name, folder / "studies"))


def exact(folder: Path, **values: Any) -> list[Planned]:
    return plan(read_study("exact", small.write_exact(folder, **values)))


def test_a_row_is_a_chain_and_variance_is_made_only_where_it_is_read(tmp_path: Path) -> None:
    cd, _, table, ddim = planned(tmp_path)
    assert set(chain(cd)) == {"dataset", "reference", "teacher", "student", "evaluation"}
    assert set(chain(table)) == {"dataset", "reference", "teacher", "variance", "evaluation"}
    assert set(chain(ddim)) == {"dataset", "reference", "teacher", "evaluation"}
    assert (cd.last.inputs["model"].images, ddim.nfe) == (12 * 8, 2)


def test_jobs_are_shared_and_come_after_what_they_need(tmp_path: Path) -> None:
    rows = planned(tmp_path, seeds=[0, 1])
    found = distinct(rows)
    kinds = [job.kind for job in found.values()]
    counts = {kind: kinds.count(kind) for kind in kinds}
    assert counts == {"dataset": 1, "reference": 1, "teacher": 1, "variance": 1, "student": 4, "evaluation": 8}
    places = {name: place for place, name in enumerate(found)}
    assert all(places[needed.name] < places[job.name] for job in found.values() for needed in job.inputs.values())


def test_names_and_titles_are_no_part_of_what_is_made(tmp_path: Path) -> None:
    row = {"method": "cd", "steps": 1}
    (first,) = planned(tmp_path, [row])
    (second,) = planned(tmp_path, [{**row, "series": "Other"}], title="Other", seeds=[0])
    assert first.last.fingerprint == second.last.fingerprint
    (at_default,) = planned(tmp_path, [{**row, "set": {"students.cd.x_var_frac": 0.75}}])
    assert first.last.fingerprint == at_default.last.fingerprint


@pytest.mark.parametrize(
    ("key", "value", "changed"),
    [
        ("evaluation.samples", 24, {"evaluation"}),
        ("evaluation.extractor", "effnet-lite0@224", {"reference", "evaluation"}),
        ("evaluation.teacher_samplers", [{"name": "ddim", "steps": 3}], set()),
        ("variance.steps", 5, set()),
        ("students.methods", ["cd"], set()),
        ("students.cd", {"x_var_frac": 0.5}, {"student", "evaluation"}),
        ("teacher.iterations", 13, {"teacher", "student", "evaluation"}),
        ("network.dropout", 0.3, {"teacher", "student", "evaluation"}),
        ("schedule.noise_low", 8, {"teacher", "student", "evaluation"}),
        ("data.holdout", 0.3, {"dataset", "reference", "teacher", "student", "evaluation"}),
    ],
)
def test_a_fingerprint_is_of_what_is_read(tmp_path: Path, key: str, value: Any, changed: set[str]) -> None:
    before = chain(planned(tmp_path)[0])
    change(tmp_path, key, value)
    after = chain(again(tmp_path)[0])
    assert {kind for kind in before if before[kind] != after[kind]} == changed


def test_the_seed_of_a_row_is_not_the_teachers(tmp_path: Path) -> None:
    first, second = planned(tmp_path, [{"method": "cd", "steps": 1}], seeds=[0, 1])
    differing = {kind for kind, name in chain(first).items() if chain(second)[kind] != name}
    assert differing == {"student", "evaluation"}


@pytest.mark.parametrize(
    ("key", "value", "of_student", "of_sampler"),
    [
        ("exact.evaluation.samples", 24, {"exact"}, {"exact"}),
        ("exact.start.iterations", 9, {"start", "student", "exact"}, set()),
        ("exact.network.width", 16, {"start", "student", "exact"}, set()),
        ("exact.mixture", "pictures-64d", {"start", "student", "exact"}, {"exact"}),
        ("students.common.iterations", 9, {"student", "exact"}, set()),
        ("students.cd-1", {"x_var_frac": 0.5}, {"student", "exact"}, set()),
        ("students.cd-2", {"x_var_frac": 0.5}, set(), set()),
        ("students.ct", {"iterations": 9}, set(), set()),
    ],
)
def test_a_fingerprint_of_an_exact_study_is_of_what_is_read(
    tmp_path: Path, key: str, value: Any, of_student: set[str], of_sampler: set[str]
) -> None:
    before = exact(tmp_path)
    change(tmp_path, key, value, "rings")
    after = again(tmp_path, "exact")
    for place, series, changed in ((0, "CD", of_student), (2, "Heun", of_sampler)):
        assert (before[place].row.series, before[place].row.steps) == (series, 1)
        found = chain(after[place])
        assert {kind for kind, name in chain(before[place]).items() if found[kind] != name} == changed


def test_rows_of_an_exact_study_share_a_start_and_nothing_that_differs(tmp_path: Path) -> None:
    found = distinct(exact(tmp_path))
    kinds = [job.kind for job in found.values()]
    assert {kind: kinds.count(kind) for kind in kinds} == {"start": 1, "student": 4, "exact": 8}
    assert {job.images for job in found.values() if job.kind == "student"} == {8 * 8}
    change(tmp_path, "students.cd", {"seed": 5}, "rings")
    with pytest.raises(UserError, match="a section of cd-1 has a seed, and seeds are the study's"):
        again(tmp_path, "exact")
    change(tmp_path, "students.cd", {}, "rings")
    change(tmp_path, "student", {}, "rings")
    with pytest.raises(UserError, match=r"rings.yaml: unknown section 'student'; did you mean 'students'"):
        again(tmp_path, "exact")


def test_evaluations_of_a_sampler_are_known_before_it_runs(tmp_path: Path) -> None:
    rows = [{"sampler": {"name": ["ddim", "heun"], "steps": [1, 4]}}]
    for found in (planned(tmp_path, rows), exact(tmp_path, rows=rows, seeds=[0])):
        assert [(each.row.series, each.row.steps, each.nfe) for each in found] == [
            ("ddim", 1, 1),
            ("ddim", 4, 4),
            ("heun", 1, 1),
            ("heun", 4, 7),
        ]
    work = [each.last.units for each in planned(tmp_path, rows)]
    assert work[0] < work[1] < work[3] and work[0] == work[2], "work is in evaluations"


def test_an_archive_counts_by_its_content(tmp_path: Path) -> None:
    archive = tmp_path / "pictures.tar"
    archive.write_bytes(b"first")
    rows = [{"method": "cd", "steps": 1, "set": {"data.source": "archive", "data.path": str(archive)}}]
    first = chain(planned(tmp_path, rows)[0])
    archive.write_bytes(b"second")
    jobs._hash.cache_clear()
    assert chain(again(tmp_path)[0])["dataset"] != first["dataset"]


def test_own_images_count_by_their_content(tmp_path: Path) -> None:
    first = planned(tmp_path / "a")
    assert chain(planned(tmp_path / "b")[0]) == chain(first[0])
    picture = next((tmp_path / "b/pictures").rglob("*.png"))
    Image.new("RGB", (20, 20), "red").save(picture.with_name("more.png"))
    jobs._hash.cache_clear()
    assert chain(again(tmp_path / "b")[0])["dataset"] != chain(first[0])["dataset"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"method": "cdd", "steps": 1}, "method 'cdd' is unknown; did you mean 'cd'"),
        ({"method": "cd", "steps": 0}, "choose 1 or more"),
        (
            {"method": "cd", "steps": 1, "set": {"students.cd.x_var": 0.5}},
            "unknown key 'x_var'; did you mean 'x_var_frac'",
        ),
        ({"method": "cd", "steps": 1, "set": {"teacher.iteration": 3}}, "section 'teacher': unknown key 'iteration'"),
        ({"method": "cd", "steps": 1, "set": {"network.preset": "uvit_tin"}}, "did you mean 'uvit_tiny'"),
        ({"method": "cd", "steps": 1, "set": {"evaluation.samples": 12}}, "evaluation.samples is 12, too few for FID"),
        ({"method": "cd", "steps": 1, "set": {"data.path": "nowhere"}}, "no images at 'nowhere'"),
        ({"sampler": {"name": "dim", "steps": 1}}, "did you mean 'ddim'"),
        ({"sampler": {"name": "ddim", "steps": 1, "grids": "karras"}}, "unknown key 'grids'; did you mean 'grid'"),
    ],
)
def test_everything_is_parsed_before_anything_runs(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        planned(tmp_path, [*small.ROWS, {"series": "A", **row}])
    assert str(error.value).startswith("studies/small.yaml, row 4 ('A'), base 'tiny': ")


def test_a_seed_in_a_special_section_of_the_base_is_refused(tmp_path: Path) -> None:
    planned(tmp_path)
    change(tmp_path, "students.cd", {"seed": 5})
    with pytest.raises(UserError, match="a section of cd-1 has a seed, and seeds are the study's"):
        again(tmp_path)


def test_what_only_finished_rows_have_read_is_not_made_again(tmp_path: Path) -> None:
    rows, store = planned(tmp_path), Store(tmp_path / "work")
    for each in rows[:3]:
        store.folder(each.last).mkdir(parents=True)
    left_over = missing(rows, store.done)
    assert [job.kind for job in left_over.values()] == ["dataset", "reference", "teacher", "evaluation"]
    store.folder(rows[3].last).mkdir()
    assert missing(rows, store.done) == {}


def test_time_left_is_known_once_a_job_of_each_kind_was_measured(tmp_path: Path) -> None:
    store = Store(tmp_path)
    done, other, ct = (
        Job("student", "", {"of": k}, arguments={"method": method}, units=units)
        for k, (method, units) in enumerate([("cd", 100.0), ("cd", 50.0), ("ct", 200.0)])
    )
    assert left([other], [done, other], store) is None
    store.folder(done).mkdir(parents=True)
    store.beside(done, "timing").write_text('{"seconds": 10.0}')
    assert left([other, ct], [done, other, ct], store) == pytest.approx(25.0)
    store.beside(ct, "timing").write_text('{"seconds": 100.0}')  # of an attempt that was killed
    assert left([other, ct], [done, other, ct], store) == pytest.approx(25.0)
    store.folder(ct).mkdir()
    more = Job("student", "", {"of": 3}, arguments={"method": "ct"}, units=10.0)
    tract = Job("student", "", {"of": 4}, arguments={"method": "tract"}, units=30.0)
    assert left([other, more], [done, ct], store) == pytest.approx(5.0 + 5.0)  # each by its own method
    assert left([tract], [done, ct], store) == pytest.approx(30 * 110 / 300)  # of no method that was measured
    assert [spoken(seconds) for seconds in (40, 600, 7200)] == ["40 s", "10 min", "2.0 h"]


def test_what_was_made_before_is_still_found() -> None:
    """Recorded names: others mean that every store in use is made anew, so VERSION says why it had to be."""
    rows = tuple(RowConfig.parse(row, "row") for row in small.ROWS[:2])
    study = Study(name="s", folder=Path("studies"), title="S", base="tiny", min_samples=16, rows=rows)
    params = {**small.base(Path("unused")), "data": {"source": "emoji", "resolution": 16}}
    cd, _, table = resolve(study, {"tiny": params}, KINDS["images"].seeds)
    made = {job.name for row in (cd, table) for job in KINDS["images"].make(study, row).chain()}
    assert made == {
        "dataset-4bf2dd8accac",
        "evaluation-9b3db730ccc9",
        "evaluation-fc1b9f50915f",
        "reference-84432c531b81",
        "student-63bf074eaf9e",
        "teacher-58f19dd6b091",
        "variance-ee39cdc3283e",
    }


def test_aliases_of_a_base_are_values_of_their_own(tmp_path: Path) -> None:
    """A row's seed is that of its student; the start, written as an alias of the same mapping, stays one for all."""
    studies = small.write_exact(tmp_path, seeds=[0, 1])
    base = small.exact_base()
    base["exact"]["start"] = base["students"]["common"]
    (studies / "base/rings.yaml").write_text(yaml.safe_dump(base))
    assert "&id001" in (studies / "base/rings.yaml").read_text()
    kinds = [job.kind for job in distinct(plan(read_study("exact", studies))).values()]
    assert kinds.count("start") == 1 and kinds.count("student") > 1
