"""A page in headless Chromium, for the tests that look at it."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.lineage.page.page import write_page
from tests.lineage.page_examples import pictures, small

WIDE, NARROW = (1440, 1000), (390, 844)  # pixels of the window


class Browser:
    """A page in Chromium, and what it logged and asked of the network."""

    def __init__(self, driver: Any, folder: Path):
        self.driver, self.folder = driver, folder

    def open(self, diff: dict[str, Any], address: str = "", size: tuple[int, int] = WIDE, **media: str) -> "Browser":
        """Write and open the page of a diff; `media` are features such as prefers_color_scheme."""
        write_page(diff, self.folder / "page.html", pictures() if diff is small() else None)
        features = [{"name": name.replace("_", "-"), "value": value} for name, value in media.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": features})
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.driver.get("about:blank")
        self.driver.get(f"{(self.folder / 'page.html').as_uri()}{address}")
        return self

    def all(self, selector: str) -> list[Any]:
        return self.driver.find_elements("css selector", selector)

    def one(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def run(self, program: str, *arguments: Any) -> Any:
        return self.driver.execute_script(program, *arguments)

    def text(self, selector: str) -> str:
        return str(self.run("return document.querySelector(arguments[0]).textContent", selector))

    def texts(self, selector: str) -> list[str]:
        return list(self.run("return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)", selector))

    def keys(self, *keys: str) -> None:
        """Press keys where the focus is."""
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def focused(self) -> str | None:
        """Key of the node that has the focus."""
        number = self.run("return document.activeElement.dataset.node ?? null")
        return None if number is None else self.run("return nodes[arguments[0]].key", int(number))

    def node(self, key: str) -> Any:
        return self.run("return nodeElements[byKey.get(arguments[0])]", key)

    def choose(self, key: str) -> None:
        """Click a node, and wait until the page, which hears of it by its address, shows it."""
        self.node(key).click()
        self.wait(lambda: self.text("#panel h3") == key)

    def press(self, button: Any) -> None:
        """Click a button that stays pressed, or is freed by it, and wait until it is."""
        before = button.get_attribute("aria-pressed")
        button.click()
        self.wait(lambda: button.get_attribute("aria-pressed") != before)

    def wait(self, seen: Callable[[], bool]) -> None:
        """Wait for what follows from a step, since the page hears of a change of its address, or of a toggle, later."""
        from selenium.webdriver.support.wait import WebDriverWait

        WebDriverWait(self.driver, 10).until(lambda _: seen())

    def lit(self) -> set[str]:
        """Keys of the nodes that are not dimmed."""
        return set(
            self.run("return nodes.filter((_, i) => !nodeElements[i].classList.contains('dim')).map(n => n.key)")
        )

    def listed(self) -> set[str]:
        """Keys of the rows of the table that are shown."""
        return set(self.run("return rows.filter(row => !row.hidden).map(row => row.querySelector('th').textContent)"))

    def table(self, title: str) -> list[list[str]]:
        """Cells of a table of the panel, by its caption."""
        found = """return [...document.querySelectorAll('#panel table')]
            .filter(table => table.caption.textContent === arguments[0])
            .flatMap(table => [...table.tBodies[0].rows].map(row => [...row.cells].map(cell => cell.textContent)))"""
        return list(self.run(found, title))


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    selenium = pytest.importorskip("selenium.webdriver")
    programs = [shutil.which("chromium"), shutil.which("chromedriver")]
    if None in programs:
        pytest.skip("Chromium or its driver is missing")
    options = selenium.ChromeOptions()
    options.binary_location = programs[0]
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "hide-scrollbars"):
        options.add_argument(f"--{flag}")
    options.add_argument("--disable-background-networking")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = selenium.Chrome(options=options, service=selenium.ChromeService(programs[1]))
    yield driver
    driver.quit()


@pytest.fixture
def browser(driver: Any, tmp_path: Path) -> Iterator[Browser]:
    """After each test: nothing was logged, and nothing but the page itself was loaded."""
    driver.get("about:blank")
    driver.get_log("browser"), driver.get_log("performance")
    yield Browser(driver, tmp_path)
    assert driver.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}
    page = (tmp_path / "page.html").as_uri()
    assert {url for url in asked if not url.startswith(("data:image/png;base64,", "about:"))} <= {page}
