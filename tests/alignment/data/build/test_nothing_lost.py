"""Nothing of a row is lost without a word.

Of every text in a source row, each character is in the row's record, or the row is quarantined with
a reason, or the column or field that holds it is counted as not read. Texts that are structure
(roles, verdicts, the keys of objects) are what they say, not what they spell.
"""

import json
import random
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignment.data.read.reading import read_any
from alignment.data.read.sources import FileSource
from alignment.data.row import Row
from alignment.errors import DataError
from alignment.records.text import Quarantined
from tests.alignment.data.build.test_judgements import HELPSTEER
from tests.alignment.data.build.test_shapes import SHAPES, TRANSCRIPTS
from tests.alignment.data.formats.examples import EXAMPLES

STRUCTURE = {"role", "from", "type", "label", "labels", "winner", "preference", "selected"}
STRUCTURE |= {"message_id", "parent_id", "parent_message_id", "user_message_id", "id"}
STRUCTURE |= {"name", "arguments", "task_type", "source", "was_cancelled", "strength"}
"""Fields whose text says what the others are."""
COLUMNS = ["system", "system_prompt", "history", "context", "input", "tools", "functions", "note"]
COLUMNS += ["metadata", "category", "model", "response_c", "annotations", "extra", "score_ratio"]
"""Columns to add, some of which every format reads."""
FIELDS = ["reasoning_content", "thinking", "name", "weight", "note", "text", "value", "loss"]
"""Fields to add to objects inside a column."""

ROWS = [row for row, _ in SHAPES.values()] + [row for row, _ in EXAMPLES.values()]
ROWS += [
    {"prompt": "q", "answers": [{"text": f"a{n}", "score": n} for n in range(4)]},
    {"question": "q"}
    | {f"m{n}": {"is_correct": n % 2 == 0, "solution": "abcdef"[: n + 1]} for n in range(4)},
    {
        "prompt": {
            "role": "prompter",
            "text": "q",
            "replies": [
                {"role": "assistant", "text": f"a{n}", "rank": n, "replies": []} for n in range(3)
            ],
        }
    },
]
ROWS += [{**row, "score": row["helpfulness"]} for row in HELPSTEER[:1]]
ROWS += [
    {"prompt": text, "chosen": f"x{end}", "rejected": "y"} for text, end in TRANSCRIPTS.values()
]


class Marker:
    """Puts a word of its own into texts, and remembers where."""

    def __init__(self, draw):
        self.draw, self.places = draw, {}

    def word(self, path):
        word = "zq" + "".join(self.draw.choice(string.ascii_lowercase) for _ in range(10))
        self.places[word] = path
        return word

    def marked(self, value, path=(), *, inner=False):
        """The value with words in its texts, and with more fields in its objects."""
        if isinstance(value, str):
            if path[-1] in STRUCTURE or value[:1] in ("[", "{"):
                return value
            return f"{self.word(path)} {value}" if value[:1].isalpha() else value
        if isinstance(value, list):
            return [self.marked(item, path, inner=True) for item in value]
        if not isinstance(value, dict):
            return value
        made = {key: self.marked(item, (*path, key), inner=True) for key, item in value.items()}
        if not path:
            return made
        if inner and self.draw.random() < 0.2 and "parameters" not in made:
            key = self.draw.choice([key for key in FIELDS if key not in made])
            made[key] = self.word((*path, key))
        return made

    def column(self, name):
        """A value for a new column."""
        kinds = [
            lambda: self.word((name,)),
            lambda: [[self.word((name,)), self.word((name,))]],
            lambda: {"note": self.word((name, "note")), "text": self.word((name, "text"))},
            lambda: [self.word((name,))],
        ]
        return self.draw.choice(kinds)()


def table(draw):
    """Rows of one shape, with words in their texts and more columns; and where the words are."""
    base, marker = draw.choice(ROWS), Marker(draw)
    names = draw.sample(COLUMNS, draw.randrange(3))
    rows = []
    for _ in range(draw.randrange(2, 7)):
        row = marker.marked(base)
        row |= {name: marker.column(name) for name in names if name not in row}
        rows.append(row)
    return rows, marker.places


def lost(tmp_path, rows, places):
    """Words that are neither in a record, nor in a quarantined row, nor counted as not read."""
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    try:
        _, reading = read_any(FileSource(path=str(path)))
        items = list(reading.items)
    except DataError:  # the whole file is refused, with a message that says why
        return [], 0
    found = " ".join(item.record.model_dump_json() for item in items if isinstance(item, Row))
    aside = {item.row for item in items if isinstance(item, Quarantined)}
    seen = {item.row for item in items}
    assert seen == set(range(1, len(rows) + 1))
    counted = {name.replace("[]", "") for name in reading.unread}
    named = " ".join(json.dumps(rows[number - 1]) for number in aside)
    return [
        (word, place, reading.format)
        for word, place in places.items()
        if word not in found
        and word not in named
        and not any(_within(place, name) for name in counted)
    ], len(rows)


def _within(place, name):
    """Whether a counted name is the place's column, or the field of it that is at the place."""
    column, *fields = name.split(".")
    return place[0] == column and set(fields) <= set(place)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.integers(0, 2**32))
def test_every_text_of_a_row_is_kept_or_quarantined_or_counted(tmp_path_factory, seed):
    rows, places = table(random.Random(seed))
    missing, _ = lost(tmp_path_factory.mktemp("lost"), rows, places)
    assert not missing, rows


@pytest.mark.slow
def test_of_fifty_thousand_rows_of_all_shapes_no_text_is_lost(tmp_path):
    draw, read, refused, tables = random.Random(1), 0, 0, 0
    while read < 50_000:
        rows, places = table(draw)
        missing, count = lost(tmp_path, rows, places)
        assert not missing, rows
        read += count
        refused += not count
        tables += 1
    assert refused < 0.2 * tables
