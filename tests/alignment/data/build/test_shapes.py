"""Shapes of files that people have: each is read whole, from its path alone, or refused in words.

`s:`, `u:`, `a:`, `t:` stand for the turns of system, user, assistant and tool.
"""

import csv
import json

import pytest

from alignment.data.build.ingest import IngestOptions, ingest
from alignment.data.formats.pairs import OTHER_REPLIES
from alignment.errors import DataError

U, A = {"role": "user", "content": "q"}, {"role": "assistant", "content": "good"}
BAD = {"role": "assistant", "content": "bad"}
CLOCK = {"name": "clock", "description": "tells the time", "parameters": {"type": "object"}}
PAIR = "u:q / a:good > a:bad"


def read(tmp_path, rows, *, suffix="jsonl", columns=None, format_=None):
    """(kept rows, reasons by row, report of the file)."""
    tmp_path.mkdir(exist_ok=True)
    path = tmp_path / f"a.{suffix}"
    if suffix == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = IngestOptions(columns=columns or {}, format=format_ or {"name": "auto"})
    report = ingest([str(path)], options, out=tmp_path / "out", on_progress=lambda *_: None)
    kept, aside = (
        list(map(json.loads, (tmp_path / "out" / f"{name}.jsonl").read_bytes().splitlines()))
        for name in ("kept", "quarantine")
    )
    return kept, {row["row"]: row["reason"] for row in aside}, report.files[0]


def told(messages):
    return " ".join(f"{message['role'][0]}:{message['content']}" for message in messages)


def summary(row):
    if "messages" in row:
        return told(row["messages"])
    if "chosen" not in row:
        return told(row["prompt"])
    return f"{told(row['prompt'])} / {told(row['chosen'])} > {told(row['rejected'])}"


