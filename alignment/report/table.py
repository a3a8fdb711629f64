"""A table of short texts, rendered for a terminal or as Markdown.

Cells are untrusted text and cannot break out of their cell in either form. Numbers arrive
formatted. Not here: HTML (`parts.html.j2`).
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from io import StringIO
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from alignment.records.base import Frozen

Tone = Literal["", "good", "bad", "muted"]
_ESCAPES = {
    "<": "&lt;",
    "&": "&amp;",
    "\\": "\\\\",
    "|": "\\|",
    "`": "\\`",
    "](": "]\\(",
    "]:": "]\\:",
}
_MARKUP = re.compile(r"<(?=\S)|&(?=[#\w])|[\\|`]|\][(:]")


class Cell(Frozen):
    """A text, a smaller text after it (an interval), and its tone."""

    text: str
    small: str = ""
    tone: Tone = ""

    @property
    def plain(self) -> str:
        """Both texts on one line."""
        return " ".join(f"{self.text} {self.small}".split())


class Table(Frozen):
    """A title, column names, rows, and a note below.

    Attributes:
        align: one letter per column, "l" or "r"; numbers are "r".
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    align: str
    note: str = ""

    @classmethod
    def of(
        cls,
        title: str,
        columns: Sequence[str],
        rows: Iterable[Sequence[Cell | str]],
        *,
        align: str = "",
        note: str = "",
    ) -> "Table":
        """A table from cells or plain texts; columns after the first default to right-aligned."""
        align = align or "l" + "r" * (len(columns) - 1)
        cells = tuple(
            tuple(cell if isinstance(cell, Cell) else Cell(text=cell) for cell in row)
            for row in rows
        )
        assert all(len(row) == len(columns) == len(align) for row in (*cells, columns))
        return cls(title=title, columns=tuple(columns), rows=cells, align=align, note=note)

    def to_text(self, width: int = 120) -> str:
        """Aligned lines for a terminal, none wider than `width` columns."""
        grid = RichTable(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 0, 0, 1))
        for name, side in zip(self.columns, self.align, strict=True):
            justify: Literal["left", "right"] = "right" if side == "r" else "left"
            grid.add_column(Text(printable(name)), justify=justify, overflow="fold")
        for row in self.rows:
            grid.add_row(*(Text(printable(cell.plain)) for cell in row))
        below = [Text(printable(self.note))] if self.note else []
        out = StringIO()
        console = Console(file=out, width=width, color_system=None)
        console.print(Text(printable(self.title)), grid, *below, sep="\n")
        return "\n".join(line.rstrip() for line in out.getvalue().splitlines())

    def to_markdown(self) -> str:
        """A GitHub table below its title; text in cells cannot start markup or HTML."""
        rules = ["---:" if side == "r" else ":---" for side in self.align]
        rows = [[escape_markdown(cell.plain) or " " for cell in row] for row in self.rows]
        grid = [[escape_markdown(name) for name in self.columns], rules, *rows]
        lines = [f"| {' | '.join(row)} |" for row in grid]
        note = [f"\n{escape_markdown(self.note)}"] if self.note else []
        return "\n".join([f"**{escape_markdown(self.title)}**\n", *lines, *note])


def printable(text: str) -> str:
    """The text on one line, with control characters, which a terminal would obey, as '�'."""
    spaced = " ".join(text.split())
    return "".join("�" if unicodedata.category(c) in ("Cc", "Cf", "Cs") else c for c in spaced)


def escape_markdown(text: str) -> str:
    """One line of Markdown that shows `text` literally: no HTML, link, code, cell or image."""
    return _MARKUP.sub(lambda found: _ESCAPES[found[0]], printable(text))
