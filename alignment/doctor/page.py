"""A checkup as one HTML file that needs nothing else: no script, no network, everything escaped."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from alignment.doctor.finding import SEVERITY, Example, Finding, Piece, PreflightReport
from alignment.doctor.plots import draw
from alignment.report.page import environment
from alignment.report.pictures import Picture
from alignment.report.svg import to_svg
from alignment.store.durable import replace
from alignment.store.store import storage_errors

_LONGEST_PIECE = 700
_WORDS = {"ok": "fine", "warn": "look", "fail": "stop"}


def write_page(checkup: PreflightReport, path: Path) -> Path:
    """Write the page; returns `path`."""
    with storage_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace("doctor.page", path, render(checkup))
    return path


def render(checkup: PreflightReport) -> str:
    """The page as one HTML document; write it as UTF-8."""
    template = environment(Path(__file__).parent).get_template("doctor.html.j2")
    gravest_first = sorted(checkup.findings, key=lambda f: -SEVERITY.index(f.verdict))
    return template.render(
        checkup=checkup,
        summary=gravest_first,
        pictures={f.check: list(_pictures(f)) for f in checkup.findings},
        words=_WORDS,
        counts={v: sum(f.verdict == v for f in checkup.findings) for v in reversed(SEVERITY)},
        clipped=clipped,
        groups=_by_note,
    )


def clipped(piece: Piece) -> str:
    """A piece's text, or its two ends where it is long: what matters stands at the seams."""
    text, half = piece.text, _LONGEST_PIECE // 2
    if len(text) <= _LONGEST_PIECE:
        return text
    return f"{text[:half]} … ({len(text) - 2 * half:,} characters) … {text[-half:]}"


def _by_note(examples: Sequence[Example]) -> dict[str, list[Example]]:
    """Examples by the reason that begins their note; the first of every reason come first."""
    groups: dict[str, list[Example]] = {}
    for example in examples:
        groups.setdefault(example.note.partition(":")[0], []).append(example)
    return groups


def _pictures(finding: Finding) -> Iterator[Picture]:
    for number, chart in enumerate(finding.charts):
        figure = draw(chart)
        name = f"{finding.check.replace(' ', '-')}-{number}"
        width = round(figure.get_figwidth() * figure.dpi)
        yield Picture(caption=chart.title, svg=to_svg(figure, name=name), width=width)
