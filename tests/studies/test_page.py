"""The page of a study: whole, self-contained, escaped, and in its figures a function of content alone."""

import io
import json
import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from components.report.figures import DARK, LIGHT
from mcm.errors import UserError
from pipelines.study.page import check_page, write
from tests.studies.made_up import FID, STEPS, TEACHER, outcome, outcomes, study

OF_FIGURES = ("results.csv", "table.csv")
KEYS = {
    "about": "What is *asked*.",
    "table": [{"series": [*FID], "reference": TEACHER, "over": TEACHER}],
    "plots": [{"name": "fid"}, {"name": "bars", "kind": "bars", "metric": "recall"}],
    "paper": [{"table": "table1", "dataset": "imagenet64", "size": "small", "series": {"CD": "CD", TEACHER: "aDDIM"}}],
    "checks": [{"claim": "CD beats CT", "left": "CD", "right": "CT", "metric": "fid", "at": [1, 2, 4]}],
    "notes": "Because **so**.",
}


def clock(found):
    """The same rows, measured at another time on another machine."""
    return [replace(o, seconds=9.0, measured={"device": "another", "seconds_per_image": 0.25}) for o in found]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    write(study(**KEYS), outcomes(), folder)
    return folder


def test_the_page_is_whole(whole: Path):
    files = {path.relative_to(whole).as_posix() for path in whole.rglob("*") if path.is_file()}
    plots = {"plots/fid.svg", "plots/fid-paper1.svg", "plots/bars.svg"}
    pages = {"README.md", "index.html", "results.csv", "table.csv", "timings.csv", "machine.json"}
    assert files == plots | pages
    html, text = (whole / "index.html").read_text(), (whole / "README.md").read_text()
    for page in (html, text):
        for words in ("CD beats CT", "mcm study run small", "2000", "3862", "FID (EffNet-Lite0@128)", "measured"):
            assert words in page
        assert "37 of 37 rows, a seed each, have figures. 1 of 1 claims met." in page
        assert "60.0 to 62.0" in page and "25\u202f600" in page
    assert "<em>asked</em>" in html and "<strong>so</strong>" in html
    assert all(f"]({name})" in text for name in plots)
    unbroken(text)
    timings = pd.read_csv(whole / "timings.csv")
    students = timings[timings["series"] != TEACHER]
    assert len(timings) == 37 and list(students["seconds"]) == [60.0 + seed for seed in students["seed"]]
    assert timings[timings["series"] == TEACHER]["seconds"].isna().all()
    assert LIGHT.paper in (whole / "plots/fid.svg").read_text()
    assert DARK.paper not in (whole / "plots/fid.svg").read_text()


def test_the_best_is_bold_and_the_papers_figures_are_in_italics(whole: Path):
    html, text = (whole / "index.html").read_text(), (whole / "README.md").read_text()
    assert "| 1 | 50.0 ± 1.0 | **30.0 ± 1.0** | 40.0 ± 1.0 | *4.3* |" in text
    row = re.search(r'<tr class="ours"><th scope="row">1</th>(.*?)</tr>', html, re.DOTALL)
    assert row is not None and re.findall(r"<td.*?</td>", row[1]) == [
        "<td>50.0 ± 1.0</td>",
        "<td><b>30.0 ± 1.0</b></td>",
        "<td>40.0 ± 1.0</td>",
        '<td class="theirs">4.3</td>',
    ]


def test_each_place_of_a_claim_has_its_own_verdict(tmp_path: Path):
    claim = {"claim": "CD beats PD", "left": "CD", "right": "PD", "metric": "fid", "at": [1, 8]}
    write(study(checks=[claim]), outcomes(), tmp_path)
    html, text = (tmp_path / "index.html").read_text(), (tmp_path / "README.md").read_text()
    assert re.search(r"\| 1 step \| CD 30.0 ± 1.0 \| less than \| PD 40.0 ± 1.0 \| 0.0099 \| met \|", text)
    assert re.search(r"\| 8 steps \| CD 12.5 ± 1.0 \| less than \| PD 13.8 ± 1.0 \| 0.34 \| within the spread \|", text)
    assert "CD 12.5\u00a0±\u00a01.0" in html, "a line never breaks in a figure"
    assert "p &lt; 0.05" in html and "p &lt; 0.05" in text
    assert re.findall(r'<td class="text (.*?)">(.*?)</td></tr>', html) == [
        ("met", "met"),
        ("within-the-spread", "within the spread"),
    ]


