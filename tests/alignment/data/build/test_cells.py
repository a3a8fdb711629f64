"""Chats, texts and numbers in cells: as JSON, as Python writes a list, as numpy does."""

import json

import pytest

from tests.alignment.data.build.reading import BAD, PAIR, A, U, read, summary

NUMPY = "[{'role': 'user', 'content': 'q'}\n {'role': 'assistant', 'content': %r}]"


@pytest.mark.parametrize(
    ("chosen", "rejected"),
    [
        (json.dumps([U, A]), json.dumps([U, BAD])),
        (str([U, A]), str([U, BAD])),
        (NUMPY % "good", NUMPY % "bad"),
    ],
    ids=["JSON", "Python", "numpy"],
)
def test_chats_in_cells_are_read_as_chats(tmp_path, chosen, rejected):
    row = {"prompt": "q", "chosen": chosen, "rejected": rejected}
    broken = {**row, "chosen": chosen[:-3]}
    kept, aside, _ = read(tmp_path, [row, row, broken], suffix="csv")
    assert [summary(row) for row in kept] == [PAIR]
    assert aside == {2: "duplicate", 3: "malformed"}


def test_a_chat_in_a_column_of_texts_is_not_trained_as_text(tmp_path):
    rows = [{"prompt": f"q{n}", "response": "good"} for n in range(3)]
    kept, aside, _ = read(tmp_path, [*rows, {"prompt": "q", "response": json.dumps([U, A])}])
    assert (len(kept), aside) == (3, {4: "malformed"})


def test_messages_in_a_cell_are_read(tmp_path):
    kept, _, _ = read(tmp_path, [{"messages": json.dumps([U, A]), "id": 1}], suffix="csv")
    assert [summary(row) for row in kept] == ["u:q a:good"]


def test_a_reply_that_is_a_list_of_texts_stays_text(tmp_path):
    kept, _, _ = read(tmp_path, [{"prompt": "Two colours as JSON", "response": '["red", "blue"]'}])
    assert [summary(row) for row in kept] == ['u:Two colours as JSON a:["red", "blue"]']


def test_numbers_are_answers(tmp_path):
    rows = [{"prompt": f"q{n}", "response": answer} for n, answer in enumerate([5, 3.5, "seven"])]
    odd = [{"prompt": "q", "response": answer} for answer in (True, float("nan"))]
    kept, aside, _ = read(tmp_path, [*rows, *odd])
    assert [row["messages"][1]["content"] for row in kept] == ["5", "3.5", "seven"]
    assert aside == {4: "malformed", 5: "malformed"}
