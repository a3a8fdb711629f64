"""What a check says: a verdict, the figures behind it, rows to look at, and what to do.

A `PreflightReport` is plain frozen JSON: the terminal text, `--json` and the page are three views
of it. Not here: how anything is checked or drawn.
"""

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from alignment.records import Frozen
from alignment.report.table import Table

Verdict = Literal["ok", "warn", "fail"]
SEVERITY: tuple[Verdict, ...] = ("ok", "warn", "fail")


class Piece(Frozen):
    """A stretch of a text, and whether training makes it a target."""

    text: str
    trained: bool = False


class Example(Frozen):
    """A row worth reading: where it stands, what is the matter, and its text."""

    place: str
    note: str = ""
    pieces: tuple[Piece, ...] = ()


class Histogram(Frozen):
    """How many rows fall between neighbouring `edges`, for each series; `marks` are limits."""

    kind: Literal["histogram"] = "histogram"
    title: str
    unit: str
    edges: tuple[float, ...]
    counts: dict[str, tuple[int, ...]]
    marks: dict[str, float] = Field(default_factory=dict)


class Bars(Frozen):
    """One bar for each name, made of parts."""

    kind: Literal["bars"] = "bars"
    title: str
    unit: str
    bars: dict[str, dict[str, float]]


Chart = Annotated[Histogram | Bars, Field(discriminator="kind")]


class Finding(Frozen):
    """What one check found.

    Attributes:
        check: its name, as in docs/doctor.md.
        headline: one sentence with the number that decides.
        figures: the numbers, for programs.
        remedy: what to do; dropped where the verdict is ok, so a check states it in any case.
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
        return "" if info.data.get("verdict") == "ok" else remedy


class PreflightReport(Frozen):
    """All findings about one configuration.

    Attributes:
        title, created, command: of which run, when, and how to ask again.
        device: for which the forecast was made.
        seconds: the checks took, preparing the data not counted.
    """

    title: str
    created: str
    command: str
    device: str
    findings: tuple[Finding, ...]
    seconds: float

    @property
    def verdict(self) -> Verdict:
        """The worst of all."""
        return worst(finding.verdict for finding in self.findings)

    @property
    def headline(self) -> str:
        """What it comes to, in one sentence."""
        failed = [f.check for f in self.findings if f.verdict == "fail"]
        warned = [f.check for f in self.findings if f.verdict == "warn"]
        if failed:
            return f"Do not start this run yet: {', '.join(failed)}."
        if warned:
            return f"This run can start; look at {', '.join(warned)} first."
        return "Nothing stands against starting this run."


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The gravest verdict; ok where there is none."""
    return max(verdicts, key=SEVERITY.index, default="ok")


def graded(value: float, *, warn: float, fail: float) -> Verdict:
    """The verdict on a number that is the worse the larger it is: at a limit it counts."""
    if value >= fail:
        return "fail"
    return "warn" if value >= warn else "ok"


def share(count: float, of: float) -> float:
    """Count / of; 0 where there is nothing."""
    return count / of if of else 0.0


def percent(part: float) -> str:
    """A share for people: '7.0 %', '<0.1 %', '0 %'."""
    if 0 < part < 0.001:
        return "<0.1 %"
    return f"{100 * part:.3g} %" if part in (0, 1) else f"{100 * part:.1f} %"
