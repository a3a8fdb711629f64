"""A preflight report as one self-contained HTML file: no scripts, no network, all text escaped."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from alignment.doctor.finding import SEVERITY, Example, Finding, Piece, PreflightReport
from alignment.report.page import environment
from alignment.store.durable import replace
from alignment.store.errors import storage_errors

if TYPE_CHECKING:
    from alignment.report.pictures import Picture

_LONGEST_PIECE = 700


def write_page(report: PreflightReport, path: Path) -> Path:
    """Write the page; returns `path`."""
    with storage_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace("doctor.page", path, render(report))
    return path


def render(report: PreflightReport) -> str:
    """The page as one HTML document; write it as UTF-8."""
    template = environment(Path(__file__).parent).get_template("doctor.html.j2")
    most_severe_first = sorted(report.findings, key=lambda f: -SEVERITY.index(f.verdict))
    return template.render(
        report=report,
        summary=most_severe_first,
        pictures={f.check: _pictures(f) for f in report.findings},
        counts={v: sum(f.verdict == v for f in report.findings) for v in reversed(SEVERITY)},
        clipped=clipped,
        groups=_by_note,
    )


def clipped(piece: Piece) -> str:
    """A piece's text; if long, only its two ends, because the boundaries of targets matter most."""
    text, half = piece.text, _LONGEST_PIECE // 2
    if len(text) <= _LONGEST_PIECE:
        return text
    return f"{text[:half]} … ({len(text) - 2 * half:,} characters) … {text[-half:]}"


def _by_note(examples: Sequence[Example]) -> dict[str, list[Example]]:
    """Examples grouped by the reason that their note starts with."""
    groups: dict[str, list[Example]] = {}
    for example in examples:
        groups.setdefault(example.note.partition(":")[0], []).append(example)
    return groups


def _pictures(finding: Finding) -> "list[Picture]":
    if not finding.charts:
        return []
    from alignment.doctor.plots import pictures  # matplotlib is not in every installation

    return list(pictures(finding))
