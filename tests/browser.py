"""A real browser: Debian's chromium, headless, driven by selenium."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pytest

T = TypeVar("T")
WINDOW = (1280, 1000)
"""Width and height of the window, in pixels."""
OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # root in a container has no sandbox; only our own pages are opened
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--hide-scrollbars",
    "--lang=en",
    f"--window-size={WINDOW[0]},{WINDOW[1]}",
)


class Browser:
    """The actions of a person in the browser."""

    def __init__(self, driver: Any, screenshots: Path | None) -> None:
        self.driver = driver
        self._screenshots = screenshots

    def open(self, url: str) -> None:
        """Go to a page."""
        self.driver.get(url)

    @contextmanager
    def resized(self, width: int) -> Iterator[None]:
        """Within the block, the window has another width, in pixels."""
        self.driver.set_window_size(width, WINDOW[1])
        try:
            yield
        finally:
            self.driver.set_window_size(*WINDOW)

    def find(self, xpath: str, *, seconds: float = 60) -> Any:
        """Wait for the first visible element and return it."""
        found = self.wait_for(
            xpath,
            lambda: next((e for e in self._all(xpath) if e.is_displayed()), None),
            seconds=seconds,
        )
        return found

    def click(self, text: str) -> None:
        """Click the button, link or tab with this text."""
        words = f"normalize-space()={json.dumps(text)}"
        self.find(f"//*[self::button or self::a or @role='tab'][{words}]").click()

    def field(self, title: str, kind: str = "input") -> Any:
        """The form field with this title."""
        label = f"//label[starts-with(normalize-space(), {json.dumps(title)})]"
        return self.find(f"({label}/ancestor::div[fieldset])[last()]//{kind}")

    def choose(self, title: str, option: str) -> None:
        """Choose one of the alternatives of a field."""
        self.field(title, f"button[normalize-space()={json.dumps(option)}]").click()

    def choose_from_menu(self, item: str) -> None:
        """Choose from the menu of the page."""
        self.find("//button[@aria-haspopup='menu'][normalize-space()='Open menu']").click()
        self.find(f"//*[@role='menuitem'][normalize-space()={json.dumps(item)}]").click()

    def refused(self) -> str:
        """What the page's policy kept the browser from doing, since the last call."""
        said = [entry["message"] for entry in self.driver.get_log("browser")]
        return "\n".join(line for line in said if "Content Security Policy" in line)

    def wait_for(self, what: str, look: Callable[[], T | None], *, seconds: float) -> T:
        """Call `look` five times a second until it finds something; a timeout shows the page."""
        until = time.monotonic() + seconds
        while (found := look()) is None:
            assert time.monotonic() < until, f"{what}: not found after {seconds} s\n{self.text}"
            time.sleep(0.2)
        return found

    @property
    def text(self) -> str:
        """The visible text of the page."""
        text: str = self.driver.execute_script("return document.body.innerText")
        return text

    def shows(self, text: str, *, seconds: float = 60) -> None:
        """Wait until the page shows a text."""
        self.wait_for(repr(text), lambda: text in self.text or None, seconds=seconds)

    def screenshot(self, name: str, *, height: int = 1000) -> None:
        """Take a screenshot for the documentation, if `--screenshots` names a folder."""
        if self._screenshots is not None:
            self.driver.set_window_size(1280, height)
            time.sleep(0.7)  # until animations have ended
            self.driver.save_screenshot(str(self._screenshots / f"{name}.png"))

    def requests(self) -> list[str]:
        """All URLs requested since the last call, except data, file and blob URLs."""
        events = [json.loads(e["message"])["message"] for e in self.driver.get_log("performance")]
        urls = [
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        ]
        return [url for url in urls if urlsplit(url).scheme not in ("data", "file", "blob")]

    def _all(self, xpath: str) -> list[Any]:
        found: list[Any] = self.driver.find_elements("xpath", xpath)
        return found


@pytest.fixture(scope="session")
def browser(request: pytest.FixtureRequest) -> Iterator[Browser]:
    """Chromium; skips the test if chromium, its driver or selenium is not installed."""
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in programs:
        pytest.skip("no browser here: apt install chromium chromium-driver")
    selenium = pytest.importorskip("selenium.webdriver", reason="no selenium here: make test-ui")
    options = selenium.ChromeOptions()
    options.binary_location = programs[0]
    for option in OPTIONS:
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    service = selenium.ChromeService(executable_path=programs[1])
    driver = selenium.Chrome(options=options, service=service)
    folder = request.config.getoption("--screenshots")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)  # the driver fails in silence without it
    try:
        yield Browser(driver, Path(folder) if folder else None)
    finally:
        driver.quit()
