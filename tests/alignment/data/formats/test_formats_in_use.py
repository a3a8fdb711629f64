"""What is read from rows in the formats of common data sets."""

import json

import pytest

from alignment.data.formats import (
    Auto,
    Candidates,
    Compared,
    Instances,
    Messages,
    MtBench,
    OpenAssistantNodes,
    OpenAssistantTrees,
    Preference,
    Prompts,
    ShareGpt,
    Unpaired,
    choose_format,
)
from alignment.data.formats.rows import RawRow
from alignment.data.read.reading import read_pairs
from alignment.data.read.sources import FileSource
from alignment.data.row import Reason, Rejected, Row, turns
from alignment.errors import DataError
from alignment.records.text import Quarantined


def rows(*fields):
    return [RawRow("a", number, row, "t", "s") for number, row in enumerate(fields, start=1)]


def parse(format_, **fields):
    return list(format_.parse(*rows(fields)))


def rejection(format_, **fields):
    with pytest.raises(Rejected) as rejected:
        parse(format_, **fields)
    return rejected.value.reason


def contents(messages):
    return [(message.role, message.content) for message in messages]


def summary(pair):
    """(last words of the prompt, chosen, rejected, strength)."""
    chosen, rejected = pair.chosen[-1].content, pair.rejected[-1].content
    return pair.prompt[-1].content, chosen, rejected, pair.strength


# --- chats --------------------------------------------------------------------------------------


def turn(speaker, value):
    return {"from": speaker, "value": value}


def test_sharegpt_roles_and_tools_keep_their_meaning():
    (record,) = parse(
        ShareGpt(),
        conversations=[
            turn("system", "Be brief."),
            turn("human", "Weather?"),
            turn("function_call", '{"name": "weather", "arguments": {"city": "Bern"}}'),
            turn("observation", '{"sky": "clear"}'),
            turn("gpt", "Clear."),
        ],
        tools='[{"name": "weather", "parameters": {}}]',
    )
    roles = [message.role for message in record.messages]
    assert roles == ["system", "user", "assistant", "tool", "assistant"]
    (call,) = record.messages[2].tool_calls
    assert (call.function.name, call.function.arguments) == ("weather", {"city": "Bern"})
    assert record.messages[0].tools == (
        {"type": "function", "function": {"name": "weather", "parameters": {}}},
    )


def test_one_chat_may_mix_both_notations_of_a_message():
    (record,) = parse(
        ShareGpt(), conversations=[turn("human", "a"), {"role": "assistant", "content": "b"}]
    )
    assert contents(record.messages) == [("user", "a"), ("assistant", "b")]


def test_content_may_be_a_list_of_parts():
    content = [
        {"type": "reasoning", "value": "Two and two."},
        {"type": "text", "value": "4"},
        {"type": "tool_call", "value": {"name": "add", "arguments": '{"a": 2}'}},
    ]
    (record,) = parse(
        Messages(),
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "2+2?"}]},
            {"role": "assistant", "content": content},
        ],
    )
    assert contents(record.messages) == [
        ("user", "2+2?"),
        ("assistant", "<think>\nTwo and two.\n</think>\n\n4"),
    ]
    assert record.messages[1].tool_calls[0].function.arguments == {"a": 2}


def test_every_instance_of_an_instruction_is_a_chat():
    instances = [{"input": "x", "output": "1"}, {"input": "", "output": "2"}]
    records = parse(Instances(), instruction="Do it.", instances=instances)
    assert [contents(record.messages)[0][1] for record in records] == ["Do it.\n\nx", "Do it."]
    assert rejection(Instances(), instruction="Do it.", instances=[]) == Reason.malformed


# --- pairs --------------------------------------------------------------------------------------


def test_replies_may_be_messages_in_either_notation():
    fields: dict[str, object] = {
        "conversations": [turn("human", "a")],
        "chosen": turn("gpt", "b"),
        "rejected": {"role": "assistant", "content": "c"},
    }
    choice = choose_format(Auto(), [fields], where="a")
    (pair,) = parse(choice.format, **fields)
    assert summary(pair) == ("a", "b", "c", None)


def test_whole_chats_may_be_in_chosen_messages():
    chats: dict[str, object] = {
        f"{name}_messages": [
            {"role": "user", "content": [{"type": "text", "value": "a"}], "loss_weight": 0.0},
            {"role": "assistant", "content": [{"type": "text", "value": name}]},
        ]
        for name in ("chosen", "rejected")
    }
    choice = choose_format(Auto(), [chats], where="a")
    (pair,) = parse(choice.format, **chats)
    assert summary(pair) == ("a", "chosen", "rejected", None)


@pytest.mark.parametrize(("difference", "strength"), [(0.5, 0.0), (0.6, 0.06), (-0.3, 0.0)])
def test_a_difference_of_scores_up_to_the_threshold_is_a_tie(difference, strength):
    scores = {"chosen_score": 5 + difference, "rejected_score": 5}
    (pair,) = parse(Preference(tie_below=0.5), prompt="a", chosen="b", rejected="c", **scores)
    assert pair.strength == pytest.approx(strength)