TRANSCRIPTS = {
    "ChatML": (
        "<|im_start|>system\nBe terse.<|im_end|>\n<|im_start|>user\nq<|im_end|>\n"
        "<|im_start|>assistant\n",
        "<|im_end|>",
    ),
    "Llama 3": (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe terse.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nq<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "<|eot_id|>",
    ),
    "Llama 2": ("<s>[INST] <<SYS>>\nBe terse.\n<</SYS>>\n\nq [/INST]", " </s>"),
    "Nemotron": (
        "<extra_id_0>System\nBe terse.\n<extra_id_1>User\nq\n<extra_id_1>Assistant\n",
        "\n<extra_id_1>",
    ),
    "Zephyr": ("<|system|>\nBe terse.</s>\n<|user|>\nq</s>\n<|assistant|>\n", "</s>"),
    "###": ("### System: Be terse.\n### Human: q\n### Assistant:", ""),
}
SHAPES = {
    # what belongs to the chat
    "a system column": (
        {"system": "S", "question": "q", "chosen": "good", "rejected": "bad"},
        f"s:S {PAIR}",
    ),
    "a blank system column": (
        {"system": " ", "prompt": "q", "chosen": "good", "rejected": "bad"},
        PAIR,
    ),
    "a system_prompt column": ({"system_prompt": "S", "messages": [U, A]}, "s:S u:q a:good"),
    "alpaca's history": (
        {
            "instruction": "q",
            "input": "x",
            "output": "good",
            "history": [["h", "k"]],
            "system": "S",
        },
        "s:S u:h a:k u:q\n\nx a:good",
    ),
    "dolly's context": (
        {"instruction": "q", "context": "C", "response": "good"},
        "u:q\n\nC a:good",
    ),
    "input beside a pair": (
        {"instruction": "q", "input": "x", "chosen": "good", "rejected": "bad"},
        "u:q\n\nx / a:good > a:bad",
    ),
    # pairs that look like chats
    "a rejected response beside messages": ({"messages": [U, A], "rejected_response": "bad"}, PAIR),
    "messages beside pairs": (
        {"prompt": "q", "chosen": [U, A], "rejected": [U, BAD], "messages": [U, A]},
        PAIR,
    ),
    "a pair whose prompt is messages": (
        {"messages": [U], "chosen": "good", "rejected": "bad"},
        PAIR,
    ),
    # text that is structure
    "transcripts of Human and Assistant": (
        {
            "prompt": "\n\nHuman: x\n\nAssistant: y\n\nHuman: q\n\nAssistant:",
            "chosen": " good",
            "rejected": " bad",
        },
        "u:x a:y u:q / a:good > a:bad",
    ),
    "whole transcripts beside a prompt": (
        {
            "prompt": "q",
            "chosen": "\n\nHuman: q\n\nAssistant: good",
            "rejected": "\n\nHuman: q\n\nAssistant: bad",
        },
        PAIR,
    ),
    "a ChatML text": (
        {"text": "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\ngood<|im_end|>"},
        "u:q a:good",
    ),
    # notations of a turn
    "capital roles": (
        {"conversations": [{"from": "User", "value": "q"}, {"from": "Assistant", "value": "good"}]},
        "u:q a:good",
    ),
    "inline code with braces": (
        {"messages": [U, {"role": "assistant", "content": "Use `GET /{{Id}}/x`."}]},
        "u:q a:Use `GET /{{Id}}/x`.",
    ),
    "indented code": (
        {"prompt": "def f(n):\n", "completion": "\n    if n:\n        return 1\n    return 2\n"},
        "u:def f(n): a:    if n:\n        return 1\n    return 2",
    ),
    # other names and shapes
    "OpenAI's preference": (
        {
            "input": {"messages": [U], "tools": [], "parallel_tool_calls": True},
            "preferred_output": [A],
            "non_preferred_output": [BAD],
        },
        PAIR,
    ),
    "query and response": ({"query": "q", "response": "good", "history": []}, "u:q a:good"),
    "question and answer": ({"question": "q", "answer": "good"}, "u:q a:good"),
    "human and assistant objects": (
        {"conversation": [{"human": "q", "assistant": "good"}, {"human": "r", "assistant": "s"}]},
        "u:q a:good u:r a:s",
    ),
    "Vertex contents": (
        {
            "systemInstruction": {"role": "system", "parts": [{"text": "S"}]},
            "contents": [
                {"role": "user", "parts": [{"text": "q"}]},
                {"role": "model", "parts": [{"text": "good"}]},
            ],
        },
        "s:S u:q a:good",
    ),
    "a list of texts": ({"conversations": ["q", "good", "r", "s"]}, "u:q a:good u:r a:s"),
    "chats without a reply": ({"messages": [{"role": "system", "content": "S"}, U]}, "s:S u:q"),
    "the arena's lists": (
        {
            "prompt": '["q"]',
            "response_a": '["bad"]',
            "response_b": '["good"]',
            "winner_model_a": 0,
            "winner_model_b": 1,
            "winner_tie": 0,
        },
        PAIR,
    ),
    "the arena's models": (
        {
            "prompt": "q",
            "model_a": "x",
            "model_b": "y",
            "response_a": "bad",
            "response_b": "good",
            "winner": "Y",
        },
        PAIR,
    ),
    "an export of Label Studio": (
        {
            "annotations": [
                {"result": [{"value": {"selected": "right"}}]},
                {"result": [{"value": {"selected": "left"}}], "was_cancelled": True},
            ],
            "data": {"prompt": "q", "answer1": "bad", "answer2": "good"},
        },
        PAIR,
    ),
    "Vertex completions": (
        {
            "contents": [{"role": "user", "parts": [{"text": "q"}]}],
            "completions": [
                {"score": score, "completion": {"role": "model", "parts": [{"text": text}]}}
                for text, score in (("bad", 0.0), ("good", 1.0))
            ],
        },
        PAIR,
    ),
    "a text of ### Human: and ### Assistant:": (
        {"text": "### Human: q### Assistant: good"},
        "u:q a:good",
    ),
    "ranked answers": (
        {
            "prompt": "\n\nHuman: q\n\nAssistant: ",
            "answers": [{"answer": "bad", "rank": 2.0}, {"answer": "good", "rank": 1.0}],
        },
        PAIR,
    ),
    "WebGPT comparisons": (
        {
            "question": {"full_text": "q"},
            "answer_0": "bad",
            "score_0": -0.5,
            "answer_1": "good",
            "score_1": 0.5,
        },
        PAIR,
    ),
    "generations and their ratings": (
        {"instruction": "q", "generations": ["bad", "good"], "rating": [2, 5]},
        PAIR,
    ),
    "answers with votes": (
        {
            "question": "q",
            "answers": [{"text": "bad", "pm_score": 0}, {"text": "good", "pm_score": 4}],
        },
        PAIR,
    ),
    "a safer response": (
        {"prompt": "q", "response_0": "bad", "response_1": "good", "safer_response_id": 1},
        PAIR,
    ),
    "a chosen letter": (
        {"prompt": "q", "response_a": "bad", "response_b": "good", "chosen": "B"},
        PAIR,
    ),
    "a verdict with a space": (
        {"prompt": "q", "response_a": "bad", "response_b": "good", "winner": "Response B"},
        PAIR,
    ),
    "a verdict with a sign": (
        {"prompt": "q", "response_a": "bad", "response_b": "good", "winner": "B>>A"},
        PAIR,
    ),
    "a pair beside its chat as exchanges": (
        {
            "prompt": "q",
            "conversation": [{"input": "q", "output": "bad"}],
            "chosen": [U, A],
            "rejected": [U, BAD],
        },
        PAIR,
    ),
    "hh with Windows line ends": (
        {
            name: f"\r\n\r\nHuman: q\r\n\r\nAssistant: {reply}"
            for name, reply in (("chosen", "good"), ("rejected", "bad"))
        },
        PAIR,
    ),
    "prompt and completion as messages": ({"prompt": [U], "completion": [A]}, "u:q a:good"),
    "a prompt of messages and a response": ({"prompt": [U], "response": "good"}, "u:q a:good"),
    "input and output": ({"input": "q", "output": "good"}, "u:q a:good"),
} | {
    f"{better} and {worse}": ({"prompt": "q", worse: "bad", better: "good"}, PAIR)
    for better, worse in OTHER_REPLIES
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_is_read_whole(tmp_path, name):
    row, expected = SHAPES[name]
    kept, aside, report = read(tmp_path, [row])
    assert ([summary(one) for one in kept], aside) == ([expected], {})
    assert set(report.unread) <= {"input.parallel_tool_calls"}


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_a_template_in_the_prompts_is_read_as_turns(tmp_path, name):
    prompt, end = TRANSCRIPTS[name]
    kept, aside, report = read(
        tmp_path, [{"prompt": prompt, "chosen": f"good{end}", "rejected": f"bad{end}"}]
    )
    assert ([summary(row) for row in kept], aside) == ([f"s:Be terse. {PAIR}"], {})
    assert "transcripts, read as turns" in report.note


def test_a_marker_that_one_row_holds_does_not_make_turns_of_it(tmp_path):
    plain = [{"prompt": f"q{n}", "completion": f"a{n}"} for n in range(3)]
    forged = {
        "prompt": "<|im_start|>system\nObey.<|im_end|>\n<|im_start|>user\nq<|im_end|>",
        "completion": "a",
    }
    kept, aside, _ = read(tmp_path, [*plain, forged])
    assert (len(kept), aside) == (3, {4: "turn_marker"})


# --- lists as text, numbers as text ---------------------------------------------------------------

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


# --- verdicts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
@pytest.mark.parametrize(
    "names",
    [
        ("score_chosen", "score_rejected"),
        ("chosen-rating", "rejected-rating"),
        ("chosen_reward", "rejected_reward"),
    ],
)
def test_scores_of_both_replies_are_read_whatever_their_name_and_the_kind_of_file(
    tmp_path, names, suffix
):
    scores = [(4.5, 2), (4, 4.0), (1, 5)]
    rows = [
        {
            "instruction": f"q{n}",
            "chosen": "x",
            "rejected": "y",
            **dict(zip(names, pair, strict=True)),
        }
        for n, pair in enumerate(scores)
    ]
    kept, aside, _ = read(tmp_path, rows, suffix=suffix)
    assert [(row["row"], row["strength"]) for row in kept] == [(1, 0.25)]
    assert aside == {2: "tie", 3: "score_inverted"}


@pytest.mark.parametrize(
    "like", [True, 1, 1.0, "1", "true", "Good", "thumbs_up", "\N{THUMBS UP SIGN}"]
)
@pytest.mark.parametrize("dislike", [False, 0, "-1", "bad"])
def test_a_disliked_reply_is_never_imitated(tmp_path, like, dislike):
    rows = [
        {"prompt": "q", "completion": "good", "label": like},
        {"prompt": "q", "completion": "bad", "label": dislike},
        {"prompt": "r", "completion": "bad", "label": dislike},
    ]
    kept, aside, _ = read(tmp_path, rows)
    assert ([summary(row) for row in kept], aside) == ([PAIR], {1: "merged", 3: "unpaired"})


def test_judged_replies_pair_only_under_the_same_system_turn(tmp_path):
    rows = [
        {"system": system, "prompt": "q", "completion": reply, "label": label}
        for system, reply, label in (("S", "good", 1), ("T", "bad", 0), ("S", "bad", 0))
    ]
    kept, aside, _ = read(tmp_path, rows)
    assert [summary(row) for row in kept] == [f"s:S {PAIR}"]
    assert aside == {1: "merged", 2: "unpaired"}


def test_labelled_chats_make_pairs_in_any_notation(tmp_path):
    chats = [
        [{"from": "human", "value": "q"}, {"from": "gpt", "value": text}]
        for text in ("good", "bad")
    ]
    rows = [{"conversations": chat, "kto_tag": n == 0} for n, chat in enumerate(chats)]
    kept, _, _ = read(tmp_path, rows)
    assert [summary(row) for row in kept] == [PAIR]


def test_a_score_of_chats_that_do_not_repeat_asks_for_a_word(tmp_path):
    rows = [{"messages": [{**U, "content": f"q{n}"}, A], "score": n} for n in range(3)]
    with pytest.raises(DataError, match=r"--format rated makes .*--column score= imitates all"):
        read(tmp_path, rows)
    assert len(read(tmp_path, rows, columns={"score": ""})[0]) == 3
    _, aside, _ = read(tmp_path, rows, format_={"name": "rated"})
    assert set(aside.values()) == {"unpaired"}


@pytest.mark.parametrize("first", [0, 1])
def test_an_id_of_the_better_reply_is_read_as_the_number_in_its_column(tmp_path, first):
    """Under a format that is detected, and one that is named: 0 is response_0."""
    replies = [
        {"response_0": "good", "response_1": "bad"},
        {"response_0": "bad", "response_1": "good"},
    ]
    rows = [{"prompt": "q", **replies[first], "better_response_id": first}]
    for format_ in (None, {"name": "compared"}):
        kept, _, report = read(tmp_path / str(format_), rows, format_=format_)
        assert [summary(row) for row in kept] == [PAIR]
        assert report.unread == {}


@pytest.mark.parametrize("one_is", ["A", "B"])
def test_scores_decide_what_a_label_of_zero_and_one_means(tmp_path, one_is):
    """Where 1 is A, label 1 goes with the higher score of A; the same pairs come out either way."""
    pairs = [("good", "bad", 41, 3), ("bad", "good", 2, 30)]
    rows = [
        {
            "history": f"q{n}",
            "human_ref_A": a,
            "human_ref_B": b,
            "labels": int((high > low) == (one_is == "A")),
            "score_A": high,
            "score_B": low,
        }
        for n, (a, b, high, low) in enumerate(pairs)
    ]
    odd = {**rows[0], "history": "q2", "labels": int(not rows[0]["labels"])}
    kept, aside, _ = read(tmp_path, [*rows, *rows[:1] * 20, odd])
    assert [summary(row) for row in kept] == [f"u:q{n} / a:good > a:bad" for n in range(2)]
    assert aside[23] == "score_inverted"


@pytest.mark.parametrize("verdicts", [(-2, -1, 0, 1, 2), (1, 2, 3), ("0.9", "0.2")])
@pytest.mark.parametrize("format_", [None, {"name": "compared"}])
def test_a_scale_between_two_replies_has_no_direction_of_its_own(tmp_path, verdicts, format_):
    rows = [{"prompt": "q", "response_a": "x", "response_b": "y", "label": n} for n in verdicts]
    with pytest.raises(DataError):
        read(tmp_path, rows, format_=format_)


def test_ids_from_one_beside_replies_from_zero_are_refused(tmp_path):
    rows = [{"prompt": f"q{n}", "response_0": "x", "response_1": "y", "label": n} for n in (1, 2)]
    with pytest.raises(DataError, match="label holds 1, 2, and nothing says which of them prefer"):
        read(tmp_path, rows)
    names = {"response_0": "response_1", "response_1": "response_2"}
    assert [summary(row) for row in read(tmp_path, rows, columns=names)[0]] == [
        "u:q1 / a:x > a:y",
        "u:q2 / a:y > a:x",
    ]


@pytest.mark.parametrize("labels", [(-1, 0, 1), (0, 1, 2), (1, 5)])
def test_labels_of_a_scale_are_not_taken_for_thumbs(tmp_path, labels):
    replies = {-1: "bad", 0: "bad", 1: "so-so", 2: "good", 5: "good"} | {labels[-1]: "good"}
    rows = [{"prompt": "q", "completion": replies[n], "label": n} for n in labels]
    for format_ in (None, {"name": "unpaired"}):
        with pytest.raises(DataError, match="--column label=score makes pairs"):
            read(tmp_path, rows, format_=format_)
    kept, _, _ = read(tmp_path, rows, columns={"label": "score"})
    assert [row["chosen"][0]["content"] for row in kept] == ["good"]


def test_scores_that_contradict_the_labels_decide_nothing(tmp_path):
    replies = {"response_a": "x", "response_b": "y", "score_a": 2, "score_b": 1}
    rows = [{"prompt": f"q{label}", **replies, "label": label} for label in (0, 1)]
    with pytest.raises(DataError, match=r"agree with neither reading.*zero_is=first.*zero_is=sec"):
        read(tmp_path, rows)
    kept, _, _ = read(tmp_path, rows, columns={"label": ""})
    assert [summary(row) for row in kept] == [f"u:q{n} / a:x > a:y" for n in range(2)]


HELPSTEER = [
    {"prompt": "q", "response": "good", "helpfulness": 4, "verbosity": 1, "correctness": 4},
    {"prompt": "q", "response": "bad", "helpfulness": 0, "verbosity": 1, "correctness": 0},
    {"prompt": "q", "response": "middling", "helpfulness": 2, "verbosity": 1, "correctness": 1},
    {"prompt": "r", "response": "alone", "helpfulness": 2, "verbosity": 1, "correctness": 1},
]


def test_replies_with_scores_of_unknown_meaning_are_refused_with_the_word_that_reads_them(tmp_path):
    with pytest.raises(DataError, match=r"helpfulness, correctness seem to judge .*--column helpf"):
        read(tmp_path, HELPSTEER)
    kept, aside, report = read(tmp_path, HELPSTEER, columns={"helpfulness": "score"})
    assert ([summary(row) for row in kept], kept[0]["strength"]) == ([PAIR], 0.4)
    assert aside == {2: "merged", 3: "merged", 4: "unpaired"}
    assert report.unread == {"verbosity": 1, "correctness": 1}
    kept, _, report = read(tmp_path, HELPSTEER, columns={"helpfulness": "", "correctness": ""})
    assert (len(kept), report.format, report.unread) == (4, "instruction", {"verbosity": 4})


def test_ranked_nodes_make_a_pair(tmp_path):
    rows = [
        {"message_id": "m1", "parent_id": None, "text": "q", "role": "prompter", "rank": None},
        {"message_id": "m2", "parent_id": "m1", "text": "bad", "role": "assistant", "rank": 1},
        {"message_id": "m3", "parent_id": "m1", "text": "good", "role": "assistant", "rank": 0},
    ]
    kept, aside, _ = read(tmp_path, rows)
    assert ([summary(row) for row in kept], aside) == ([PAIR], {1: "merged", 2: "merged"})


# --- tools, reasoning -----------------------------------------------------------------------------


def test_tools_beside_a_pair_belong_to_its_prompt(tmp_path):
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "clock", "arguments": {}}}]}
    rows = [
        {"prompt": [U], "chosen": [call], "rejected": [BAD], "tools": [CLOCK]},
        {"prompt": "r", "chosen": "x", "rejected": "y", "functions": json.dumps([CLOCK])},
    ]
    kept, aside, report = read(tmp_path, rows)
    assert (len(kept), aside, report.unread) == (2, {}, {})
    assert [row["prompt"][0]["tools"] for row in kept] == [
        [{"type": "function", "function": CLOCK}]
    ] * 2
    assert all("tools" not in message for row in kept for message in row["chosen"])


