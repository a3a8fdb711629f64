"""Hostile text from models and data, in a real browser: it is shown, but never runs or loads.

Covers the pages of `alignment.report` and `alignment.doctor`, and the Markdown for Prefect.
"""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from alignment.doctor.page import render as render_preflight
from alignment.evaluate.evaluator import ScoredRows
from alignment.evaluate.settings import AnchoredGate
from alignment.evaluate.summary import summarise
from alignment.evaluate.verdict import Verdict
from alignment.records.evaluation import EvalReport
from alignment.report.markdown import to_markdown
from alignment.report.page import render
from alignment.report.table import escape_markdown
from alignment.report.trail import JudgedRound, trail_of
from tests.alignment.doctor.test_page import report_with
from tests.alignment.report.conftest import BROKEN, PASSED
from tests.alignment.report.test_page import PAYLOADS, poisoned

pytestmark = pytest.mark.ui

LIVE = (
    "<script src={0}/script></script>",
    "<img src={0}/image>",
    "<img src=x onerror=\"fetch('{0}/handler')\">",
    "<svg onload=\"fetch('{0}/svg')\">",
    "<iframe src={0}/frame></iframe>",
    "<link rel=stylesheet href={0}/style>",
    "</style><img src={0}/after-style>",
    '"><img src={0}/after-quote>',
    "<meta http-equiv=refresh content='0;url={0}/refresh'>",
    "![x]({0}/markdown)",
    "[x]: {0}/reference ![x]",
    "<object data={0}/object></object>",
)
"""Each requests an address of the listener if the browser executes or loads it in any way."""


class Listener(ThreadingHTTPServer):
    """A local server that answers every request with 404 and records its path."""

    def __init__(self):
        self.requested: list[str] = []
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        assert isinstance(self.server, Listener)
        self.server.requested.append(self.path)
        self.send_error(404)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def listener():
    with Listener() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()


@pytest.fixture
def opened(browser, listener, tmp_path):
    """A function that opens a page as a file and gives what was asked for by it, and its title."""

    def open_(page, *, settle=0.3):
        path = tmp_path / "page.html"
        path.write_text(page, encoding="utf-8", errors="replace")
        listener.requested.clear()
        browser.requests()
        browser.open(path.as_uri())
        time.sleep(settle)
        return sorted({*listener.requested, *browser.requests()})

    return open_


def test_the_listener_sees_payloads_that_are_executed_or_loaded(opened, listener):
    """Without escaping and policy; otherwise the tests below could not fail."""
    payloads = "".join(text.format(listener.url) for text in LIVE if "refresh" not in text)
    requested = " ".join(opened(f"<!doctype html><body>{payloads}", settle=1))
    for name in ("script", "image", "handler", "svg", "style", "object"):
        assert f"/{name}" in requested


