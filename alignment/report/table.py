"""A table of short texts that prints itself, for a terminal or as Markdown.

Whatever stands in a cell is treated as foreign: it cannot break out of its cell in either.
Not here: HTML, which the template of the page makes, and numbers: cells arrive formatted.
"""

import re
import textwrap
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Literal

from alignment.records import Frozen

Tone = Literal["", "good", "bad", "muted"]
_GAP = "  "
_NARROWEST = 8
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
    """A text, a smaller text after it (an interval), and how it is meant to feel."""

    text: str
    small: str = ""
    tone: Tone = ""

    @property
    def plain(self) -> str:
        """Both texts on one line."""
        return " ".join(f"{self.text} {self.small}".split())


class Table(Frozen):
    """A title, a head, rows, and a note below.

    Attributes:
        align: one letter a column, "l" or "r"; numbers are "r".
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
        """A table from cells or bare texts; the columns after the first are right-aligned."""
        align = align or "l" + "r" * (len(columns) - 1)
        cells = tuple(
            tuple(cell if isinstance(cell, Cell) else Cell(text=cell) for cell in row)
            for row in rows
        )
        assert all(len(row) == len(columns) == len(align) for row in (*cells, columns))
        return cls(title=title, columns=tuple(columns), rows=cells, align=align, note=note)

    def to_text(self, width: int = 120) -> str:
        """Aligned lines for a terminal, none wider than `width` columns where words allow."""
        lines = [tuple(map(printable, self.columns))]
        lines += [tuple(printable(cell.plain) for cell in row) for row in self.rows]
        natural = [max(map(columns_of, column)) for column in zip(*lines, strict=True)]
        gap = _GAP if sum(natural) + len(_GAP) * (len(natural) - 1) <= width else " "
        widths = _fit(natural, width - len(gap) * (len(natural) - 1))
        head, *body = [self._text_row(line, widths, gap) for line in lines]
        rule = gap.join("─" * column for column in widths)
        note = textwrap.wrap(printable(self.note), width, break_on_hyphens=False)
        return "\n".join([printable(self.title), head, rule, *body, *note])

    def _text_row(self, texts: Sequence[str], widths: Sequence[int], gap: str) -> str:
        wrapped = [_wrap(text, width) for text, width in zip(texts, widths, strict=True)]
        lines = zip_longest(*wrapped, fillvalue="")
        return "\n".join(
            gap.join(_pad(*cell) for cell in zip(line, widths, self.align, strict=True)).rstrip()
            for line in lines
        )

    def to_markdown(self) -> str:
        """A GitHub table under its title; text in cells cannot start markup or HTML."""
        rules = ["---:" if side == "r" else ":---" for side in self.align]
        rows = [[escape_markdown(cell.plain) or " " for cell in row] for row in self.rows]
        grid = [[escape_markdown(name) for name in self.columns], rules, *rows]
        lines = [f"| {' | '.join(row)} |" for row in grid]
        note = [f"\n{escape_markdown(self.note)}"] if self.note else []
        return "\n".join([f"**{escape_markdown(self.title)}**\n", *lines, *note])


def printable(text: str) -> str:
    """The text on one line, with control characters (a terminal would obey them) as '�'."""
    spaced = " ".join(text.split())
    return "".join("�" if unicodedata.category(c) in ("Cc", "Cf", "Cs") else c for c in spaced)


def escape_markdown(text: str) -> str:
    """One line of Markdown that shows `text`: no HTML, link, code, table cell or image starts."""
    return _MARKUP.sub(lambda found: _ESCAPES[found[0]], printable(text))


def columns_of(text: str) -> int:
    """How many terminal columns a text takes: wide East Asian characters take two."""
    return sum(_columns_of_character(character) for character in text)


def _columns_of_character(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _fit(widths: Sequence[int], width: int) -> list[int]:
    """The widths, the widest one narrowed again and again until they sum up to `width`."""
    narrowed = list(widths)
    while sum(narrowed) > width and max(narrowed) > _NARROWEST:
        narrowed[narrowed.index(max(narrowed))] -= 1
    return narrowed


def _wrap(text: str, width: int) -> list[str]:
    """Lines of at most `width` terminal columns, broken at spaces where there are some."""
    lines = [""]
    for word in text.split(" "):
        glue = " " if lines[-1] else ""
        if columns_of(lines[-1] + glue + word) <= width:
            lines[-1] += glue + word
            continue
        if lines[-1]:
            lines.append("")
        for character in word:
            if columns_of(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
    return lines


def _pad(text: str, width: int, side: str) -> str:
    space = " " * (width - columns_of(text))
    return space + text if side == "r" else text + space