# --- judged -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        ({"label": 1}, ("q", "x", "y", 1.0)),
        ({"label": "2"}, ("q", "y", "x", 1.0)),
        ({"preference": "b-is-slightly-better"}, ("q", "y", "x", 0.5)),
        ({"winner": "tie"}, ("q", "x", "y", 0.0)),
        (
            {"annotator1": 1, "annotator2": 1, "annotator3": 2},
            ("q", "x", "y", pytest.approx(2 / 3)),
        ),
        ({"annotator1": 1, "annotator2": 2, "annotator3": 0}, ("q", "x", "y", 0.0)),
        ({"annotator1": 2, "annotator2": 2, "annotator3": None}, ("q", "y", "x", 1.0)),
    ],
)
def test_the_majority_is_chosen_and_its_share_is_the_strength(verdict, expected):
    """Two of three votes are 2/3; one vote each is no majority, hence a tie."""
    (pair,) = parse(Compared(), prompt="q", response_1="x", response_2="y", **verdict)
    assert summary(pair) == expected


@pytest.mark.parametrize("format_", [Auto(), Compared()])
@pytest.mark.parametrize("labels", [(0, 1), ("1.0", "0"), (1, 1)])
def test_a_verdict_of_zero_and_one_is_not_guessed(format_, labels):
    fields: list[dict[str, object]] = [
        {"prompt": "q", "response_a": "x", "response_b": "y", "label": label} for label in labels
    ]
    both = r"0 may be response_a and 1 response_b: --format compared,zero_is=first.*zero_is=second"
    with pytest.raises(DataError, match=both):
        choose_format(format_, fields, where="a")


def test_zero_is_says_what_a_verdict_of_zero_means():
    fields: list[dict[str, object]] = [
        {"prompt": "q", "response_a": "x", "response_b": "y", "label": label} for label in (0, 1)
    ]
    named = [summary(*parse(Compared(zero_is="first"), **row))[1] for row in fields]
    assert named == ["x", "y"]
    tied = [summary(*parse(Compared(zero_is="tie"), **row))[3] for row in fields]
    assert tied == [0.0, 1.0]


def test_an_unknown_verdict_is_malformed():
    row = {"prompt": "q", "response_a": "x", "response_b": "y", "winner": "both"}
    assert rejection(Compared(), **row) == Reason.malformed


RANKED = [{"text": "mid", "rank": 1}, {"text": "best", "rank": 0}, {"text": "worst", "rank": 2}]


@pytest.mark.parametrize(
    ("format_", "columns", "expected"),
    [
        (
            Candidates(),
            {"responses": ["a", "b", "c"], "scores": [3, 9, 5]},
            [("q", "b", "a", 0.6)],  # (9 - 3) / 10
        ),
        (
            Candidates(take="all_pairs", margin=2),
            {"responses": ["a", "b", "c"], "scores": [3, 9, 5]},
            [("q", "b", "c", 0.4), ("q", "b", "a", 0.6)],  # 5 - 3 is within the margin
        ),
        (Candidates(), {"completions": RANKED}, [("q", "best", "worst", 1.0)]),
        (
            Candidates(take="all_pairs"),
            {"answers": ["a", "b"], "ranks": [2, 1]},
            [("q", "b", "a", 1.0)],
        ),
    ],
)
def test_candidates_make_pairs_by_score_or_rank(format_, columns, expected):
    assert [summary(pair) for pair in parse(format_, prompt="q", **columns)] == expected


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"responses": ["a", "b"], "scores": [3, 3]}, Reason.tie),
        ({"responses": ["a"], "scores": [3]}, Reason.no_contrast),
        ({"responses": ["a", "b"], "scores": [3]}, Reason.malformed),
        ({"responses": ["a", "b"], "scores": [3, "x"]}, Reason.malformed),
        ({"completions": [{"text": "a"}]}, Reason.malformed),
        ({"responses": "a", "scores": [3]}, Reason.malformed),
    ],
)
def test_candidates_that_cannot_be_compared_are_rejected(columns, reason):
    assert rejection(Candidates(), prompt="q", **columns) == reason


# --- threads, judgements, prompts -----------------------------------------------------------------


def node(role, text, *replies, **more):
    return {"role": role, "text": text, "replies": list(replies), **more}


def test_a_tree_gives_its_best_and_worst_reply_at_every_turn():
    """Three ranked replies, and two more below the best one; an unranked reply is not used."""
    deeper = node(
        "prompter", "more", node("assistant", "b", rank=1), node("assistant", "a", rank=0)
    )
    tree = node(
        "prompter",
        "ask",
        node("assistant", "worst", rank=2),
        node("assistant", "best", deeper, rank=0),
        node("assistant", "mid", rank=1),
        node("assistant", "unranked"),
    )
    first, second = parse(OpenAssistantTrees(), prompt=tree)
    assert summary(first) == ("ask", "best", "worst", pytest.approx(2 / 3))
    assert contents(second.prompt) == [("user", "ask"), ("assistant", "best"), ("user", "more")]
    assert summary(second) == ("more", "a", "b", 1.0)
    assert len(parse(OpenAssistantTrees(take="all_pairs"), prompt=tree)) == 3 + 1
    assert rejection(OpenAssistantTrees(), prompt=node("prompter", "ask")) == Reason.no_contrast


