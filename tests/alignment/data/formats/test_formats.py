"""What each format makes of a row."""

import pytest

from alignment.data.formats import (
    HH,
    GradedSolutions,
    Gsm8k,
    Instruction,
    Messages,
    Preference,
)
from alignment.data.formats.rows import RawRow
from alignment.data.row import Reason, Rejected
from alignment.records.text import Conversation
from tests.alignment.data.formats.examples import chat, contents, graded, hh


def parse(format_, **fields):
    (record,) = format_.parse(RawRow("a.jsonl", 1, fields, "chat", "test"))
    return record


def rejection(format_, **fields):
    with pytest.raises(Rejected) as rejected:
        parse(format_, **fields)
    return rejected.value.reason, rejected.value.detail


# --- messages -----------------------------------------------------------------------------------


def test_messages_are_unchanged_except_for_white_space_at_the_ends():
    record = parse(Messages(), messages=chat(("user", "Hi\n"), ("assistant", " Hello\n  there ")))
    assert contents(record.messages) == [("user", "Hi"), ("assistant", "Hello\n  there")]
    assert (record.task_type, record.source) == ("chat", "test")
    assert record == Conversation.of(record.messages, task_type="chat", source="test")


def test_a_system_turn_without_text_is_dropped():
    record = parse(Messages(), messages=chat(("system", " "), ("user", "Hi"), ("assistant", "Ho")))
    assert contents(record.messages) == [("user", "Hi"), ("assistant", "Ho")]


@pytest.mark.parametrize(
    ("messages", "reason", "detail"),
    [
        ("Hi", Reason.malformed, "column 'messages' holds a str, not a list"),
        (None, Reason.malformed, "column 'messages' holds nothing, not a list"),
        (["Hi"], Reason.malformed, "messages[0] holds a str, not {role, content}"),
        ([{"role": "user"}], Reason.malformed, "messages[0]: content holds nothing, not text"),
        (
            [{"role": "user", "content": [{"type": "image", "url": "a"}]}],
            Reason.malformed,
            "messages[0]: content[0]: a part of type 'image', not text",
        ),
        (
            chat(("user", "a"), ("critic", "b")),
            Reason.role_order,
            "messages[1]: role 'critic' is none of system, user, assistant, tool",
        ),
        (
            [{"from": None, "value": "a"}],
            Reason.malformed,
            "messages[0]: from 'None' is none of system, user, assistant, tool",
        ),
        (
            [{"role": "assistant", "content": "", "tool_calls": [{"name": "f"}]}],
            Reason.malformed,
            "messages[0]: a tool call needs a name and its arguments",
        ),
    ],
)
def test_what_is_not_a_chat_is_rejected_with_its_location(messages, reason, detail):
    assert rejection(Messages(), messages=messages) == (reason, detail)


# --- preference ---------------------------------------------------------------------------------


def test_texts_become_one_turn_each():
    pair = parse(Preference(), prompt="Why?", chosen=" Because.", rejected="No.")
    assert contents(pair.prompt) == [("user", "Why?")]
    assert contents(pair.chosen) == [("assistant", "Because.")]
    assert contents(pair.rejected) == [("assistant", "No.")]
    assert pair.strength is None


def test_prompt_and_replies_may_be_lists():
    prompt = chat(("system", "Be brief."), ("user", "Why?"))
    pair = parse(Preference(), prompt=prompt, chosen=chat(("assistant", "So.")), rejected="No.")
    assert contents(pair.prompt) == [("system", "Be brief."), ("user", "Why?")]
    assert contents(pair.chosen) == [("assistant", "So.")]


@pytest.mark.parametrize("columns", [{}, {"prompt": "Second?"}])
def test_whole_chats_are_split_where_they_diverge(columns):
    """Both begin user, assistant, user; a prompt column next to whole chats is ignored."""
    start = (("user", "First?"), ("assistant", "One."), ("user", "Second?"))
    pair = parse(
        Preference(),
        chosen=chat(*start, ("assistant", "Good.")),
        rejected=chat(*start, ("assistant", "Bad.")),
        **columns,
    )
    assert contents(pair.prompt) == list(start)
    assert (contents(pair.chosen), contents(pair.rejected)) == (
        [("assistant", "Good.")],
        [("assistant", "Bad.")],
    )


def test_two_equal_chats_keep_their_last_turn_as_reply():
    same = chat(("user", "Why?"), ("assistant", "So."))
    pair = parse(Preference(), chosen=same, rejected=same)
    assert contents(pair.prompt) == [("user", "Why?")]
    assert pair.chosen == pair.rejected


@pytest.mark.parametrize("nested", [False, True])
def test_scores_become_a_strength(nested):
    """(9 - 7.5) / 10 = 0.15, in the row or under metadata as in UltraFeedback."""
    scores = {"score_chosen": 9, "score_rejected": 7.5}
    columns = {"metadata": scores} if nested else scores
    pair = parse(Preference(), prompt="a", chosen="b", rejected="c", **columns)
    assert pair.strength == pytest.approx(0.15)
    wide = parse(Preference(score_scale=1), prompt="a", chosen="b", rejected="c", **columns)
    assert wide.strength == 1


def test_a_chosen_reply_that_scores_lower_is_rejected():
    row = {"prompt": "a", "chosen": "b", "rejected": "c", "score_chosen": 2, "score_rejected": 3.5}
    assert rejection(Preference(), **row) == (
        Reason.score_inverted,
        "chosen scores 1.5 below rejected",
    )


