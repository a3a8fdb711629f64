"""The documentation as a site: it builds, asks nothing of other machines, and can be searched."""

import json
import os
import re
import subprocess
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parents[2]
LOADED = re.compile(r"""<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=["']?(https?://[^"'> ]+)""")
"""An address that a browser asks for when it opens a page."""
CSS = re.compile(r"""(?:url\(|@import)\s*["']?(https?://[^"')]+)""")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_pages_of_the_site_are_in_its_menu_and_the_other_way_round():
    """Without building it; `make docs` checks links and anchors as well."""
    text = (ROOT / "mkdocs.yml").read_text()
    listed = set(re.findall(r": ([\w/.-]+\.md)$", text, re.MULTILINE))
    pages = {*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")}
    pages |= {ROOT / "deployments/README.md", ROOT / "docker/README.md"}
    notes = {path for path in pages if re.match(r"\d{4}-", path.name)}
    assert {path.relative_to(ROOT).as_posix() for path in pages - notes} == listed


@pytest.mark.slow
def test_pages_load_nothing_from_elsewhere(site):
    pages, styles = list(site.rglob("*.html")), list(site.rglob("*.css"))
    assert len(pages) > 40
    assert styles
    found = {url for page in pages for url in LOADED.findall(page.read_text())}
    found |= {url for style in styles for url in CSS.findall(style.read_text())}
    assert found == set()


@pytest.mark.slow
def test_an_address_that_would_be_asked_for_is_found():
    assert LOADED.findall('<link rel="stylesheet" href="https://fonts.test/x">')
    assert CSS.findall("@font-face{src:url(https://fonts.test/x.woff)}")


@pytest.mark.slow
def test_every_key_can_be_searched_for(site):
    index = json.loads((site / "search" / "search_index.json").read_text())
    pages = {entry["location"].partition("#")[0] for entry in index["docs"]}
    assert {"index.html", "docs/configuration.html", "deployments/index.html"} <= pages
    texts = " ".join(entry["text"] for entry in index["docs"])
    assert "dpo.learning_rate" in texts
    assert "rounds[].data.label.max_tokens" in texts


@pytest.fixture
def address(site):
    handler = partial(Quiet, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Says nothing."""


@pytest.mark.ui
@pytest.mark.parametrize("width", [1280, 500])  # 500 is the narrowest window of chromium
def test_a_reader_searches_and_no_page_is_wider_than_the_window(browser, address, width):
    browser.requests()
    with browser.resized(width):
        for page in ("index", "docs/configuration", "docs/troubleshooting", "docs/coming-from"):
            browser.open(f"{address}/{page}.html")
            browser.find("//article//h1")
            wide = browser.driver.execute_script("return document.body.scrollWidth")
            assert wide <= width, page
        browser.open(f"{address}/index.html?q=max_prompt_length")
        browser.find("//a[contains(@class, 'md-search-result__link')]")
        assert "max_prompt_length" in browser.text
    hosts = {urlsplit(url).hostname for url in browser.requests()}
    assert hosts == {"127.0.0.1"}