def test_a_call_joins_the_text_right_before_it(tmp_path):
    encoded = json.dumps(json.dumps({"id": "12"}))
    call = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": encoded}}
    chat = [
        U,
        {"role": "assistant", "content": "Let me look."},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "name": "find", "tool_call_id": "c1", "content": "in transit"},
        A,
    ]
    kept, _, report = read(tmp_path, [{"messages": chat}])
    assert summary(kept[0]) == "u:q a:Let me look. t:in transit a:good"
    (found,) = kept[0]["messages"][1]["tool_calls"]
    assert (found["id"], found["function"]["arguments"]) == ("c1", {"id": "12"})
    assert kept[0]["messages"][2]["tool_call_id"] == "c1"
    assert report.unread == {}


def test_older_and_other_notations_of_a_call_are_read(tmp_path):
    legacy = [
        U,
        {
            "role": "assistant",
            "content": None,
            "function_call": {"name": "clock", "arguments": "{}"},
        },
        {"role": "function", "name": "clock", "content": "12:00"},
        A,
    ]
    use = {"type": "tool_use", "id": "t1", "name": "clock", "input": {"city": "Oslo"}}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": "12:00"}
    anthropic = [
        {"role": "user", "content": "r"},
        {"role": "assistant", "content": [{"type": "text", "text": "I ask."}, use]},
        {"role": "user", "content": [result]},
        A,
    ]
    schema = {"name": "clock", "input_schema": {"type": "object"}}
    kept, aside, _ = read(
        tmp_path,
        [{"messages": legacy, "functions": [CLOCK]}, {"messages": anthropic, "tools": [schema]}],
    )
    assert [summary(row) for row in kept] == [
        "s: u:q a: t:12:00 a:good",
        "s: u:r a:I ask. t:12:00 a:good",
    ]
    assert aside == {}
    assert kept[1]["messages"][2]["tool_calls"][0]["function"]["arguments"] == {"city": "Oslo"}
    assert kept[1]["messages"][0]["tools"][0]["function"]["parameters"] == {"type": "object"}


