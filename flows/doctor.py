"""Prints the doctor's report on a terminal: a line per check, and what to do about it."""

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from alignment.doctor.finding import PreflightReport

MARKS = {
    "skip": ("-", "dim"),
    "ok": ("✓", "green"),
    "warn": ("!", "yellow"),
    "fail": ("✗", "bold red"),
}


def print_report(report: PreflightReport, console: Console) -> None:
    """Print every check with its headline and remedy, and the verdict at the end."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column()
    grid.add_column(no_wrap=True)
    grid.add_column(ratio=1)
    for finding in report.findings:
        mark, style = MARKS[finding.verdict]
        grid.add_row(Text(mark, style), Text(finding.check, style), Text(finding.headline))
        if finding.remedy:
            grid.add_row("", "", Text(f"→ {finding.remedy}", "dim"))
    console.print(grid)
    console.print(Padding(Text(report.headline, "bold"), (1, 0, 0, 0)))
