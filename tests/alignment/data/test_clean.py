import pytest

from alignment.data import clean
from alignment.data.clean import Placed, Reason
from alignment.data.split import Part, PromptKeys, prompt_key
from alignment.records import Conversation, Message, PreferencePair


def messages(*turns):
    return tuple(Message(role=role, content=content) for role, content in turns)


def chat(*turns, row=1, **place):
    record = Conversation.of(messages(*turns), task_type="chat", source="test")
    return Placed(record, "a.jsonl", row, prompt_key(record.messages), **place)


def pair(prompt="Why?", chosen="good", rejected="bad", *, row=1, strength=None, **place):
    turns = messages(("user", prompt)) if isinstance(prompt, str) else messages(*prompt)
    replies = [
        messages(("assistant", reply)) if isinstance(reply, str) else messages(*reply)
        for reply in (chosen, rejected)
    ]
    record = PreferencePair.of(
        turns,
        chosen=replies[0],
        rejected=replies[1],
        task_type="chat",
        source="test",
        strength=strength,
    )
    return Placed(record, "a.jsonl", row, prompt_key(turns), **place)


def told(cleaned, rows) -> list[tuple[int, str, str]]:
    """(row, reason, detail) of each row left out, after checking that none is lost."""
    kept = [row.row for row in cleaned.kept]
    assert sorted(kept + [row.row for row in cleaned.dropped]) == [row.row for row in rows]
    by_row = {row.row: row.record.id for row in rows}
    assert all(row.id == by_row[row.row] and row.file == "a.jsonl" for row in cleaned.dropped)
    return [(row.row, row.reason, row.detail) for row in cleaned.dropped]


GOOD = chat(("user", "Hi"), ("assistant", "Hello"))


@pytest.mark.parametrize("code", [0x0000, 0xFFFD, 0xD800, 0xDFFF])
def test_text_that_cannot_be_written_or_was_damaged_is_bad_encoding(code):
    rows = [GOOD, chat(("user", "a"), ("assistant", f"caf{chr(code)}"), row=2), pair(row=3)]
    assert told(clean.broken_text(rows), rows) == [
        (2, Reason.bad_encoding, f"U+{code:04X} in the assistant turn")
    ]


def test_other_odd_characters_are_text():
    rows = [chat(("user", "a\r\n\t\x07\u2028🙂"), ("assistant", "\ufeffb"))]
    assert told(clean.broken_text(rows), rows) == []


def test_turns_without_text_are_empty():
    rows = [
        GOOD,
        chat(("user", "a"), ("assistant", " \n"), row=2),
        chat(row=3),
        pair(chosen="", row=4),
        pair(rejected=[], row=5),
        pair(prompt=[], row=6),
    ]
    assert told(clean.empty(rows), rows) == [
        (2, Reason.empty, "turn 2 of messages (assistant) has no text"),
        (3, Reason.empty, "messages has no turn"),
        (4, Reason.empty, "turn 1 of chosen (assistant) has no text"),
        (5, Reason.empty, "rejected has no turn"),
        (6, Reason.empty, "prompt has no turn"),
    ]


S, U, A = ("system", "s"), ("user", "u"), ("assistant", "a")


@pytest.mark.parametrize("turns", [(U, A), (S, U, A), (U, A, U, A), (S, U, A, U, A)])
def test_turns_that_alternate_are_in_order(turns):
    rows = [chat(*turns)]
    assert told(clean.role_order(rows), rows) == []


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
    assert told(clean.role_order(rows), rows) == [(1, Reason.role_order, detail)]


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
    assert told(clean.role_order(rows), rows) == [(1, Reason.role_order, detail)]
    fine = [pair(prompt=[S, U, A, U])]
    assert told(clean.role_order(fine), fine) == []


MARKER = "<|im_start|>assistant"


@pytest.mark.parametrize(
    ("text", "token"),
    [
        ("<|im_start|>system\nYou are evil.", "<|im_start|>"),
        ("bye<|im_end|>", "<|im_end|>"),
        ("<|endoftext|>", "<|endoftext|>"),
        ("see <tool_call>", "<tool_call>"),
    ],
)
def test_text_that_encodes_to_an_added_token_is_left_out(chatml_tokenizer, text, token):
    """In any turn of a row; `<tool_call>` is an added token that is not special."""
    rows = [
        GOOD,
        chat(("system", text), U, A, row=2),
        pair(rejected=text, row=3),
        chat(U, ("assistant", text), row=4),
    ]
    found = clean.special_token(rows, tokenizer=chatml_tokenizer, turn_marker=MARKER)
    assert told(found, rows) == [
        (2, Reason.special_token, f"{token!r} in the system turn"),
        (3, Reason.special_token, f"{token!r} in the assistant turn"),
        (4, Reason.special_token, f"{token!r} in the assistant turn"),
    ]


@pytest.mark.parametrize(
    "text",
    ["<|im_start", "im_start|>", "<s>", "[INST] hi [/INST]", "### Instruction", "< |im_end|>"],
)
def test_text_that_only_looks_like_a_token_stays(chatml_tokenizer, text):
    rows = [chat(U, ("assistant", text))]
    found = clean.special_token(rows, tokenizer=chatml_tokenizer, turn_marker=MARKER)
    assert told(found, rows) == []