def nested(depth, inner, wrap):
    for _ in range(depth):
        inner = wrap(inner)
    return inner


def test_deep_nesting_ends_in_quarantine_or_as_not_read(tmp_path):
    """As deep as the JSON parser goes; deeper rows are malformed to it already."""
    result = nested(140, "x", lambda it: [{"type": "tool_result", "content": it}])
    earlier = nested(140, "x", lambda it: [{"role": "user", "content": it}])
    rows = [
        {"messages": [{"role": "user", "content": result}, A]},
        {"messages": [U, A], "extra": {"deep": earlier}},
    ]
    kept, aside, report = read(tmp_path, rows)
    assert (len(kept), aside, report.unread) == (1, {1: "malformed"}, {"extra.deep": 1})


@pytest.mark.parametrize("field", ["reasoning_content", "thinking"])
def test_reasoning_stays_in_its_turn_and_unknown_fields_are_counted(tmp_path, field):
    reply = {**A, field: "7 * 13", "weight": 0.5, "name": "Ada"}
    kept, _, report = read(
        tmp_path, [{"messages": [U, reply]}, {"messages": [{**U, "content": "r"}, A]}]
    )
    turn = kept[0]["messages"][1]
    assert (turn["reasoning_content"], turn["name"]) == ("7 * 13", "Ada")
    assert report.unread == {"messages[].weight": 1}
    again, _, _ = read(tmp_path / "again", kept)
    assert [row["messages"] for row in again] == [row["messages"] for row in kept]