def test_the_policy_alone_blocks_all_payloads(opened, listener):
    """The second defence: the same page without escaping, but with the policy of our pages."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    tag = f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    payloads = "".join(text.format(listener.url) for text in LIVE if "refresh" not in text)
    opened(f"<!doctype html><head>{tag}</head><body>{payloads}")
    assert listener.requested == []


@pytest.fixture
def longest(run):
    """A page with all that a run shows: an anchor, every figure, and two prompts that were lost."""
    labels = [*run.generations, "round 3"]
    rows = run.generations | {
        "round 3": tuple(
            row.model_copy(update={"passed": int(row.id[1:]) not in (3, 4), "reply": "Lima. " * 9})
            for row in run.generations["round 2"]
        )
    }
    rounds = [
        JudgedRound(
            Verdict(candidate=name, champion="sft", anchor="sft", checks=(PASSED,)),
            ScoredRows(generations=rows[name], pairs=run.pairs.get(name, ())),
            ScoredRows(generations=rows["sft"], pairs=run.pairs["sft"]),
        )
        for name in ("round 1", "round 2", "round 3")
    ]
    pairs = run.pairs | {"round 3": tuple(_spread(row) for row in run.pairs["round 2"])}
    found = {
        name: summarise(ScoredRows(pairs=pairs[name], generations=rows[name])) for name in labels
    }
    return run.model_copy(
        update={
            "generations": rows,
            "pairs": pairs,
            "evaluations": tuple(
                EvalReport(model=name, **one._asdict(), generations="g", pairs="p")
                for name, one in found.items()
            ),
            "trail": trail_of("sft", AnchoredGate(margin=0.3, rounds=3), rounds),
            "verdicts": tuple(round_.verdict for round_ in rounds),
        }
    )


def _spread(pair):
    """Margins of many sizes, so that each figure has something to show."""
    return pair.model_copy(update={"chosen": pair.chosen + int(pair.id[1:]) - 9.0})


def test_a_page_without_faults_is_short_and_shows_where_a_table_goes_on(longest, browser, opened):
    """At 1,400 and 400 pixels: the page itself never scrolls sideways, its tables do.

    Its texts are short: a practice page is a quarter higher.
    """
    run = longest
    shown = "return document.documentElement"
    for width in (1400, 400):
        with browser.resized(width):
            opened(render(run))
            assert browser.driver.execute_script(f"{shown}.scrollHeight") < 6000, width
            inner = browser.driver.execute_script(f"{shown}.clientWidth")
            assert browser.driver.execute_script(f"{shown}.scrollWidth") <= inner
    figures = browser.driver.execute_script("return document.querySelectorAll('svg').length")
    assert figures >= 9, "all of them are there, some of them folded"
    folded = "[...document.querySelectorAll('details:not([open]) svg')].length"
    assert browser.driver.execute_script(f"return {folded}") >= 4
    stopped = Verdict(candidate="round 3", champion="sft", anchor="sft", checks=(BROKEN,))
    opened(render(run.model_copy(update={"verdicts": (stopped,)})))
    assert browser.driver.execute_script("return document.querySelectorAll('details[open] svg')")
    with browser.resized(400):
        wide = browser.driver.execute_script(
            "return [...document.querySelectorAll('figure.table .scroll')]"
            ".filter(e => e.scrollWidth > e.clientWidth)"
            ".map(e => getComputedStyle(e).backgroundImage)"
        )
    assert wide
    assert all("radial-gradient" in image for image in wide)


@pytest.mark.parametrize("number", range(0, len(PAYLOADS), 8))
def test_hostile_text_neither_runs_nor_loads_in_a_report(run, browser, opened, number):
    """Eight payloads in a row, in every text of the page."""
    assert opened(render(poisoned(run, " ".join(PAYLOADS[number : number + 8])))) == []
    assert nothing_runs(browser)


@pytest.mark.parametrize("payload", PAYLOADS, ids=range(len(PAYLOADS)))
def test_hostile_text_neither_runs_nor_loads_in_a_preflight_report(browser, opened, payload):
    assert opened(render_preflight(report_with(payload)), settle=0.1) == []
    assert nothing_runs(browser)


def test_live_payloads_request_nothing(run, browser, opened, listener):
    texts = [text.format(listener.url) for text in LIVE]
    assert opened(render(poisoned(run, " ".join(texts))), settle=0.6) == []
    assert "/handler" in browser.text, "it is shown as it was written"
    for text in texts:
        assert opened(render_preflight(report_with(text)), settle=0.1) == []


def nothing_runs(browser):
    """Whether the page has neither a script nor an event handler attribute."""
    return browser.driver.execute_script(
        "return document.scripts.length == 0 && ![...document.querySelectorAll('*')]"
        ".some(e => [...e.attributes].some(a => a.name.startsWith('on')))"
    )


def test_markdown_of_a_run_has_no_link_or_image_from_untrusted_text(run, opened, listener):
    """No HTML, no inline link, no link reference definition."""
    from markdown_it import MarkdownIt

    text = " ".join(payload.format(listener.url) for payload in LIVE)
    notes = tuple(payload.format(listener.url) for payload in LIVE)
    markdown = to_markdown(poisoned(run, text).model_copy(update={"notes": notes}))
    html = MarkdownIt("commonmark").enable("table").render(markdown)
    assert "<img" not in html
    assert "<a " not in html
    assert opened(html) == []
    assert escape_markdown("[x]: y") != "[x]: y"
