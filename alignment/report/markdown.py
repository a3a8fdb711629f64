"""The summary of a run in Markdown, for the run page of a scheduler."""

from collections.abc import Sequence

from alignment.report import compare, tables
from alignment.report.run_report import RunReport
from alignment.report.table import escape_markdown
from alignment.report.text import clip

_MARKDOWN_MODELS = 16
_MARKDOWN_SENTENCES = 8
_LONGEST_LINE = 400


def to_markdown(report: RunReport) -> str:
    """The verdict, the table and the notes in at most 60 lines."""
    comparisons = report.comparisons
    claims = [claim.claim for claim in compare.claims(comparisons)][:_MARKDOWN_SENTENCES]
    reports = report.evaluations
    if len(reports) > _MARKDOWN_MODELS:
        reports = (*reports[:2], *reports[2 - _MARKDOWN_MODELS :])
    parts = [
        f"# {_one_line(report.title)}",
        f"**{_one_line(report.headline)}**",
        _bullets(claims),
        tables.evaluation_table(reports).to_markdown() if reports else "",
        _bullets(report.notes[:_MARKDOWN_SENTENCES]),
        f"Ran on {_one_line(report.devices)}." if report.devices else "",
        f"{_one_line(report.created)} · {_one_line(report.command)}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _bullets(sentences: Sequence[str]) -> str:
    return "\n".join(f"- {_one_line(sentence)}" for sentence in sentences)


def _one_line(text: str) -> str:
    return escape_markdown(clip(text, _LONGEST_LINE))