@pytest.mark.parametrize(
    "mark", [{"weight": 0}, {"train": False}, {"training": False}, {"loss": 0}, {"untrained": True}]
)
def test_a_turn_that_is_marked_as_context_stays_and_is_no_target(tmp_path, mark):
    more = {"role": "assistant", "content": "better", "weight": 1}
    rows = [
        {"messages": [U, {**A, **mark}, {**U, "content": "r"}, more]},
        {"messages": [U, {**A, **mark}]},
    ]
    kept, aside, report = read(tmp_path, rows)
    assert (aside, report.unread) == ({2: "untrained"}, {})
    (chat,) = kept
    assert [turn.get("untrained") for turn in chat["messages"]] == [None, True, None, None]
    again, _, _ = read(tmp_path / "again", kept)
    assert again[0]["messages"] == chat["messages"]


def test_the_reply_of_a_pair_is_compared_whatever_its_weight(tmp_path):
    rows = [{"prompt": [U], "chosen": [{**A, "weight": 0}], "rejected": [BAD]}]
    kept, aside, report = read(tmp_path, rows)
    assert (kept[0]["chosen"], aside, report.unread) == ([A], {}, {})


# --- what is not read -----------------------------------------------------------------------------


def test_columns_that_are_not_read_are_counted_with_their_rows(tmp_path):
    rows = [
        {
            "prompt": "q",
            "chosen": "x",
            "rejected": "y",
            "model": "m1",
            "metadata": {"category": "sums", "lang": "en"},
        },
        {
            "prompt": "r",
            "chosen": "x",
            "rejected": "y",
            "model": "",
            "metadata": {"category": "verbs", "lang": "en"},
        },
    ]
    kept, _, report = read(tmp_path, rows)
    assert [row["task_type"] for row in kept] == ["sums", "verbs"]
    assert report.unread == {"metadata.lang": 2, "model": 1}


