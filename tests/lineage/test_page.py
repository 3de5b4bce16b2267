"""The page as a file: what it says, that it loads nothing, and that no text in it is markup."""

import base64
import copy
import hashlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from mcm.errors import UserError
from pipelines.lineage.page import words
from pipelines.lineage.page.page import figure, page, write_page
from tests.lineage.page_examples import EVIL, hostile, pictures, png, same, small, wide


class Page(HTMLParser):
    """Elements with their attributes, and the text of each script and style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.open = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.open = tag

    def handle_endtag(self, tag: str) -> None:
        self.open = ""

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open, data))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def texts_in(self, tag: str) -> list[str]:
        return [text for name, text in self.texts if name == tag]


def data(text: str) -> dict[str, Any]:
    match = re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.DOTALL)
    assert match
    return json.loads(match[1])


def whole(held: dict[str, Any], number: int | None) -> dict[str, Any] | None:
    """A record as the program of the page puts it together."""
    if number is None:
        return None
    record = dict(held["records"][number])
    for name in ("code", "libraries", "hardware"):
        if isinstance(record[name], int):
            record[name] = held["parts"][record[name]]
    return record


@pytest.mark.parametrize("diff", [small(), hostile(), same(), wide(40)], ids=["small", "hostile", "same", "wide"])
def test_the_page_holds_the_whole_comparison(diff: dict[str, Any]) -> None:
    held = data(page(diff, {}))
    for given, kept in zip(diff["nodes"], held["nodes"], strict=True):
        assert whole(held, kept["a"]) == given["a"]
        assert whole(held, kept["b"]) == given["b"]
        assert {k: v for k, v in kept.items() if k not in ("a", "b", "why")} == {
            k: v for k, v in given.items() if k not in ("a", "b")
        }
    for name in ("a", "b", "edges"):
        assert held[name] == diff[name]
    assert [{k: v for k, v in cause.items() if k != "text"} for cause in held["causes"]] == diff["causes"]


@pytest.mark.parametrize("diff", [small(), hostile()], ids=["small", "hostile"])
def test_the_page_loads_nothing(diff: dict[str, Any]) -> None:
    text = page(diff, pictures())
    parsed = Page(text)
    for tag, attributes in parsed.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form", "img", "image")
        assert not {"src", "srcset", "style", "action", "background", "poster"} & set(attributes)
        assert not [name for name in attributes if name.startswith("on")]
        if attributes.get("href"):
            assert str(attributes["href"]).startswith("#")
    program = parsed.texts_in("script")[-1]
    assert not re.search(
        r"fetch|XMLHttp|WebSocket|import\(|eval|innerHTML|outerHTML|insertAdjacent|document\.write", program
    )
    assert re.findall(r"https?://[^\"'\s]*", "".join(parsed.texts_in("style")) + program) == [
        "http://www.w3.org/2000/svg"
    ]


def test_the_policy_allows_this_program_and_style_alone() -> None:
    parsed = Page(page(small(), {}))
    policy = next(meta["content"] for meta in parsed.of("meta") if meta.get("http-equiv") == "Content-Security-Policy")

    def named(text: str) -> str:
        return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"

    assert policy == (
        f"default-src 'none'; img-src data:; style-src '{named(''.join(parsed.texts_in('style')))}'; "
        f"script-src '{named(parsed.texts_in('script')[-1])}'; base-uri 'none'; form-action 'none'"
    )


def test_names_and_values_are_never_markup() -> None:
    text = page(hostile(), {})
    parsed = Page(text)
    assert EVIL not in text
    assert not parsed.of("img") and not parsed.of("b:not") and len(parsed.of("script")) == 2
    assert "{{ 7 * 7 }}" in text and "49" not in "".join(parsed.texts_in("b"))
    assert any(EVIL in said for _, said in parsed.texts)  # it is still there, as text
    cause = data(text)["causes"][0]
    assert cause["name"] == EVIL and cause["after"] == f"'\"&{EVIL}\u2028"


def test_the_answer_is_on_top() -> None:
    parsed = Page(page(wide(120), {}))
    assert "".join(parsed.texts_in("h1")) == "2 first causes changed 43 stages."
    assert words.headline(same()) == "Nothing changed: the same bytes at every stage."
    one = {**wide(120), "causes": wide(120)["causes"][:1]}
    assert words.headline(one) == "Parameter students.learning_rate changed from 0.0003 to 0.001."


@pytest.mark.parametrize(
    ("kind", "name", "before", "after", "said"),
    [
        ("parameter", "teacher.emas", [0.9], [0.9, 0.99], "Parameter teacher.emas changed from [0.9] to [0.9, 0.99]"),
        ("parameter", "data.path", None, "x", "Parameter data.path is only in B: x"),
        ("seed", "teacher.seed", 0, 1, "Seed teacher.seed changed from 0 to 1"),
        ("library", "torch", "2.13.0", "2.14.0", "Library torch changed from 2.13.0 to 2.14.0"),
        ("library", "tqdm", "4.66", None, "Library tqdm is only in A: 4.66"),
        ("code", "mcm/steps.py", "1" * 32, "2" * 32, "Code mcm/steps.py was edited"),
        ("code", "mcm/steps.py", None, "2" * 32, "Code mcm/steps.py is new"),
        ("data", "images", "1" * 32 + ".dir", "2" * 32, "Data images changed from 11111111 to 22222222"),
        ("hardware", "processor", "x", "y", "Hardware processor changed from x to y"),
        ("stage", "evaluate ct-16", None, "there", "Stage evaluate ct-16 is only in B"),
        ("unexplained", "not reproducible", "1" * 32, "2" * 32, "Not reproducible: other bytes from the same facts"),
        ("unexplained", "not recorded: libraries", "1" * 32, "2" * 32, "Unexplained: not recorded: libraries"),
    ],
)
def test_causes_in_plain_words(kind: str, name: str, before: Any, after: Any, said: str) -> None:
    assert words.cause({"kind": kind, "name": name, "before": before, "after": after}) == said


def test_stages_are_listed_without_repetition() -> None:
    keys = ["train_student cd-1", "train_student cd-2", "evaluate cd-1", "report"]
    assert words.listed([]) == ""
    assert words.listed(keys[:2]) == "train_student cd-1 and cd-2"
    assert words.listed(keys[1:]) == "train_student cd-2, evaluate cd-1 and report"
    assert words.listed(keys) == "train_student cd-1, cd-2, evaluate cd-1 and 1 more"
    assert words.listed(["report", "report #2"]) == "report and #2"


def test_a_run_is_told_by_what_is_known_of_it() -> None:
    known = {"name": "HEAD~1", "by": "dvc", "run": "dvc-1", "started": "2026-03-01T13:00:00+01:00", "commit": "c" * 40}
    assert words.facts(known) == ["dvc", "dvc-1", "2026-03-01 12:00 UTC", "commit cccccccccc"]
    lock = {"name": "HEAD~1", "by": "dvc", "run": "c" * 40, "started": None, "commit": None}
    assert words.facts(lock) == ["dvc", "commit cccccccccc"]
    assert words.facts({**lock, "run": "r1", "name": "r1"}) == ["dvc"]


def test_another_way_between_two_stages_is_always_drawn() -> None:
    diff = copy.deepcopy(small())
    places = [(edge["maker"], edge["reader"]) for edge in diff["edges"]]
    number = places.index(("prepare_data", "evaluate cd-1"))

    def drawn() -> set[int]:
        return {number for _, numbers in data(page(diff, {}))["layouts"]["wide"]["lines"] for number in numbers}

    assert number not in drawn()
    diff["edges"][number]["in"] = "b"
    assert number in drawn()


def test_equal_records_and_pictures_are_held_once() -> None:
    held = data(page(same(), {"evaluate teacher": (png(1), png(1)), "evaluate cd-1": (None, png(1))}))
    assert len(held["records"]) == len(same()["nodes"])
    assert len(held["pngs"]) == 1
    assert held["pictures"] == {"evaluate teacher": [0, 0], "evaluate cd-1": [None, 0]}


def test_numbers_that_json_does_not_know_are_left_out() -> None:
    diff = copy.deepcopy(small())
    diff["nodes"][-1]["metrics"] = [{"name": "fid", "a": float("nan"), "b": float("inf"), "measured": False}]
    assert data(page(diff, {}))["nodes"][-1]["metrics"] == [{"name": "fid", "a": None, "b": None, "measured": False}]


def test_a_figure_has_six_digits_at_most() -> None:
    assert [figure(n) for n in (263.57467189449767, 0.00123456789, 4.0, None)] == ["263.575", "0.00123457", "4", "–"]


def test_the_page_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "sub" / "page.html"
    write_page(small(), out, pictures())
    assert out.read_text(encoding="utf-8") == page(small(), pictures())
    with pytest.raises(UserError) as error:
        write_page(small(), tmp_path)
    assert str(error.value) == f"{tmp_path}: is a folder; name a file for the page"
    with pytest.raises(UserError) as error:
        write_page(small(), out / "page.html")
    assert str(error.value) == f"{out / 'page.html'}: cannot be written (File exists); name another file"
    assert [path.name for path in out.parent.iterdir()] == ["page.html"]


def test_the_page_needs_no_heavy_package() -> None:
    program = (
        "import sys; import pipelines.lineage.page.page, pipelines.lineage.page.pictures; "
        "print(sorted({'torch', 'numpy', 'PIL', 'pandas', 'kfp', 'dvc', 'networkx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