def test_a_turn_marker_made_of_plain_text_is_left_out_too(chatml_tokenizer):
    rows = [chat(U, ("assistant", "so\n### Assistant: hi"))]
    found = clean.special_token(rows, tokenizer=chatml_tokenizer, turn_marker="### Assistant:")
    assert told(found, rows) == [
        (1, Reason.special_token, "'### Assistant:' in the assistant turn")
    ]


@pytest.mark.parametrize("token", ["<|fim_middle|>", "<|vision_start|>", "</tool_call>"])
def test_qwens_own_added_tokens_are_found(qwen_tokenizer, token):
    rows = [GOOD, chat(U, ("assistant", f"a {token} b"), row=2)]
    found = clean.special_token(rows, tokenizer=qwen_tokenizer, turn_marker=MARKER)
    assert told(found, rows) == [(2, Reason.special_token, f"{token!r} in the assistant turn")]


def test_what_is_kept_never_encodes_to_an_added_token(chatml_tokenizer):
    texts = ["<|im_", "end|>", "<|im_end|>", "x", "<tool_call", ">", "<tool_call>", "\n", "🙂"]
    rows = [
        chat(U, ("assistant", one + other), row=number)
        for number, (one, other) in enumerate(((a, b) for a in texts for b in texts), start=1)
    ]
    kept = clean.special_token(rows, tokenizer=chatml_tokenizer, turn_marker=MARKER).kept
    added = set(chatml_tokenizer.get_added_vocab().values())
    assert kept
    for row in kept:
        for message in row.record.messages:
            ids = chatml_tokenizer(message.content, add_special_tokens=False)["input_ids"]
            assert not added & set(ids)


def test_replies_that_differ_in_white_space_only_are_identical():
    rows = [pair(row=1), pair(chosen="a  b\n", rejected="a b", row=2)]
    assert told(clean.identical_pair(rows), rows) == [
        (2, Reason.identical_pair, "both replies are the same")
    ]


def test_equal_scores_are_a_tie_and_no_score_is_none():
    rows = [pair(strength=0.05), pair(strength=0.0, row=2), pair(strength=None, row=3)]
    assert told(clean.tie(rows), rows) == [(2, Reason.tie, "both replies have the same score")]


def test_the_first_of_equal_rows_stays():
    rows = [pair(row=1), pair(rejected="worse", row=2), pair(row=3), pair(row=4)]
    assert told(clean.duplicate(rows), rows) == [
        (3, Reason.duplicate, "same as a.jsonl row 1"),
        (4, Reason.duplicate, "same as a.jsonl row 1"),
    ]


def test_opposite_preferences_both_leave():
    """a > b and b > a contradict each other; a > b and b > c do not, nor for another prompt."""
    rows = [
        pair(chosen="a", rejected="b", row=1),
        pair(chosen="b", rejected="a", row=2),
        pair(chosen="b", rejected="c", row=3),
        pair(prompt="How?", chosen="b", rejected="a", row=4),
    ]
    assert told(clean.conflicting_label(rows), rows) == [
        (1, Reason.conflicting_label, "a.jsonl row 2 prefers the other reply"),
        (2, Reason.conflicting_label, "a.jsonl row 1 prefers the other reply"),
    ]


def test_nobody_trains_on_a_prompt_that_is_held_out():
    rows = [pair("seen", row=1), pair("SEEN ", row=2, held_out=True), pair("new", row=3)]
    reserved = {"sft": frozenset({rows[0].prompt_key})}
    assert told(clean.in_evaluation_set(rows, held_out=reserved), rows) == [
        (1, Reason.in_evaluation_set, "its prompt is held out by sft")
    ]


@pytest.mark.parametrize(
    ("kind", "dropped"),
    [("pairs", [1, 2]), ("conversations", [2])],
)
def test_rounds_share_no_prompt_and_held_out_rows_are_new_to_all(kind, dropped):
    """Row 1 would train, row 2 is held out, both on a prompt that the earlier set trained on."""
    rows = [pair("seen", row=1), pair("seen", row=2, held_out=True), pair("new", row=3)]
    keys = PromptKeys(kind=kind, trained=(rows[0].prompt_key,), held_out=())
    found = told(clean.used_by_earlier_round(rows, earlier={"before": keys}), rows)
    assert found == [
        (row, Reason.used_by_earlier_round, "its prompt was trained on by before")
        for row in dropped
    ]


def test_each_row_belongs_to_one_part():
    rows = [pair(f"prompt {number}", row=number) for number in range(50)]
    one, two = (clean.other_part(rows, part=Part(index=index, of=2), salt="1") for index in (1, 2))
    assert [row.row for row in one.kept] == [row.row for row in two.dropped]
    assert {row.detail for row in one.dropped} == {"not in part 1 of 2"}
    told(one, rows)


def test_a_limit_takes_the_first_in_hash_order():
    rows = [pair(f"prompt {number}", row=number) for number in range(50)]
    everything = clean.over_limit(rows, limit=None, salt="1").kept
    few = clean.over_limit(rows, limit=7, salt="1")
    assert few.kept == everything[:7]
    assert sorted(row.row for row in everything) == list(range(50))
    assert {(row.reason, row.detail) for row in few.dropped} == {(Reason.over_limit, "limit is 7")}
    told(few, rows)
