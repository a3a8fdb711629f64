"""Cells whose text is structure: a list written as JSON or as Python, or a template's transcript.

Decided for a whole column by its first values, so that a text which happens to look like a list
stays text. A cell of such a column that looks like structure and is none is quarantined.
"""

import ast
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

from alignment.data.formats import transcripts
from alignment.data.formats.base import Columns, set_aside
from alignment.data.formats.messages import is_exchange, is_message
from alignment.data.formats.rows import RawRow
from alignment.data.formats.transcripts import HUMAN, Template
from alignment.data.row import Reason, Rejected
from alignment.records.base import Json
from alignment.records.text import Quarantined

NAMED = {
    "annotations",
    "answers",
    "candidates",
    "chat",
    "completions",
    "contents",
    "conversation",
    "conversations",
    "data",
    "dialog",
    "dialogue",
    "generations",
    "history",
    "instances",
    "messages",
    "metadata",
    "ranking",
    "ranks",
    "ratings",
    "replies",
    "responses",
    "rewards",
    "scores",
    "systemInstruction",
    "turns",
}
"""Columns of which any list or object is structure; of others, only chats are."""
REPLIES = {
    "answer",
    "chosen",
    "completion",
    "output",
    "rejected",
    "rejected_response",
    "response",
    "text",
}
MAX_PYTHON = 2**20
"""Longest cell that is read as Python, whose parser needs much memory."""
_NUMPY_GAP = re.compile(r"\}\s*\n\s*\{")


class Decoder(NamedTuple):
    """What is done with the cells of some columns.

    Attributes:
        structure: columns with lists or objects.
        templates: columns with transcripts.
        closed: columns with replies that may end with the marker of a template.
    """

    structure: tuple[str, ...] = ()
    templates: Mapping[str, Template] = {}
    closed: Mapping[str, Template] = {}

    @classmethod
    def of(cls, columns: Columns) -> "Decoder":
        """The decoder for a table with these first values."""
        structure = tuple(name for name in columns if _is_structure(columns, name))
        found = {name: _template(columns, name) for name in columns}
        templates = {name: one for name, one in found.items() if one is not None}
        if "prompt" not in columns:  # the format hh reads these itself
            templates = {
                name: one
                for name, one in templates.items()
                if one is not HUMAN or name not in ("chosen", "rejected")
            }
        first = next(iter(templates.values()), None)
        closed = {
            name: first for name in columns if first and name in REPLIES and name not in templates
        }
        return cls(structure, templates, closed)

    @property
    def note(self) -> str:
        """What the decoder changes, for people."""
        notes = [f"column {name} holds lists as text, read as such" for name in self.structure]
        notes += [
            f"column {name} holds {template.name} transcripts, read as turns"
            for name, template in self.templates.items()
        ]
        return "; ".join(notes)

    def fields(self, row: Json) -> Json:
        """The row with its structure.

        Raises:
            Rejected: a cell looks like structure and is none.
        """
        changed: Json = dict(row)
        for name in self.structure:
            if isinstance(value := row.get(name), str):
                changed[name] = _structure(value, name)
        for name, template in self.templates.items():
            if isinstance(value := row.get(name), str):
                changed[name] = transcripts.turns(value, template) or value
        for name, template in self.closed.items():
            if isinstance(value := row.get(name), str):
                changed[name] = transcripts.without_closing(value, template)
        return changed

    def rows(self, rows: Iterable[RawRow | Quarantined]) -> Iterator[RawRow | Quarantined]:
        """All rows with their structure; a row whose structure is broken is quarantined."""
        for row in rows:
            if isinstance(row, Quarantined):
                yield row
                continue
            try:
                yield replace(row, fields=self.fields(row.fields))
            except Rejected as rejected:
                yield set_aside(row, rejected.reason, rejected.detail)


def structure_in(text: str) -> object:
    """The list or object that a text writes as JSON or Python; None if it writes neither."""
    if text.lstrip()[:1] not in ("[", "{"):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return _python(text)


def _python(text: str) -> object:
    """A Python literal, or what numpy prints of an array of objects."""
    if len(text) > MAX_PYTHON:
        return None
    for source in (text, _NUMPY_GAP.sub("}, {", text)):
        try:
            found = ast.literal_eval(source.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        return found if isinstance(found, list | dict) else None
    return None


def _is_structure(columns: Columns, name: str) -> bool:
    values = columns[name]
    if not any(isinstance(value, str) and value.lstrip()[:1] in ("[", "{") for value in values):
        return False
    found = [structure_in(value) for value in values if isinstance(value, str)]
    if name in NAMED:
        return 2 * sum(one is not None for one in found) > len(values)
    return 2 * sum(map(_is_chat, found)) > len(values)


def _is_chat(value: object) -> bool:
    if isinstance(value, list):
        return bool(value) and (
            is_message(value[0]) or (isinstance(value[0], dict) and is_exchange(value[0]))
        )
    return isinstance(value, dict) and is_message(value)


def _structure(text: str, name: str) -> object:
    found = structure_in(text)
    if found is None and text.lstrip()[:1] in ("[", "{"):
        detail = f"column {name!r} holds lists as text, and this one cannot be read"
        raise Rejected(Reason.malformed, detail)
    return text if found is None else found


def _template(columns: Columns, name: str) -> Template | None:
    """The template that opens most values of a column."""
    values = columns[name]
    found = next(
        (
            one
            for value in values
            if isinstance(value, str) and (one := transcripts.template_of(value))
        ),
        None,
    )
    if found is None:
        return None
    made = [transcripts.turns(value, found) for value in values if isinstance(value, str)]
    return found if 2 * sum(one is not None for one in made) > len(values) else None
