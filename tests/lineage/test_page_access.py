"""The page for everybody: keys, a screen reader, colours that are read and told apart, less motion, paper."""

import pytest

from pipelines.lineage.page import words
from tests.lineage import page_driver
from tests.lineage.page_driver import Browser
from tests.lineage.page_examples import small, wide

pytestmark = pytest.mark.browser
browser, driver = page_driver.browser, page_driver.driver

# Text whose contrast to what is behind it (WCAG 2) is below 4.5.
CONTRAST = """
const linear = v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
const luminance = ([r, g, b]) => .2126 * linear(r / 255) + .7152 * linear(g / 255) + .0722 * linear(b / 255);
const parse = text => { const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number); return a ? [r, g, b] : null; };
function behind(element) {
  const box = element.getBoundingClientRect(), x = box.left + box.width / 2, y = box.top + box.height / 2;
  const within = b => b.left <= x && x <= b.right && b.top <= y && y <= b.bottom;
  for (let other = element; element.tagName === 'text' && other; other = other.previousElementSibling)
    if (other.tagName === 'rect' && getComputedStyle(other).fill !== 'none' && within(other.getBoundingClientRect()))
      return parse(getComputedStyle(other).fill);
  for (let parent = element; parent; parent = parent.parentElement) {
    const color = parse(getComputedStyle(parent).backgroundColor);
    if (color) return color;
  }
}
const low = [];
for (const element of document.querySelectorAll('body *')) {
  if (![...element.childNodes].some(node => node.nodeType === 3 && node.data.trim())) continue;
  if (element.matches('script, style, noscript, title') || !element.getClientRects().length) continue;
  const style = getComputedStyle(element), color = element instanceof SVGElement ? style.fill : style.color;
  const [one, other] = [parse(color), behind(element)].map(luminance);
  const ratio = (Math.max(one, other) + .05) / (Math.min(one, other) + .05);
  if (ratio < 4.5) low.push([element.tagName, element.getAttribute('class'), element.textContent.slice(0, 30), ratio]);
}
return low;
"""

# What a screen reader would stumble over.
ACCESS = """
const wrong = [];
const check = (selector, what, good) => {
  for (const e of document.querySelectorAll(selector)) if (!good(e)) wrong.push([what, e.outerHTML.slice(0, 200)]);
};
const label = e => e.getAttribute('aria-label') || e.labels?.[0]?.textContent || e.textContent.trim();
const labelledBy = e => document.getElementById(e.getAttribute('aria-labelledby'))?.textContent;
check('a, button, input, summary, [tabindex="0"]', 'name', label);
check('[tabindex]', 'tabindex', e => Number(e.getAttribute('tabindex')) <= 0);
check('img', 'alt', e => e.alt);
check('[id]', 'id twice', e => document.querySelectorAll(`[id="${e.id}"]`).length === 1);
check('main > section, header > section, [role=region], [role=group], aside', 'label',
  e => e.getAttribute('aria-label') || labelledBy(e));
check('th', 'scope', e => ['col', 'row'].includes(e.scope));
check('[aria-pressed]', 'pressed', e => ['true', 'false'].includes(e.getAttribute('aria-pressed')));
check('html', 'language', e => e.lang && document.title);
for (const tag of ['h1', 'header', 'main', 'aside'])
  if (document.querySelectorAll(tag).length !== 1) wrong.push(['one', tag]);
let level = 0;
for (const e of document.querySelectorAll('h1, h2, h3, h4')) {
  if (Number(e.tagName[1]) > level + 1) wrong.push(['heading', e.textContent]);
  level = Number(e.tagName[1]);
}
return wrong;
"""


def test_the_keyboard_moves_along_edges(browser: Browser) -> None:
    down, up, left, right, enter, escape = "\ue015", "\ue013", "\ue012", "\ue014", "\ue007", "\ue00c"
    edges = {(edge["maker"], edge["reader"]) for edge in small()["edges"]}
    browser.open(small())
    assert len(browser.all("#svg a.node[tabindex='0']")) == 1
    browser.run("document.querySelector('[data-zoom=fit]').focus()")
    browser.keys("\ue004")
    assert browser.focused() == "train_student cd-4"  # a first cause is where one begins
    outline = "return getComputedStyle(document.activeElement.querySelector('.ring')).stroke"
    assert browser.run(outline) == "rgb(0, 96, 160)"
    browser.keys(down)
    assert browser.focused() == "evaluate cd-4"
    browser.keys(right)
    assert browser.focused() == "evaluate cd-8"
    browser.keys(left, down)
    assert browser.focused() == "report"
    browser.keys("\ue011")
    assert browser.focused() == "prepare_data"
    seen = ["prepare_data"]
    for key in (down, down, up, down):
        browser.keys(key)
        now = browser.focused()
        assert (seen[-1], now) in edges or (now, seen[-1]) in edges
        seen.append(str(now))
    browser.keys(enter)
    browser.wait(lambda: browser.text("#panel h3") == seen[-1])
    assert browser.run("return document.activeElement === document.querySelector('#panel h3')")
    browser.keys(escape)
    assert browser.focused() == seen[-1] and browser.text("#panel h3") == "Choose a stage"
    assert len(browser.all("#svg a.node[tabindex='0']")) == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(browser: Browser, scheme: str) -> None:
    for address in ("", "#node:evaluate%20ct-1", "#node:train_student%20ct-16", "#node:prepare_data"):
        browser.open(small(), address, prefers_color_scheme=scheme)
        dark = (
            sum(
                browser.run(
                    "return getComputedStyle(document.documentElement).backgroundColor.match(/\\d+/g).map(Number)"
                )
            )
            < 150
        )
        assert dark == (scheme == "dark")
        for summary in browser.all("details:not([open]) > summary"):
            browser.run("arguments[0].click()", summary)
        assert browser.run(CONTRAST) == []


def test_states_differ_by_more_than_colour(browser: Browser) -> None:
    browser.open(small())
    signs = browser.run(
        "return Object.fromEntries(nodes.map((n, i) => [n.state, nodeElements[i].querySelector('.sign').textContent]))"
    )
    assert len(set(signs.values())) == len(signs) == 4
    labels = browser.run("return nodeElements.map(e => e.getAttribute('aria-label'))")
    for node, label in zip(small()["nodes"], labels, strict=True):
        assert label == f"{node['key']}, {node['state']}. {words.why(node, small()['causes'])}"


@pytest.mark.parametrize("address", ["", "#node:evaluate%20cd-4", "#cause:1"])
def test_the_page_can_be_used_without_seeing_it(browser: Browser, address: str) -> None:
    browser.open(small(), address)
    assert browser.run(ACCESS) == []


def test_nothing_moves_where_less_motion_is_wanted(browser: Browser) -> None:
    moving = (
        "return [...document.querySelectorAll('*')].filter(e => getComputedStyle(e).transitionDuration !== '0s').length"
    )
    assert browser.open(small(), prefers_reduced_motion="reduce").run(moving) == 0
    assert browser.open(small(), prefers_reduced_motion="no-preference").run(moving) > 0


def test_on_paper_are_the_answer_the_drawing_and_the_table(browser: Browser) -> None:
    browser.open(wide(40), prefers_color_scheme="light")
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    shown = "return arguments[0].map(s => document.querySelector(s).getClientRects().length > 0)"
    assert browser.run(shown, ["h1", ".cause", "#svg", "#stages tbody tr:last-child", ".toolbar", "#panel"]) == [
        *[True] * 4,
        *[False] * 2,
    ]
    assert browser.run("return canvas.scrollHeight <= canvas.clientHeight + 1")