def test_the_page_loads_nothing(whole: Path):
    html = (whole / "index.html").read_text()
    sources = re.findall(r"(?:src|srcset|href)=\"([^\"]*)\"", html)
    assert len(sources) > 8 and all(source.startswith(("data:", "#")) for source in sources)
    assert "default-src 'none'" in html and "prefers-color-scheme: dark" in html and "@media print" in html


def test_text_of_a_study_stays_text(tmp_path: Path):
    name = "<i>CD</i> | `x`"
    found = [replace(o, series=name) if o.series == "CD" else o for o in pictures(tmp_path)]
    rows = [{"series": label, "method": "cd", "steps": list(STEPS)} for label in (name, "CT", "PD", TEACHER)]
    shown = [{"name": "fid"}, {"name": "grid", "kind": "pictures", "series": [name], "title": f"G {name}"}]
    asked = study(
        rows=rows,
        about="<script>alert(1)</script>",
        title=f"A <b> title {name}",
        table=[{"title": f"T {name}"}, {"index": ["series"], "columns": ["steps"]}],
        plots=shown,
        checks=[{"claim": f"C {name}", "left": name, "right": "CT", "metric": "fid"}],
    )
    write(asked, found, tmp_path / "out")
    html, text = (tmp_path / "out/index.html").read_text(), (tmp_path / "out/README.md").read_text()
    assert "<i>" not in html and "<script>" not in html and "<b> title" not in html
    assert "&lt;i&gt;CD&lt;/i&gt; | `x`" in html and "&lt;i&gt;CD&lt;/i&gt; \\| \\`x\\`" in text
    assert "<i>" not in text and not re.search(r"(?<!\\)`x", text)
    for start in ("# A &lt;b&gt; title ", "## T ", "## G ", "**C "):
        assert f"\n{start}&lt;i&gt;CD" in f"\n{text}"
    unbroken(text)


def unbroken(text: str) -> None:
    """Each table of a Markdown page has as many cells in every line: one that lacks a cell breaks it."""
    blocks = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert blocks
    for block in blocks:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


def test_figures_do_not_depend_on_order_time_or_machine(whole: Path, tmp_path: Path):
    order = outcomes()
    write(study(**KEYS), random.Random(1).sample(clock(order), len(order)), tmp_path)
    same = [*OF_FIGURES, *(f"plots/{path.name}" for path in (whole / "plots").iterdir())]
    assert len(same) == 5
    for name in same:
        assert (whole / name).read_bytes() == (tmp_path / name).read_bytes()
    timings = pd.read_csv(tmp_path / "timings.csv")
    assert list(timings["seconds_per_image"]) == [0.25] * len(order) and set(timings["seconds"]) == {9.0}
    assert timings.columns[0] == "base" and list(timings["seed"][:3]) == [0, 1, 2]
    assert "another" in json.dumps(json.loads((tmp_path / "machine.json").read_text()))


def test_tables_of_figures_hold_every_seed_and_no_nan(tmp_path: Path):
    whole_row = tuple(("PD", 4, seed) for seed in range(3))
    write(study(**{**KEYS, "plots": []}), outcomes(missing=(("CD", 2, 1), *whole_row)), tmp_path)
    for name in OF_FIGURES:
        assert "nan" not in (tmp_path / name).read_text().lower()
    results, table = (pd.read_csv(tmp_path / name) for name in OF_FIGURES)
    assert len(results) == 37 and results["fid"].isna().sum() == 4
    assert len(table) == 2 * 12 and table["n"].min() == 1  # of two metrics, each row that has a figure
    for row in table.itertuples():
        part = results[(results["series"] == row.series) & (results["steps"] == row.steps)][row.metric].dropna()
        assert (row.mean, row.n) == (pytest.approx(part.mean()), len(part))
        assert part.std(ddof=1) == pytest.approx(row.std, nan_ok=True)