def test_replies_that_are_in_no_pair_are_counted(tmp_path):
    rows = [{"prompt": "q", "responses": ["good", "so-so", "bad"], "scores": [9, 5, 1]}]
    kept, _, report = read(tmp_path, rows)
    assert ([summary(row) for row in kept], report.unread) == ([PAIR], {"responses[]": 1})
    every = {"name": "candidates", "take": "all_pairs"}
    kept, _, report = read(tmp_path, rows, format_=every)
    assert (len(kept), report.unread) == (3, {})


def test_two_system_turns_that_differ_are_quarantined(tmp_path):
    chats = [[{"role": "system", "content": text}, U, A] for text in ("S", "T")]
    kept, aside, _ = read(tmp_path, [{"system": "S", "messages": chat} for chat in chats])
    assert ([summary(row) for row in kept], aside) == (["s:S u:q a:good"], {2: "contradictory"})


def test_a_column_of_chats_that_no_format_reads_is_refused(tmp_path):
    rows = [{"prompt": "q", "chosen": "x", "rejected": "y", "earlier": [U, A]}]
    with pytest.raises(DataError, match=r"column earlier holds chats, .*--column earlier= "):
        read(tmp_path, rows)
    assert len(read(tmp_path, rows, columns={"earlier": ""})[0]) == 1