def test_nodes_become_chats_and_each_row_is_accounted_for():
    table = rows(
        {"message_id": "c", "parent_message_id": "b", "role": "prompter", "text": "3"},
        {"message_id": "a", "parent_message_id": None, "role": "prompter", "text": "1"},
        {"message_id": "b", "parent_message_id": "a", "role": "assistant", "text": "2"},
        {"message_id": "d", "parent_message_id": "a", "role": "assistant", "text": "4"},
        {"message_id": "e", "parent_message_id": "gone", "role": "assistant", "text": "5"},
        {"message_id": "d", "parent_message_id": "a", "role": "assistant", "text": "6"},
    )
    made = list(OpenAssistantNodes().records(table))
    chats = {
        row.row: contents(turns(record)) for row, record in (m for m in made if type(m) is tuple)
    }
    assert chats == {
        1: [("user", "1"), ("assistant", "2"), ("user", "3")],
        4: [("user", "1"), ("assistant", "4")],
    }
    aside = {one.row: one.reason for one in made if isinstance(one, Quarantined)}
    assert aside == {2: "merged", 3: "merged", 5: "malformed", 6: "duplicate"}


def test_deleted_messages_are_in_no_chat_and_no_pair():
    ask = {"message_id": "a", "parent_message_id": None, "role": "prompter", "text": "1"}
    reply = {"parent_message_id": "a", "role": "assistant"}
    table = rows(
        ask,
        {**reply, "message_id": "b", "text": "2", "deleted": True},
        {**reply, "message_id": "c", "text": "3", "deleted": False},
        {"message_id": "d", "parent_message_id": "b", "role": "prompter", "text": "4"},
    )
    made = list(OpenAssistantNodes().records(table))
    (chat,) = (record for row, record in (m for m in made if type(m) is tuple))
    assert contents(turns(chat)) == [("user", "1"), ("assistant", "3")]
    aside = {one.row: one.reason for one in made if isinstance(one, Quarantined)}
    assert aside == {1: "merged", 2: "untrained", 4: "malformed"}

    good = [node("assistant", f"{rank}", rank=rank) for rank in (1, 2)]
    tree = node(
        "prompter", "ask", replies=[{**node("assistant", "bad", rank=0), "deleted": True}, *good]
    )
    (pair,) = parse(OpenAssistantTrees(), prompt=tree)
    assert contents(turns(pair)) == [("user", "ask"), ("assistant", "1"), ("assistant", "2")]


def test_single_ratings_make_a_pair_where_a_prompt_has_both_labels():
    table = rows(
        {"prompt": "q", "completion": "good", "label": True},
        {"prompt": "other", "completion": "good", "label": True},
        {"prompt": "q", "completion": "bad", "label": False},
        {"prompt": "q", "completion": "bad", "label": "perhaps"},
    )
    made = list(Unpaired().records(table))
    ((row, pair),) = (one for one in made if not isinstance(one, Quarantined))
    assert (row.row, summary(pair)) == (3, ("q", "good", "bad", None))
    aside = {one.row: (one.reason, one.detail) for one in made if isinstance(one, Quarantined)}
    assert aside[1] == ("merged", "the other reply of the pair at row 3")
    assert aside[2][0] == "unpaired"
    assert "sample a second reply" in aside[2][1]
    assert aside[4][0] == "malformed"


def test_prompts_are_read_without_replies():
    assert contents(*(p.prompt for p in parse(Prompts(), prompt="a"))) == [("user", "a")]
    (both,) = parse(MtBench(), question_id=1, turns=["a", "b"])
    assert contents(both.prompt) == [("user", "a"), ("user", "b")]
    assert rejection(MtBench(), question_id=1, choices=[]) == Reason.no_prompt


@pytest.mark.parametrize(
    ("name", "row"),
    [
        (
            "llmbar",
            {"input": "Name a fruit.", "output_1": "A car.", "output_2": "A pear.", "label": 2},
        ),
        (
            "rewardbench",
            {
                "prompt": "Name a fruit.",
                "chosen": "A pear.",
                "chosen_model": "one",
                "rejected": "A car.",
                "rejected_model": "two",
                "subset": "alpacaeval-easy",
                "id": 7,
            },
        ),
    ],
)
def test_a_benchmark_of_pairs_is_read_as_it_is_published(tmp_path, name, row):
    """So its accuracy is that of `evaluation.data` with this file."""
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps([row]))
    (read,) = read_pairs(FileSource(path=str(path))).items
    assert isinstance(read, Row)
    found = read.record
    assert [turn.content for turn in (*found.prompt, *found.chosen, *found.rejected)] == [
        "Name a fruit.",
        "A pear.",
        "A car.",
    ]
    assert found.source == name
