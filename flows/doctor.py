"""What the doctor says on a terminal: one line a check, and what to do about it."""

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from alignment.doctor.finding import PreflightReport

MARKS = {"ok": ("✓", "green"), "warn": ("!", "yellow"), "fail": ("✗", "bold red")}


def print_checkup(checkup: PreflightReport, console: Console) -> None:
    """Every check with its headline, the remedies below, the verdict last."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column()
    grid.add_column(no_wrap=True)
    grid.add_column(ratio=1)
    for finding in checkup.findings:
        mark, style = MARKS[finding.verdict]
        grid.add_row(Text(mark, style), Text(finding.check, style), Text(finding.headline))
        if finding.remedy:
            grid.add_row("", "", Text(f"→ {finding.remedy}", "dim"))
    console.print(grid)
    console.print(Padding(Text(checkup.headline, "bold"), (1, 0, 0, 0)))
