"""The page in headless Chromium: what is shown against the JSON, search, filters, causes, addresses, pictures."""

import json
from typing import Any

import pytest

from pipelines.lineage.page import words
from pipelines.lineage.page.page import figure
from tests.lineage import page_driver
from tests.lineage.page_driver import NARROW, Browser
from tests.lineage.page_examples import EVIL, hostile, pictures, rerun, same, small, wide

pytestmark = pytest.mark.browser
browser, driver = page_driver.browser, page_driver.driver


def short(value: Any) -> str:
    """A value of the JSON as the page shows it."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return value[:8] if words.value(value) == value[:8] and len(value) >= 32 else value
    return json.dumps(value, separators=(",", ":"))


def whole_rows(node: dict[str, Any], which: str) -> list[list[str]]:
    verdicts = {True: "= same", False: "≠ other"}
    rows = []
    for item in node[which]:
        alone = "− gone" if item["b"] is None else "+ new"
        verdict = verdicts[item["equal"]] if item["a"] and item["b"] else alone
        rows.append(
            [item["name"] + ("measured" if item["measured"] else ""), short(item["a"]), short(item["b"]), verdict]
        )
    return rows


def changed_by(a: float | None, b: float | None) -> str:
    if a is None or b is None or a == 0:
        return "–"
    share = (b - a) / abs(a)
    return f"{'+' if share > 0 else '−' if share < 0 else ''}{abs(share) * 100:.1f} %"


def test_every_stage_shows_what_the_json_says(browser: Browser) -> None:
    diff = small()
    browser.open(diff)
    assert len(browser.all("#svg a.node")) == len(diff["nodes"])
    for node in diff["nodes"]:
        browser.choose(node["key"])
        assert browser.text("#panel .why .state")[1:] == node["state"]
        causes = [diff["causes"][index] for index in node["causes"]]
        said = browser.texts("#panel ul.why li > span:last-child")
        assert len(said) == len(causes)
        for text, cause in zip(said, causes, strict=True):
            assert text.startswith(words.cause(cause))
        assert browser.table("Differences of this stage") == [
            [item["name"] + words.KINDS[item["kind"]], short(item["before"]), short(item["after"])]
            for item in node["changes"]
        ]
        assert browser.table("Metrics that differ") == [
            [
                m["name"] + ("measured" if m["measured"] else ""),
                figure(m["a"]),
                figure(m["b"]),
                changed_by(m["a"], m["b"]),
            ]
            for m in node["metrics"]
        ]
        assert browser.table("Inputs") == whole_rows(node, "inputs")
        assert browser.table("Outputs") == whole_rows(node, "outputs")
        assert browser.texts("#panel .notes li") == node["notes"]
        edges = [(edge["maker"], edge["reader"]) for edge in diff["edges"]]
        near = {maker for maker, reader in edges if reader == node["key"]}
        near |= {reader for maker, reader in edges if maker == node["key"]}
        for more in browser.all("#panel .rest"):
            more.click()
        assert {text[1:] for text in browser.texts("#panel .links a")} == near


def test_the_records_are_there_whole(browser: Browser) -> None:
    for key in ("train_student cd-4", "train_student ct-16", "report"):
        browser.open(small(), f"#node:{key}")
        node = next(node for node in small()["nodes"] if node["key"] == key)
        for summary in browser.all("#panel details.record summary"):
            summary.click()
        browser.wait(lambda: len(browser.all("#panel details.record pre")) == len(browser.all("#panel details.record")))
        shown = [json.loads(text) for text in browser.texts("#panel details.record pre")]
        assert shown == [record for record in (node["a"], node["b"]) if record]
        parameters = {**(node["a"] or {}).get("parameters", {}), **(node["b"] or {}).get("parameters", {})}
        assert {row[0] for row in browser.table("All parameters")} == set(parameters)


def test_the_top_and_the_table_say_what_the_json_says(browser: Browser) -> None:
    diff = small()
    browser.open(diff)
    assert browser.text("h1") == words.headline(diff)
    assert {state: int(text.split()[-1]) for state, text in chips(browser).items()} == diff["counts"]
    assert [text.split() for text in browser.texts(".cause b")] == [words.cause(c).split() for c in diff["causes"]]
    assert [browser.text(f".run:nth-child({n}) b") for n in (1, 2)] == [diff["a"]["name"], diff["b"]["name"]]
    assert browser.text("header details li").startswith(words.cause(diff["without_effect"][0]))
    rows = browser.run("return rows.map(row => [...row.cells].map(cell => cell.textContent.trim()))")
    for node, (state, key, why, *_) in zip(diff["nodes"], rows, strict=True):
        assert (state[1:], key, why) == (node["state"], node["key"], words.why(node, diff["causes"]))


def chips(browser: Browser) -> dict[str, str]:
    return dict(browser.run("return chips.map(chip => [chip.dataset.state, chip.textContent])"))


@pytest.mark.parametrize("by", ["stage", "task", "md5", "parameter", "difference"])
def test_search_finds(browser: Browser, by: str) -> None:
    diff = small()
    md5 = next(node for node in diff["nodes"] if node["key"] == "train_student cd-4")["outputs"][0]["b"]
    text, wanted = {
        "stage": ("Train_Student", {n["key"] for n in diff["nodes"] if n["stage"] == "train_student"}),
        "task": ("ct-16", {"train_student ct-16", "evaluate ct-16", "report"}),
        "md5": (md5[:12], {"train_student cd-4", "evaluate cd-4", "report"}),
        "parameter": ("variance.steps", {"estimate_variance"}),
        "difference": ("scipy", {"evaluate ct-1"}),
    }[by]
    browser.open(diff)
    browser.keys("/", text)
    assert browser.listed() == browser.lit() == wanted
    assert browser.text("#found") == f"{len(wanted)} of {len(diff['nodes'])} stages"
    browser.keys("\ue007")
    assert browser.focused() in wanted
    browser.keys("/", "\ue00c")
    assert len(browser.lit()) == len(diff["nodes"]) and browser.text("#found") == ""
    browser.keys("no such stage")
    assert browser.lit() == set()
    assert browser.text("#found") == "No stage fits; change the search or the states"


def test_states_filter(browser: Browser) -> None:
    diff = small()
    browser.open(diff)
    browser.press(browser.one(".chip.added"))
    assert browser.listed() == browser.lit() == {n["key"] for n in diff["nodes"] if n["state"] == "added"}
    browser.press(browser.one(".chip.changed"))
    assert browser.lit() == {n["key"] for n in diff["nodes"] if n["state"] in ("added", "changed")}
    assert browser.one(".chip.changed").get_attribute("aria-pressed") == "true"
    browser.press(browser.one(".chip.added"))
    browser.press(browser.one(".chip.changed"))
    assert len(browser.lit()) == len(diff["nodes"])
    assert [chip.is_enabled() for chip in browser.all(".chip")] == [bool(diff["counts"][s]) for s in words.STATES]


def test_a_cause_shows_what_followed(browser: Browser) -> None:
    diff = small()
    browser.open(diff)
    for number, (button, cause) in enumerate(zip(browser.all(".cause"), diff["causes"], strict=True)):
        browser.press(button)
        followed = {node["key"] for node in diff["nodes"] if number in node["causes"]} | set(cause["at"])
        assert browser.lit() == browser.listed() == followed
        assert button.get_attribute("aria-pressed") == "true"
        assert browser.run("return location.hash") == f"#cause:{number + 1}"
        marked = browser.run(
            "return nodes.filter((_, i) => nodeElements[i].querySelector('text.mark')?.textContent.split(' ')"
            ".includes(arguments[0])).map(n => n.key)",
            str(number + 1),
        )
        assert set(marked) == set(cause["at"])
        assert browser.text("#panel p") == words.cause(cause)
        assert {text[1:] for text in browser.texts("#panel .links a")} == followed
    browser.press(browser.all(".cause")[-1])
    assert len(browser.lit()) == len(diff["nodes"])


def test_the_way_from_the_cause_to_a_stage_is_marked(browser: Browser) -> None:
    browser.open(small(), "#node:evaluate%20cd-4")
    assert browser.run("return nodes.filter((_, i) => nodeElements[i].classList.contains('way')).map(n => n.key)") == [
        "train_student cd-4",
        "evaluate cd-4",
    ]


def test_lines_say_what_flowed_and_where(browser: Browser) -> None:
    diff = small()
    browser.open(diff)
    states = {node["key"]: node for node in diff["nodes"]}
    for kind, numbers in browser.run("return lineElements.map(([e, n]) => [e.classList[0], n])"):
        edges = [diff["edges"][number] for number in numbers]

        def other(edge: dict[str, Any]) -> bool:
            item = next(i for i in states[edge["reader"]]["inputs"] if i["name"] == edge["input"])
            return edge["in"] == "both" and not item["equal"] and not item["measured"]

        sides = {edge["in"] for edge in edges}
        alone = sides.pop() if sides in ({"a"}, {"b"}) else "equal"
        assert kind == ("carried" if any(map(other, edges)) else alone)


def test_durations_are_no_change_that_flows(browser: Browser) -> None:
    browser.open(rerun())
    assert set(browser.run("return lineElements.map(([e]) => e.classList[0])")) == {"equal"}
    assert set(browser.run("return nodeElements.map(e => e.classList[1])")) == {"recomputed"}


def test_an_address_names_a_stage(browser: Browser) -> None:
    browser.open(small(), "#node:evaluate%20ct-1")
    assert browser.text("#panel h3") == "evaluate ct-1"
    assert browser.one("#svg a[aria-current=true]").get_attribute("data-node") == browser.one(
        "#stages tr.chosen"
    ).get_attribute("data-node")
    browser.run("arguments[0].click()", browser.one("#stages a[href='#node:report']"))
    browser.wait(lambda: browser.text("#panel h3") == "report")
    browser.driver.back()
    browser.wait(lambda: browser.text("#panel h3") == "evaluate ct-1")
    for address in ("#node:none", "#cause:99", "#%E0%A4%A", "#node:"):
        assert browser.open(small(), address).text("#panel h3") == "Choose a stage"


def test_pictures_of_both_runs_stand_side_by_side(browser: Browser) -> None:
    browser.open(small(), "#node:evaluate%20cd-4")
    sides = browser.run("return [...document.querySelectorAll('#panel .pair img')].map(i => [i.alt, i.src])")
    assert [alt for alt, _ in sides] == ["Samples of evaluate cd-4 in A", "Samples of evaluate cd-4 in B"]
    assert sides[0][1] != sides[1][1]
    browser.run("for (const i of document.images) i.loading = 'eager'; scrollTo(0, 1e6)")
    browser.run("return Promise.all([...document.images].map(i => i.decode()))")
    assert browser.run("return [...document.images].every(i => i.naturalWidth === 8)")
    assert set(browser.texts("#pictures h3 a")) == set(pictures())
    browser.open(small(), "#node:evaluate%20ct-16")
    assert browser.texts("#panel .pair figure") == ["not in AA", "B"]
    browser.open(small(), "#node:report")
    assert not browser.all("#panel img")


def test_hostile_names_do_nothing(browser: Browser) -> None:
    browser.open(hostile())
    for node in hostile()["nodes"]:
        browser.run("location.hash = link(arguments[0])", node["key"])
        browser.wait(lambda key=node["key"]: browser.text("#panel h3") == key)
        for details in browser.all("#panel details summary"):
            details.click()
    browser.keys("/", EVIL)
    assert "train_teacher" in browser.lit()
    assert browser.driver.title == f"--><{EVIL} → {{{{ 7 * 7 }}}}: what changed"
    assert browser.run(
        "return [document.images.length, document.scripts.length, document.querySelectorAll('b b').length]"
    ) == [0, 2, 0]


def test_five_hundred_stages(browser: Browser) -> None:
    diff = wide()
    browser.open(diff)
    assert len(browser.all("#svg a.node")) == len(diff["nodes"]) == 485
    inside = browser.run(
        "const f = svg.getBoundingClientRect(); return nodeElements.every(e => {"
        "const b = e.querySelector('.body').getBoundingClientRect();"
        "return b.left >= f.left && b.right <= f.right && b.top >= f.top && b.bottom <= f.bottom })"
    )
    assert inside
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
    browser.keys("/", "cd-118")
    assert browser.listed() == {"train_student cd-118", "evaluate cd-118", "report"}
    browser.keys("\ue007")
    view = browser.run(
        "const f = canvas.getBoundingClientRect(), b = document.activeElement.getBoundingClientRect();"
        "return b.top >= f.top - 5 && b.bottom <= f.bottom + 5"
    )
    assert view and browser.focused() == "train_student cd-118"
    browser.one("[data-zoom=fit]").click()
    assert browser.run("return canvas.scrollHeight <= canvas.clientHeight + 1 && svg.classList.contains('from-far')")
    browser.one("[data-zoom=in]").click()
    assert browser.run("return svg.clientHeight > canvas.clientHeight")


def test_a_chosen_stage_comes_into_sight(browser: Browser) -> None:
    browser.open(wide(), "#node:evaluate%20ct-100")
    seen = """const frame = canvas.getBoundingClientRect(), box = nodeElements[chosen].getBoundingClientRect();
        return box.top >= frame.top && box.bottom <= Math.min(frame.bottom, innerHeight)"""
    assert browser.run(seen)
    browser.run("location.hash = '#node:prepare_data'")
    browser.wait(lambda: browser.text("#panel h3") == "prepare_data" and browser.run(seen))


def test_dragging_and_the_wheel_move_the_drawing_and_choose_nothing(browser: Browser) -> None:
    from selenium.webdriver import ActionChains

    browser.open(wide())
    node = browser.node("train_student cd-5")
    before = browser.run("return canvas.scrollTop")
    ActionChains(browser.driver).move_to_element(node).click_and_hold().move_by_offset(0, -120).release().perform()
    assert browser.run("return canvas.scrollTop") == before + 120
    assert browser.text("#panel h3") == "Choose a stage"
    size = browser.run("return svg.clientWidth")
    browser.run("canvas.dispatchEvent(new WheelEvent('wheel', {ctrlKey: true, deltaY: -100, cancelable: true}))")
    assert browser.run("return svg.clientWidth") > size


def test_a_narrow_window_has_its_own_drawing(browser: Browser) -> None:
    browser.open(small(), size=NARROW)
    assert browser.run("return drawing === data.layouts.narrow && scale > 0.8")
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
    browser.choose("train_student cd-1")
    # The panel is below the drawing there, and the window goes to it.
    assert -1 < browser.run("return panel.getBoundingClientRect().top") < NARROW[1] / 2
    browser.open(small(), "#node:report")
    assert browser.run("return drawing === data.layouts.wide")


def test_runs_that_are_the_same(browser: Browser) -> None:
    browser.open(same())
    assert browser.text("h1") == "Nothing changed: the same bytes at every stage."
    assert not browser.all(".cause") and len(browser.lit()) == len(same()["nodes"])