@pytest.mark.parametrize("score", ["nine", True, float("nan")])
def test_a_score_that_is_not_a_number_is_rejected(score):
    row = {"prompt": "a", "chosen": "b", "rejected": "c", "score_chosen": score}
    reason, detail = rejection(Preference(), **row, score_rejected=1)
    assert (reason, detail) == (Reason.malformed, f"score {str(score)!r} is not a number")


def test_a_reply_that_is_not_text_is_rejected():
    assert rejection(Preference(), prompt="a", chosen=True, rejected="c") == (
        Reason.malformed,
        "column 'chosen' holds a bool, not text",
    )


# --- HH -----------------------------------------------------------------------------------------


def test_a_transcript_is_split_into_turns_and_at_the_common_prefix():
    pair = parse(HH(), chosen=hh("a", "b", "c", "good"), rejected=hh("a", "b", "c", "bad"))
    assert contents(pair.prompt) == [("user", "a"), ("assistant", "b"), ("user", "c")]
    assert contents(pair.chosen) == [("assistant", "good")]
    assert contents(pair.rejected) == [("assistant", "bad")]


def test_the_common_prefix_is_of_messages_not_of_characters():
    """Both replies begin with "The answer", which is not part of the prompt."""
    pair = parse(HH(), chosen=hh("a", "The answer is 4"), rejected=hh("a", "The answer is 5"))
    assert contents(pair.chosen) == [("assistant", "The answer is 4")]


def test_a_marker_without_a_blank_line_is_text():
    reply = "Try this.\nHuman: hello\nAssistant: hi. Human: bye"
    pair = parse(HH(), chosen=hh("a", reply), rejected=hh("a", "no"))
    assert contents(pair.chosen) == [("assistant", reply)]


def test_a_second_assistant_marker_makes_a_reply_of_two_turns():
    """`content.role_order` then drops it; guessing where the prompt ends would be worse."""
    pair = parse(HH(), chosen=hh("a", "b") + "\n\nAssistant: more", rejected=hh("a", "c"))
    assert contents(pair.chosen) == [("assistant", "b"), ("assistant", "more")]
    assert contents(pair.rejected) == [("assistant", "c")]


def test_an_empty_reply_is_an_empty_turn():
    pair = parse(HH(), chosen=hh("a", ""), rejected=hh("a", "c"))
    assert contents(pair.chosen) == [("assistant", "")]


def test_text_without_markers_is_rejected():
    reason, detail = rejection(HH(), chosen="Hello", rejected=hh("a", "b"))
    assert (reason, detail) == (Reason.malformed, "chosen does not open with 'Human:'")
    assert rejection(HH(), chosen="Hi" + hh("a", "b"), rejected="")[0] == Reason.malformed


# --- instruction, GSM8K, graded solutions -------------------------------------------------------


def test_the_input_is_placed_below_the_instruction():
    record = parse(Instruction(), instruction="Add.", input="1 2", output="3")
    assert contents(record.messages) == [("user", "Add.\n\n1 2"), ("assistant", "3")]
    for empty in ({"input": ""}, {"input": None}, {}):
        record = parse(Instruction(), instruction="Add.", output="3", **empty)
        assert contents(record.messages) == [("user", "Add."), ("assistant", "3")]


def test_instruction_reads_columns_of_other_names():
    answers = Instruction(instruction="question", output="answer")
    assert contents(parse(answers, question="q", answer="a").messages) == [
        ("user", "q"),
        ("assistant", "a"),
    ]
    reason, detail = rejection(answers, instruction="q", output="a")
    assert (reason, detail) == (Reason.malformed, "column 'question' holds nothing, not text")


def test_calculator_annotations_are_removed_and_reported():
    answer = "She sold 48/2 = <<48/2=24>>24 clips, 3 << 4.\n#### 24"
    record = parse(Gsm8k(), question="How many?", answer=answer)
    assert record.messages[1].content == "She sold 48/2 = 24 clips, 3 << 4.\n#### 24"
    assert "are removed" in Gsm8k.note


def test_the_right_and_the_wrong_solution_closest_in_length_make_the_pair():
    """Lengths: right 10 and 4, wrong 5 and 20; the closest two are 4 and 5."""
    row = graded(
        a=(True, "r" * 10), b=(False, "w" * 20), c=(True, "r" * 4), d=(False, "<<1=1>>" + "w" * 5)
    )
    pair = parse(GradedSolutions(), **row)
    assert contents(pair.prompt) == [("user", "How many?")]
    assert (contents(pair.chosen), contents(pair.rejected)) == (
        [("assistant", "rrrr")],
        [("assistant", "wwwww")],
    )


def test_the_choice_does_not_depend_on_the_order_of_columns():
    row = graded(a=(True, "one"), b=(False, "two"), c=(True, "six"), d=(False, "ten"))
    assert parse(GradedSolutions(), **dict(reversed(row.items()))) == parse(
        GradedSolutions(), **row
    )


def test_solutions_that_are_all_right_or_all_wrong_have_no_contrast():
    assert rejection(GradedSolutions(), **graded(a=(True, "x"), b=(True, "y"))) == (
        Reason.no_contrast,
        "all 2 solutions are right",
    )
    assert rejection(GradedSolutions(), **graded(a=(False, "x"), b=(False, "y")))[1].endswith(
        "wrong"
    )


def test_solutions_of_other_types_are_malformed():
    assert rejection(GradedSolutions(), **graded(a=("True", "x"), b=(False, "y"))) == (
        Reason.malformed,
        "'a' needs a boolean and a text",
    )
    assert rejection(GradedSolutions(), question="q")[0] == Reason.malformed
