"""The result of a check: a verdict, the figures behind it, rows to read, and what to do.

A `PreflightReport` is plain frozen JSON: the terminal text, `--json` and the page are three views
of it. Not here: how anything is checked or drawn.
"""

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from alignment.records.base import Frozen
from alignment.report.table import Table

Verdict = Literal["skip", "ok", "warn", "fail"]
"""`skip`: there was nothing to check, which says neither good nor bad."""
SEVERITY: tuple[Verdict, ...] = ("skip", "ok", "warn", "fail")


class Piece(Frozen):
    """A piece of text, and whether its tokens are training targets."""

    text: str
    trained: bool = False


class Example(Frozen):
    """A row worth reading: where it is, what is wrong with it, and its text."""

    place: str
    note: str = ""
    pieces: tuple[Piece, ...] = ()


class Histogram(Frozen):
    """Number of rows between neighbouring `edges`, for each series; `marks` are limits."""

    kind: Literal["histogram"] = "histogram"
    title: str
    unit: str
    edges: tuple[float, ...]
    counts: dict[str, tuple[int, ...]]
    marks: dict[str, float] = Field(default_factory=dict)


class Bars(Frozen):
    """One stacked bar per name."""

    kind: Literal["bars"] = "bars"
    title: str
    unit: str
    bars: dict[str, dict[str, float]]


Chart = Annotated[Histogram | Bars, Field(discriminator="kind")]


class Finding(Frozen):
    """The result of one check.

    Attributes:
        check: name of the check, as in docs/doctor.md.
        headline: one sentence with the number that decided the verdict.
        figures: the numbers, for programs.
        remedy: what to do. Checks may always pass one: it is dropped if the verdict is ok.
    """

    check: str
    verdict: Verdict
    headline: str
    figures: dict[str, float] = Field(default_factory=dict)
    tables: tuple[Table, ...] = ()
    charts: tuple[Chart, ...] = ()
    examples: tuple[Example, ...] = ()
    remedy: str = ""

    @field_validator("remedy")
    @classmethod
    def _only_where_needed(cls, remedy: str, info: ValidationInfo) -> str:
        return "" if info.data.get("verdict") in ("skip", "ok") else remedy


class PreflightReport(Frozen):
    """All findings about one configuration.

    Attributes:
        title, created, command: which run, when, and the command to repeat the checks.
        device: name of the device that the forecast is for.
        seconds: duration of the checks, without preparing the data.
    """

    title: str
    created: str
    command: str
    device: str
    findings: tuple[Finding, ...]
    seconds: float

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of all findings."""
        return worst(finding.verdict for finding in self.findings)

    @property
    def headline(self) -> str:
        """The result in one sentence."""
        failed = [f.check for f in self.findings if f.verdict == "fail"]
        warned = [f.check for f in self.findings if f.verdict == "warn"]
        skipped = [f.check for f in self.findings if f.verdict == "skip"]
        unchecked = f" Not checked: {', '.join(skipped)}." if skipped else ""
        if failed:
            return f"Do not start this run yet: {', '.join(failed)}."
        if warned:
            return f"This run can start; look at {', '.join(warned)} first.{unchecked}"
        return f"No problems found.{unchecked}"


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The most severe verdict; ok if there is none."""
    return max(verdicts, key=SEVERITY.index, default="ok")


def graded(value: float, *, warn: float, fail: float) -> Verdict:
    """The verdict on a number for which larger is worse; a limit itself counts as exceeded."""
    if value >= fail:
        return "fail"
    return "warn" if value >= warn else "ok"


def share(count: float, of: float) -> float:
    """`count` / `of`; 0 if `of` is 0."""
    return count / of if of else 0.0


def percent(part: float) -> str:
    """A share as readable text: '7.0 %', '<0.1 %', '0 %'."""
    if 0 < part < 0.001:
        return "<0.1 %"
    return f"{100 * part:.3g} %" if part in (0, 1) else f"{100 * part:.1f} %"
