import pytest

from alignment.data.filters import content
from alignment.data.row import Reason
from alignment.data.split import Part, PromptKeys
from alignment.records.text import Function, Message, ToolCall
from tests.alignment.data.made import GOOD, chat, dropped_rows, messages, pair, tool_chat


@pytest.mark.parametrize("code", [0x0000, 0xFFFD, 0xD800, 0xDFFF])
def test_text_that_cannot_be_written_or_was_damaged_is_bad_encoding(code):
    rows = [GOOD, chat(("user", "a"), ("assistant", f"caf{chr(code)}"), row=2), pair(row=3)]
    assert dropped_rows(content.broken_text(rows), rows) == [
        (2, Reason.bad_encoding, f"U+{code:04X} in the assistant turn")
    ]


def test_other_odd_characters_are_text():
    rows = [chat(("user", "a\r\n\t\x07\u2028🙂"), ("assistant", "\ufeffb"))]
    assert dropped_rows(content.broken_text(rows), rows) == []


def test_turns_without_text_are_empty():
    rows = [
        GOOD,
        chat(("user", "a"), ("assistant", " \n"), row=2),
        chat(row=3),
        pair(chosen="", row=4),
        pair(rejected=[], row=5),
        pair(prompt=[], row=6),
    ]
    assert dropped_rows(content.empty(rows), rows) == [
        (2, Reason.empty, "turn 2 of messages (assistant) has no text"),
        (3, Reason.empty, "messages has no turns"),
        (4, Reason.empty, "turn 1 of chosen (assistant) has no text"),
        (5, Reason.empty, "rejected has no turns"),
        (6, Reason.empty, "prompt has no turns"),
    ]


S, U, A = ("system", "s"), ("user", "u"), ("assistant", "a")


@pytest.mark.parametrize("turns", [(U, A), (S, U, A), (U, A, U, A), (S, U, A, U, A)])
def test_alternating_turns_are_in_order(turns):
    rows = [chat(*turns)]
    assert dropped_rows(content.role_order(rows), rows) == []


@pytest.mark.parametrize(
    ("turns", "detail"),
    [
        ((U, A, U, U), "turn 4 is user, expected assistant"),
        ((U, A, A), "turn 3 is assistant, expected user"),
        ((A, U, A), "turn 1 is assistant, expected user"),
        ((S, A), "turn 2 is assistant, expected user"),
        ((U, S, A), "turn 2 is system, expected assistant"),
        ((S, S, U, A), "turn 2 is system, expected user"),
        ((U, A, U), "user assistant user does not end with assistant"),
        ((S,), "system does not end with assistant"),
    ],
)
def test_turns_out_of_order_are_named(turns, detail):
    rows = [chat(*turns)]
    assert dropped_rows(content.role_order(rows), rows) == [(1, Reason.role_order, detail)]


@pytest.mark.parametrize(
    ("options", "detail"),
    [
        ({"prompt": [U, A]}, "user assistant does not end with user"),
        ({"prompt": [A, U]}, "turn 1 is assistant, expected user"),
        ({"chosen": [A, A]}, "chosen is assistant assistant, not one assistant turn"),
        ({"rejected": [U]}, "rejected is user, not one assistant turn"),
        ({"rejected": [A, U, A]}, "rejected is assistant user assistant, not one assistant turn"),
    ],
)
def test_a_pair_is_a_prompt_and_two_single_replies(options, detail):
    rows = [pair(**options)]
    assert dropped_rows(content.role_order(rows), rows) == [(1, Reason.role_order, detail)]
    fine = [pair(prompt=[S, U, A, U])]
    assert dropped_rows(content.role_order(fine), fine) == []


def test_replies_that_differ_in_white_space_only_are_identical():
    rows = [pair(row=1), pair(chosen="a  b\n", rejected="a b", row=2)]
    assert dropped_rows(content.identical_pair(rows), rows) == [
        (2, Reason.identical_pair, "both replies are the same")
    ]