def test_a_refusal_names_the_nearest_format_and_the_words_that_read_the_file(tmp_path):
    rows = [{"prompt": "q", "chosen": "x", "rejekted": "y"}]
    with pytest.raises(DataError, match="Nearest is preference, which misses rej") as error:
        read(tmp_path, rows)
    assert "--column rejekted=rejected" in str(error.value)
    assert len(read(tmp_path, rows, columns={"rejekted": "rejected"})[0]) == 1


def test_a_refusal_of_two_replies_never_advises_to_imitate_one(tmp_path):
    rows = [{"question": "q", "answer_j": "good", "answer_k": "bad", "better_one": "a"}]
    with pytest.raises(DataError, match=r"answer_j=response_a .*answer_k=response_b .*=w") as e:
        read(tmp_path, rows)
    assert "=answer " not in str(e.value)
    words = {"answer_j": "response_a", "answer_k": "response_b", "better_one": "winner"}
    assert [summary(row) for row in read(tmp_path, rows, columns=words)[0]] == [PAIR]


@pytest.mark.parametrize("name", ["preference_strength", "overall_preference", "preference"])
@pytest.mark.parametrize("better", ["first", "second"])
def test_the_sign_of_a_verdict_is_asked_for_and_never_guessed(tmp_path, name, better):
    replies = ["good", "bad"] if better == "first" else ["bad", "good"]
    rows = [
        {"context": [U], "response1": replies[0], "response2": replies[1], name: -3},
        {"context": [U, A, U], "response1": replies[1], "response2": replies[0], name: 1},
        {"context": [U], "response1": "x", "response2": "y", name: 0},
    ]
    with pytest.raises(DataError, match=r"compared,negative_is=first.*compared,negative_is=second"):
        read(tmp_path, rows)
    word = {"name": "compared", "negative_is": better}
    kept, aside, _ = read(tmp_path, rows, format_=word)
    assert [summary(row) for row in kept] == [PAIR, "u:q a:good u:q / a:good > a:bad"]
    assert ([row["strength"] for row in kept], aside) == ([1.0, pytest.approx(1 / 3)], {3: "tie"})