def test_a_study_half_done_says_what_is_missing(tmp_path: Path):
    missing = tuple(("CD", steps, seed) for steps in STEPS for seed in range(3))
    write(study(**{**KEYS, "plots": []}), outcomes(missing=missing), tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "25 of 37 rows, a seed each, have figures; 12 missing." in text
    assert "0 of 1 claims met: 1 not measured." in text
    assert re.search(r"\| 1 \| 50\.0 ± 1\.0 \| – \|", text)


def test_the_page_is_written_again_over_itself_and_drops_old_plots(tmp_path: Path):
    write(study(plots=[{"name": "one", "kind": "bars"}]), outcomes(), tmp_path)
    (tmp_path / "kept.txt").write_text("of somebody else")
    write(study(plots=[{"name": "other", "kind": "bars"}]), outcomes(), tmp_path)
    assert [path.name for path in (tmp_path / "plots").iterdir()] == ["other.svg"]
    write(study(plots=[]), outcomes(), tmp_path)
    assert not (tmp_path / "plots").exists()
    assert (tmp_path / "kept.txt").exists()


def test_a_page_that_cannot_be_written_leaves_the_one_before(tmp_path: Path):
    write(study(about="Before."), outcomes(), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with pytest.raises(UnicodeEncodeError):
        write(study(about="\ud800"), outcomes(), tmp_path)  # half of a character, which no file can hold
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_series_stand_in_the_order_of_rows_and_lists(tmp_path: Path):
    rows = [
        {"method": ["pd", "cd"], "steps": 1},
        {"sampler": {"name": ["heun", "ddim"], "steps": 4, "grid": ["uniform", "karras"]}},
    ]
    order = ["pd", "cd", *(f"{name}-{grid}" for name in ("heun", "ddim") for grid in ("uniform", "karras"))]
    write(study(rows=rows), [outcome(name, 1, 0, 9.0) for name in sorted(order)], tmp_path)
    assert list(pd.read_csv(tmp_path / "results.csv")["series"]) == order


def test_what_the_rows_have_not_is_found_before_any_has_run(tmp_path: Path):
    planned = [outcome(o.series, o.steps, o.seed, None) for o in outcomes()]
    check_page(study(**KEYS), planned)
    short = {**KEYS, "plots": []}
    for key, wrong, message in (
        ("table", [{"series": "XY"}], "studies/small.yaml: table 1: series 'XY' is unknown"),
        ("plots", [{"name": "a", "metric": "fdi"}], "studies/small.yaml: plot 'a': metric 'fdi' is unknown"),
        ("plots", [{"name": "g", "kind": "pictures", "series": "XY"}], "studies/small.yaml: plot 'g': series 'XY'"),
        ("checks", [{"claim": "c", "falls": {"series": "XY", "metric": "fid"}}], "studies/small.yaml: check 1: series"),
        ("paper", [{"table": "table3", "series": {"PD": "XY"}}], "studies/small.yaml: paper 1: table3 has no series"),
    ):
        with pytest.raises(UserError, match=message):
            check_page(study(**{**short, key: wrong}), planned)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("key", "wrong", "message"),
    [
        ("table", [{"metrics": "fid"}], "table 1: metric 'fid' is of studies of kind images, and this one is of kind"),
        ("plots", [{"name": "a", "metric": "kid"}], "plot 'a': metric 'kid' is of studies of kind images"),
        ("plots", [{"name": "g", "kind": "pictures"}], "plot 'g': kind: pictures is of studies of images"),
        ("checks", [{"claim": "c", "falls": {"series": "CD", "metric": "fid"}}], "check 1: metric 'fid' is of studies"),
        (
            "checks",
            [{"claim": "c", "left": "CD", "right": "PD", "metric": "w3"}],
            "check 1: metric 'w3' is unknown; known: flow_rmse",
        ),
        ("paper", [{"table": "table3", "series": {"PD": "PD"}}], "paper: its figures are of images"),
    ],
)
def test_a_mixture_is_not_asked_for_what_images_have(key: str, wrong: list, message: str):
    planned = [outcome(o.series, o.steps, o.seed, None) for o in outcomes()]
    check_page(study(kind="mixture", plots=[{"name": "a"}]), planned)  # what names no metric has one of its kind
    with pytest.raises(UserError, match=f"studies/small.yaml: {message}"):
        check_page(study(**{"kind": "mixture", key: wrong}), planned)
    images = [{"metrics": "flow_rmse"}]
    with pytest.raises(UserError, match="metric 'flow_rmse' is of studies of kind mixture"):
        check_page(study(table=images), planned)


def test_a_study_of_samplers_has_no_table_of_what_students_took(tmp_path: Path):
    samplers = [o for o in outcomes() if not o.is_student]
    write(study(), samplers, tmp_path)
    html, text = (tmp_path / "index.html").read_text(), (tmp_path / "README.md").read_text()
    for page in (html, text):
        assert "All rows are samplers of the teacher: none is trained." in page
    assert "<table" not in html[html.index('id="budget"') :]
    unbroken(text)


def pictures(folder: Path) -> list:
    """The rows, those of seed 0 and 1 with pictures: all of one colour, which is the steps'."""
    made = []
    for o in outcomes():
        path = folder / f"{o.series}-{o.steps}-{o.seed}.npy"
        if o.seed < 2:
            np.save(path, np.full((8, 32, 32, 3), o.steps + 100 * o.seed, dtype=np.uint8))
        made.append(replace(o, pictures=path, measured={"seconds_per_image": 0.5 * o.steps}))
    return made


def test_pictures_stand_in_columns_from_the_teacher_to_one_step(tmp_path: Path):
    found = pictures(tmp_path)
    asked = study(plots=[{"name": "grid", "kind": "pictures", "series": [TEACHER, "CD"], "count": 3}])
    write(asked, found, tmp_path / "out")
    files = sorted((tmp_path / "out/plots").iterdir())
    assert [path.name for path in files] == [f"grid-{number}.png" for number in range(1, 6)]
    for path, steps in zip(files, (64, 8, 4, 2, 1), strict=True):
        pixels = np.asarray(Image.open(io.BytesIO(path.read_bytes())))
        assert pixels.shape[1] == 96 and set(np.unique(pixels)) == {steps, 255}  # of seed 0, white between
    text = (tmp_path / "out/README.md").read_text()
    assert "CD, 8<br>8 evaluations |" in text and "<br>64 evaluations |" in text
    assert "![3 samples, CD at 1 step](plots/grid-5.png)" in text
    assert (tmp_path / "out/index.html").read_text().count("data:image/png") == 5


def test_pictures_are_of_the_steps_and_the_base_that_are_asked_for(tmp_path: Path):
    found = pictures(tmp_path)
    first = next(o for o in found if o.series == TEACHER)
    few = tmp_path / "few.npy"
    np.save(few, np.stack([np.full((32, 32, 3), 7 + k, dtype=np.uint8) for k in range(8)]))
    found.append(replace(first, steps=16, pictures=few))
    found += [replace(o, base="digits", pictures=few) for o in found if o.series == "CD"]
    shown = [
        {"name": "some", "kind": "pictures", "series": ["CD"], "steps": [2, 8], "bases": ["emoji"]},
        {"name": "both", "kind": "pictures", "series": ["CD"], "steps": [1]},
        {"name": "most", "kind": "pictures", "series": [TEACHER, "CD"], "steps": [1, 16, 64], "bases": ["emoji"]},
        {"name": "own", "kind": "pictures", "series": [TEACHER], "count": 2},
    ]
    asked = study(base=None, bases=["emoji", "digits"], plots=shown)
    write(asked, found, tmp_path / "out")
    colours = {path.name: sorted({*np.unique(np.asarray(Image.open(path)))} - {255}) for path in
               (tmp_path / "out/plots").iterdir()}  # fmt: skip
    assert colours == {
        "some-emoji-1.png": [8],
        "some-emoji-2.png": [2],
        "both-emoji-1.png": [1],
        "both-digits-1.png": [7, 8, 9, 10, 11, 12],  # the first six
        "most-emoji-1.png": [64],  # beside students the teacher's most steps, and no others
        "most-emoji-2.png": [1],
        "own-emoji-1.png": [64],
        "own-emoji-2.png": [7, 8],
    }


def test_pictures_that_are_none_are_a_user_error(tmp_path: Path):
    np.save(tmp_path / "a.npy", np.zeros((2, 4)))
    (tmp_path / "b.npy").write_bytes(b"not an array")
    asked = study(plots=[{"name": "grid", "kind": "pictures"}])
    for name, message in (("a.npy", "pictures are uint8"), ("b.npy", "not readable as an array")):
        found = [replace(o, pictures=tmp_path / name) for o in outcomes()]
        with pytest.raises(UserError, match=message):
            write(asked, found, tmp_path / "out")
    assert not (tmp_path / "out").exists()