def test_equal_scores_are_a_tie_and_missing_scores_are_not():
    rows = [pair(strength=0.05), pair(strength=0.0, row=2), pair(strength=None, row=3)]
    assert dropped_rows(content.tie(rows), rows) == [
        (2, Reason.tie, "neither reply is better by the scores or votes")
    ]


def test_a_held_out_prompt_is_not_trained_on():
    rows = [pair("seen", row=1), pair("SEEN ", row=2, held_out=True), pair("new", row=3)]
    reserved = {"sft": frozenset({rows[0].prompt_key})}
    assert dropped_rows(content.in_evaluation_set(rows, held_out=reserved), rows) == [
        (1, Reason.in_evaluation_set, "its prompt is held out by sft")
    ]


@pytest.mark.parametrize(
    ("kind", "dropped"),
    [("pairs", [1, 2]), ("conversations", [2])],
)
def test_rounds_share_no_prompt_and_held_out_rows_are_new_to_all(kind, dropped):
    """Row 1 is a training row, row 2 is held out; the earlier set trained on the prompt of both."""
    rows = [pair("seen", row=1), pair("seen", row=2, held_out=True), pair("new", row=3)]
    keys = PromptKeys(kind=kind, trained=(rows[0].prompt_key,), held_out=())
    found = dropped_rows(content.used_by_earlier_round(rows, earlier={"before": keys}), rows)
    assert found == [
        (row, Reason.used_by_earlier_round, "its prompt was trained on by before")
        for row in dropped
    ]


def test_each_row_belongs_to_one_part():
    rows = [pair(f"prompt {number}", row=number) for number in range(50)]
    one, two = (
        content.other_part(rows, part=Part(index=index, of=2), salt="1") for index in (1, 2)
    )
    assert [row.row for row in one.kept] == [row.row for row in two.dropped]
    assert {row.detail for row in one.dropped} == {"not in part 1 of 2"}
    dropped_rows(one, rows)


CALL = Message(
    role="assistant",
    content="",
    tool_calls=(ToolCall(function=Function(name="look_up", arguments={"word": "amber"})),),
)
ANSWER = Message(role="tool", content="resin")
ASK, SAY = messages(("user", "What is amber?"), ("assistant", "Resin."))


@pytest.mark.parametrize(
    ("turns", "detail"),
    [
        ((ASK, CALL, ANSWER, SAY), None),
        ((ASK, CALL, ANSWER, ANSWER, SAY), None),
        ((ASK, CALL, ANSWER, CALL, ANSWER, SAY), None),
        ((ASK, CALL, SAY), "turn 3 is assistant, expected tool"),
        ((ASK, ANSWER, SAY), "turn 2 is tool, expected assistant"),
        ((ASK, CALL, ANSWER, ASK, SAY), "turn 4 is user, expected tool or assistant"),
        ((ASK, CALL, ANSWER), "user assistant tool does not end with assistant"),
    ],
)
def test_tool_turns_are_allowed_only_after_tool_calls(turns, detail):
    rows = [tool_chat(*turns)]
    expected = [] if detail is None else [(1, Reason.role_order, detail)]
    assert dropped_rows(content.role_order(rows), rows) == expected
    assert dropped_rows(content.empty(rows), rows) == []


def test_rows_with_tools_are_dropped_for_a_template_without_tools():
    rows = [GOOD, tool_chat(ASK, CALL, ANSWER, SAY, row=2)]
    assert dropped_rows(content.uses_tools(rows), rows) == [
        (2, Reason.no_tool_template, "the chat template does not render tool calls")
    ]


def test_the_opposite_of_an_earlier_rounds_preference_is_a_conflicting_label():
    """White space makes no difference; another prompt or another reply does."""
    trained = {"round 1": [pair("Why?", "good", "bad").record]}
    rows = [
        pair("Why?", "bad", " good "),
        pair("Why?", "good", "bad", row=2),
        pair("Why?", "bad", "worse", row=3),
        pair("When?", "bad", "good", row=4),
    ]
    assert dropped_rows(
        content.contradicts_earlier(rows, preferred=content.preferred(trained)), rows
    ) == [(1, Reason.conflicting_label, "round 1 was trained on the opposite preference")]