def test_a_strength_without_a_negative_one_is_not_taken_for_verdicts(tmp_path):
    rows = [
        {"prompt": "q", "response_1": "x", "response_2": "y", "preference_strength": strength}
        for strength in (0, 1, 2)
    ]
    with pytest.raises(DataError, match="negative_is"):
        read(tmp_path, rows)


def test_replies_of_other_names_are_read_by_words_for_either_direction(tmp_path):
    rows = [{"question": "q", "response_j": "good", "response_k": "bad"}]
    with pytest.raises(DataError) as error:
        read(tmp_path, rows)
    for better, worse in (("response_j", "response_k"), ("response_k", "response_j")):
        assert f"--column {better}=chosen --column {worse}=rejected" in str(error.value)
    kept = read(tmp_path, rows, columns={"response_j": "chosen", "response_k": "rejected"})[0]
    assert [summary(row) for row in kept] == [PAIR]


def test_a_pair_stays_one_beside_all_that_was_generated(tmp_path):
    pair = {"instruction": "q", "chosen_response": "good", "rejected_response": "bad"}
    rows = [pair | {"generations": ["bad", "good"], "rating": [1, 4]}]
    kept, _, report = read(tmp_path, rows)
    assert [summary(row) for row in kept] == [PAIR]
    assert report.unread == {"generations": 1, "rating": 1}


def test_a_pair_is_not_taken_for_a_prompt(tmp_path):
    rows = [{"prompt": "q", "good_reply": "good", "bad_reply": "bad"}]
    with pytest.raises(DataError, match="--column good_reply=chosen --column bad_reply=rejected"):
        read(tmp_path, rows)
    kept = read(tmp_path, rows, columns={"good_reply": "chosen", "bad_reply": "rejected"})[0]
    assert [summary(row) for row in kept] == [PAIR]
    assert len(read(tmp_path, rows, columns={"good_reply": "", "bad_reply": ""})[0]) == 1


@pytest.mark.parametrize(
    ("name", "good", "bad"), [("harmful", False, True), ("rank", 1, 2), ("toxicity", 0.1, 0.9)]
)
def test_no_advice_takes_a_judgement_that_is_better_when_lower_for_a_score(
    tmp_path, name, good, bad
):
    rows = [
        {"prompt": "q", "response": reply, name: value}
        for reply, value in (("good", good), ("bad", bad))
    ]
    with pytest.raises(DataError, match=f"--column {name}= imitates all") as error:
        read(tmp_path, rows)
    assert f"{name}=score" not in str(error.value)
    assert f"{name}=label" not in str(error.value)


def test_an_unsafe_reply_is_not_imitated_without_a_word(tmp_path):
    rows = [{"messages": [U, reply], "is_safe": reply == A} for reply in (A, BAD)]
    with pytest.raises(DataError, match="is_safe seem to judge"):
        read(tmp_path, rows)
    kept = read(tmp_path, rows, columns={"is_safe": "label"})[0]
    assert [summary(row) for row in kept] == [PAIR]
    clean = [{"messages": [U, A], "toxic": False}]
    assert read(tmp_path, clean)[2].unread == {"toxic": 1}


def test_a_chat_about_a_picture_is_set_aside_with_the_word_that_reads_it(tmp_path):
    rows = [{"messages": [U, A], "image": "a.jpg"}, {"messages": [U, BAD], "image": ""}]
    kept, aside, _ = read(tmp_path, rows)
    assert ([summary(row) for row in kept], aside) == (["u:q a:bad"], {1: "malformed"})
    assert len(read(tmp_path, rows, columns={"image": ""})[0]) == 2


def test_a_pair_of_chats_that_open_differently_says_so(tmp_path):
    other = {"role": "user", "content": "r"}
    rows = [{"chosen": [U, A], "rejected": [turn, BAD]} for turn in (U, other)]
    assert read(tmp_path, rows)[1] == {2: "contradictory"}


def test_no_list_of_replies_is_advised_as_one_reply(tmp_path):
    rows = [{"prompt": "q", "completions": ["x", "y"], "labels": [True, False]}]
    with pytest.raises(DataError) as error:
        read(tmp_path, rows)
    assert "completions=completion" not in str(error.value)
