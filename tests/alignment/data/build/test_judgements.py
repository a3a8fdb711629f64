"""Scores, labels and ranks beside replies: which way they point, or a question."""

import pytest

from alignment.errors import DataError
from tests.alignment.data.build.reading import PAIR, A, U, read, summary


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
