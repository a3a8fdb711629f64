"""What a file holds that is not read: it is counted, set aside, or refused in words."""

import pytest

from alignment.errors import DataError
from tests.alignment.data.build.reading import BAD, PAIR, A, U, read, summary


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
