"""The page: complete, self-contained, and safe whatever the data contains."""

import re

import pytest

from alignment.doctor.finding import Bars, Example, Finding, Histogram, Piece, PreflightReport
from alignment.doctor.page import clipped, render
from alignment.report.table import Table
from tests.alignment.report.test_page import KNOWN_TAGS, PAYLOADS, structure


def report_with(text):
    """A report with this text wherever data, a config or a file name can put one."""
    histogram = Histogram(
        title=text, unit=text, edges=(0, 1, 2), counts={text: (1, 2)}, marks={text: 1.5}
    )
    finding = Finding(
        check="supervised tokens",
        verdict="warn",
        headline=text,
        tables=(Table.of(text, (text, text), [(text, text)], note=text),),
        charts=(histogram, Bars(title=text, unit=text, bars={text: {text: 2.0}})),
        examples=(
            Example(
                place=text, note=text, pieces=(Piece(text=text), Piece(text=text, trained=True))
            ),
        ),
        remedy=text,
    )
    other = finding.model_copy(update={"check": "rows", "verdict": "fail"})
    return PreflightReport(
        title=text, created=text, command=text, device=text, findings=(finding, other), seconds=1.0
    )


@pytest.mark.parametrize("payload", PAYLOADS)
def test_hostile_text_stays_text(payload):
    page = structure(render(report_with(payload)))
    assert page.tags <= KNOWN_TAGS
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    links = [value for _, name, value in page.attributes if name in ("href", "src", "xlink:href")]
    assert all(link.startswith("#") for link in links)


def test_the_pages_policy_forbids_loading_anything():
    page = render(report_with("plain"))
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in page
    assert "<script" not in page
    assert not re.search(r"https?://(?!www\.w3\.org)", page)


def test_training_targets_are_marked():
    page = render(report_with("plain"))
    assert page.count('<span class="trained">plain</span>') == 2


def test_the_most_severe_finding_comes_first_in_the_summary():
    page = render(report_with("plain"))
    summary = page[page.index('<ul class="summary">') :]
    assert summary.index('href="#rows"') < summary.index('href="#supervised-tokens"')
    assert "Do not start this run yet: rows." in page


def test_a_long_piece_keeps_both_of_its_ends():
    text = clipped(Piece(text=f"start{'-' * 5000}end"))
    assert text.startswith("start")
    assert text.endswith("end")
    assert "(4,308 characters)" in text  # 5,008 less 700
    assert clipped(Piece(text="short")) == "short"
