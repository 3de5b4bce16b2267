"""The report says what the artifacts hold, in a page that loads nothing and breaks on no text."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from components.lineage import surroundings
from components.report.__main__ import main
from components.report.checks import CD_RATIO, checks
from components.report.collect import collect
from components.report.compare import compare, figure, headline, paper_ratios
from components.report.provenance import commit
from components.report.stage import report
from mcm.artifacts import write_config, write_json
from mcm.errors import UserError

NASTY = 'A & B <script>alert("x")</script> | `c` http://example.org/a.png'
TEACHER = {"addim-64": 20.0, "ddim-8": 40.0, "ddim-4": 60.0, "ddim-2": 90.0, "ddim-1": 200.0}
STUDENTS = {"cd-8": 21.0, "cd-4": 24.0, "cd-2": 30.0, "cd-1": 55.0, "ct-2": 35.0, "ct-1": 70.0}
VOID = {"meta", "img", "source", "br", "link", "input", "hr"}


def metrics(row: str, fid: float, **other: object) -> dict:
    return {
        "fid": fid,
        "kid": fid / 1e4,
        "kid_standard_error": fid / 1e5,
        "precision": 0.5,
        "recall": 0.25,
        "samples": 64,
        "reference_samples": 50,
        "extractor": "FID (Toy@8)",
        "reference": "abc.dir",
        "ema": "ema_0.99",
        "sampler": row,
        "nfe": int(row.split("-")[1]),
        "seed": 3,
        "guidance": 0.0,
        **other,
    }


def add_evaluation(root: Path, name: str, rows: dict[str, dict]) -> None:
    folder = root / "evaluations" / name
    folder.mkdir(parents=True)
    floor = {"between": "two halves of train", "counts": [25, 25], "fid": 10.0, "kid": 0.001}
    write_config(folder, "evaluation", 1, {"name": name, "floor": floor})
    write_json(folder / "metrics.json", rows)
    for key, row in rows.items():
        pictures = np.random.default_rng(row["nfe"]).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
        np.save(folder / ("samples.npy" if len(rows) == 1 else f"samples-{key}.npy"), pictures)
    timings = {
        key: {"seconds_per_image": 0.01 * row["nfe"], "nfe": row["nfe"], "batch": 4, "device": "cpu"}
        for key, row in rows.items()
    }
    write_json(root / "timings" / f"{name}.json", timings)


def add_denoiser(folder: Path) -> None:
    folder.mkdir(parents=True)
    write_config(folder, "denoiser", 1, {"training": {"seed": 7}})
    (folder / "loss.csv").write_text("iteration,loss,gradient_norm\n1,0.5,1\n2,0.25,1\n3,0.125,1\n")


def make_artifacts(root: Path, students: dict[str, float] = STUDENTS, teacher: dict[str, float] = TEACHER) -> Path:
    (root / "dataset").mkdir(parents=True)
    values = {"classes": [NASTY, "plain"], "num_classes": 2, "resolution": 8, "channels": 3}
    write_config(root / "dataset", "dataset", 1, {**values, "counts": {"train": 50, "holdout": 5}})
    licence = {"name": "source-a", "version": "1.0", "licence": "CC-BY-4.0", "attribution": NASTY}
    write_json(root / "dataset" / "licences.json", [licence])
    add_denoiser(root / "teacher")
    (root / "variance").mkdir()
    write_config(root / "variance", "variance", 1, {})
    table = "t,logsnr,x_var,standard_error,n,analytic\n0.5,0.0,0.03,0.001,16,0.0333\n1.0,-20.0,0.04,nan,16,0.05\n"
    (root / "variance" / "table.csv").write_text(table)
    add_evaluation(root, "teacher", {row: metrics(row, fid) for row, fid in teacher.items()})
    for name, fid in students.items():
        row = f"ddim-{name.split('-')[1]}"
        add_denoiser(root / "students" / name)
        add_evaluation(root, name, {row: metrics(row, fid)})
    return root


class Page(HTMLParser):
    """The parts of a page that the tests look at; unbalanced tags fail."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data

    def table(self, first: str) -> list[list[str]]:
        """The table whose first heading is this."""
        return next(table for table in self.tables if table[0][0].startswith(first))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Artifacts and the report on them."""
    root = tmp_path_factory.mktemp("run")
    artifacts = make_artifacts(root / "artifacts")
    report({"data": {"attribution": NASTY}}, artifacts, root / "report")
    return artifacts, root / "report"


@pytest.fixture(scope="module")
def page(made: tuple[Path, Path]) -> Page:
    parsed = Page()
    parsed.feed((made[1] / "index.html").read_text(encoding="utf-8"))
    parsed.close()
    assert parsed.open == []
    return parsed


def test_the_page_loads_nothing_from_elsewhere(page: Page) -> None:
    loaded = [
        attrs.get(key)
        for tag, attrs in page.tags
        for key in ("src", "srcset", "href", "data", "action")
        if key in attrs and not (tag == "a" and str(attrs[key]).startswith("#"))
    ]
    assert loaded and all(str(address).startswith("data:image/") for address in loaded)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    styles = [attrs["style"] for _, attrs in page.tags if "style" in attrs]
    assert not any("url(" in str(style) for style in styles)


def test_every_picture_has_an_alt_text_and_every_heading_a_scope(page: Page) -> None:
    pictures = [attrs for tag, attrs in page.tags if tag == "img"]
    assert len(pictures) == 6 + 5 + 3 + 5  # charts; CD, CT and DDIM columns with the teacher before each
    assert all(attrs.get("alt") for attrs in pictures)
    assert all(attrs.get("scope") in ("col", "row") for tag, attrs in page.tags if tag == "th")


def test_the_table_holds_the_figures_of_the_metrics(page: Page) -> None:
    head, *rows = page.table("Model")
    column = {name: index for index, name in enumerate(head)}
    found = {(row[0], int(row[column["Evaluations"]])): row for row in rows}
    assert len(found) == len(TEACHER) + len(STUDENTS)
    for name, fid in STUDENTS.items():
        method, steps = name.split("-")
        row = found[method.upper(), int(steps)]
        assert float(row[column["FID (Toy@8)"]]) == fid
        assert float(row[column["over the teacher's"]]) == pytest.approx(fid / 20, abs=0.005)
        assert row[column["KID × 1000 (Toy@8)"]] == f"{fid / 10:.2f} ± {fid / 100:.2f}"
        assert (row[column["Precision"]], row[column["Recall"]]) == ("0.50", "0.25")
        assert float(row[column["Seconds per image"]]) == 0.01 * int(steps)
        assert float(row[column["Speed-up"]].rstrip("×")) == pytest.approx(64 / int(steps), rel=0.01)
    assert found["teacher, aDDIM", 64][column["over the teacher's"]] == "1.00"
    assert found["CD", 1][column["paper's, small"]] == "2.87"  # 4.3 / 1.5
    assert found["CT", 1][column["paper's, large"]] == "4.57"  # 6.4 / 1.4
    assert found["teacher, DDIM", 4][column["paper's, small"]] == "–"


def test_the_headline_says_the_result_in_figures(page: Page, made: tuple[Path, Path]) -> None:
    sentence = (
        "CD at 4 evaluations: FID (Toy@8) 24.0, 1.20 times the teacher's 20.0 at 64 (aDDIM), and 16.0 times as fast."
    )
    assert sentence in page.text
    run = collect(made[0])
    assert headline(run, compare(run)) == sentence


def test_text_of_users_is_escaped_in_both_forms(page: Page, made: tuple[Path, Path]) -> None:
    raw, twin = ((made[1] / name).read_text(encoding="utf-8") for name in ("index.html", "report.md"))
    assert "<script" not in raw
    assert NASTY in page.text  # as text: classes, attribution, parameters
    assert NASTY in {row[3] for row in page.table("Source")}
    outside_code = "\n".join(line for line in twin.split("\n") if not line.startswith("    "))
    assert "<script" not in outside_code
    (attribution,) = [line for line in outside_code.split("\n") if line.startswith("| source-a")]
    assert len(re.split(r"(?<!\\)\|", attribution)) == 6  # four cells: the bar in the text closes none


def test_the_markdown_twin_names_pictures_that_lie_beside_it(made: tuple[Path, Path]) -> None:
    twin = (made[1] / "report.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\]\((images/[^)]+)\)", twin))
    assert named == {f"images/{path.name}" for path in (made[1] / "images").iterdir()}
    assert "| CD | 4 | 24.0 | 1.20 |" in twin
    tables = [block.split("\n") for block in twin.split("\n\n") if block.startswith("|")]
    for lines in tables:
        assert len({len(re.split(r"(?<!\\)\|", line)) for line in lines}) == 1


def test_the_files_for_dvc_hold_the_same_figures(made: tuple[Path, Path]) -> None:
    summary = json.loads((made[1] / "summary.json").read_text())
    assert summary["cd-4.fid"] == 24.0 and summary["cd-4.fid_ratio"] == 1.2
    assert summary["teacher.ddim-2.recall"] == 0.25
    found = json.loads((made[1] / "checks.json").read_text())["checks"]
    for key, met in (("met", True), ("missed", False), ("not_measured", None)):
        assert summary[f"checks.{key}"] == sum(item["met"] is met for item in found)
    dial = pd.read_csv(made[1] / "dial.csv")
    assert list(dial) == ["name", "method", "sampler", "nfe", "fid", "kid", "seconds_per_image"]
    assert dial.set_index("name").loc["ct-2"].tolist() == ["ct", "ddim", 2, 35.0, 0.0035, 0.02]


def test_the_same_inputs_give_the_same_bytes(made: tuple[Path, Path], tmp_path: Path) -> None:
    report({"data": {"attribution": NASTY}}, made[0], tmp_path / "again")
    for path in sorted(made[1].rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "again" / path.relative_to(made[1])).read_bytes(), path.name


def found_checks(root: Path, students: dict[str, float], teacher: dict[str, float] = TEACHER) -> dict[str, bool | None]:
    return {item.name: item.met for item in checks(collect(make_artifacts(root, students, teacher)))}


@pytest.mark.parametrize(("steps", "bound"), sorted(CD_RATIO.items()))
def test_a_mark_is_met_at_its_bound_and_missed_above_it(tmp_path: Path, steps: int, bound: float) -> None:
    name = f"cd-{steps}-over-teacher"
    # A teacher of FID 64 makes every product below exact but for the last bit of the bound itself.
    teacher = {**TEACHER, "addim-64": 64.0}
    assert found_checks(tmp_path / "at", {f"cd-{steps}": 64 * bound}, teacher)[name] is True
    assert found_checks(tmp_path / "above", {f"cd-{steps}": 64 * bound * 1.0001}, teacher)[name] is False


def test_marks_between_students_and_plain_ddim_are_strict(tmp_path: Path) -> None:
    met = found_checks(tmp_path / "a", {"cd-4": 59.9, "ct-2": 90.0, "ct-1": 90.0})
    assert met["cd-4-over-ddim"] is True
    assert met["ct-2-over-ddim"] is False  # as good as the teacher's own DDIM is not better
    assert met["ct-2-over-ct-1"] is False and met["ct-4-over-ct-2"] is None and met["cd-8-over-teacher"] is None


def test_a_teacher_not_worth_distilling_is_said_to_be_so(tmp_path: Path) -> None:
    assert found_checks(tmp_path / "a", {"cd-1": 50.0}, {**TEACHER, "ddim-2": 40.0})["teacher-over-ddim"] is True
    assert found_checks(tmp_path / "b", {"cd-1": 50.0}, {**TEACHER, "ddim-2": 39.9})["teacher-over-ddim"] is False
    assert found_checks(tmp_path / "c", {"cd-1": 50.0}, {"addim-64": 20.0})["teacher-over-ddim"] is None


def test_guided_or_karras_ddim_is_not_taken_for_plain_ddim(tmp_path: Path) -> None:
    artifacts = make_artifacts(tmp_path, {"cd-2": 30.0}, {"addim-64": 20.0, "ddim-2-karras": 90.0})
    assert {item.met for item in checks(collect(artifacts)) if "ddim" in item.name} == {None}
    report({}, artifacts, tmp_path / "report")
    assert "teacher, DDIM karras" in (tmp_path / "report" / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("lost", ["evaluations/cd-4", "timings/cd-4.json", "evaluations/cd-4/samples.npy", "teacher"])
def test_what_is_missing_is_one_line_and_leaves_the_old_report(tmp_path: Path, lost: str, capsys) -> None:
    artifacts, out = make_artifacts(tmp_path / "artifacts", {"cd-4": 24.0}), tmp_path / "report"
    out.mkdir()
    (out / "index.html").write_text("before")
    target = artifacts / lost
    target.rename(tmp_path / "elsewhere")
    (tmp_path / "params.yaml").write_text("data: {}\n")
    arguments = ["--params", str(tmp_path / "params.yaml"), "--artifacts", str(artifacts), "--out", str(out)]
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    lines = capsys.readouterr().err.strip().split("\n")
    assert stopped.value.code == 2 and len(lines) == 1 and lost.split("/")[-1] in lines[0]
    assert [path.name for path in out.iterdir()] == ["index.html"] and (out / "index.html").read_text() == "before"


@pytest.mark.parametrize(
    "other",
    [{"extractor": "FID (Else)"}, {"samples": 63}, {"seed": 4}, {"reference": "z.dir"}, {"fid": None}, {"fid": 0}],
)
def test_figures_that_do_not_compare_are_refused(tmp_path: Path, other: dict) -> None:
    artifacts = make_artifacts(tmp_path, {"cd-4": 24.0})
    write_json(artifacts / "evaluations" / "cd-4" / "metrics.json", {"ddim-4": {**metrics("ddim-4", 24.0), **other}})
    with pytest.raises(UserError, match=next(iter(other))):
        collect(artifacts)


def test_the_paper_is_read_as_its_table_says() -> None:
    ratios = paper_ratios()
    assert ratios["cd", 4, "small"] == pytest.approx(1.7 / 1.5) and ratios["ct", 8, "large"] == pytest.approx(1.5 / 1.4)


def test_code_without_git_has_an_unknown_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surroundings, "_git", lambda *_: None)
    assert set(commit().values()) == {"unknown"}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.00580, "0.00580"),
        (9.996, "10.0"),
        (1234.5, "1\u202f230"),
        (0.0, "0"),
        (None, "–"),
        (-0.0123, "-0.0123"),
        (1, "1.00"),
    ],
)
def test_numbers_are_shown_with_three_significant_digits(value: float | None, text: str) -> None:
    assert figure(value) == text
