import random
from functools import partial

import numpy as np
import pytest

from alignment.data.dedup import compare, ngrams
from tests.alignment.data.made import chat, pair


def compared(comparison, rows):
    """(dropped row, row that it matches), by row number."""
    made = compare.columns(rows, salt="1")
    made["evaluation"] = [row.held_out for row in rows]
    dropped, others = comparison(made, np.ones(len(rows), dtype=bool))
    pairs = zip(dropped.tolist(), others.tolist(), strict=True)
    return [(rows[row].row, rows[other].row) for row, other in pairs]


def test_the_first_of_equal_rows_is_kept():
    rows = [pair(row=1), pair(rejected="worse", row=2), pair(row=3), pair(row=4)]
    assert compared(compare.duplicate, rows) == [(3, 1), (4, 1)]


def test_opposite_preferences_are_both_dropped():
    """a > b and b > a contradict each other; a > b and b > c do not, nor do different prompts."""
    rows = [
        pair(chosen="a", rejected="b", row=1),
        pair(chosen="b ", rejected="a", row=2),
        pair(chosen="b", rejected="c", row=3),
        pair(prompt="How?", chosen="b", rejected="a", row=4),
        pair(chosen="a", rejected=" b", row=5),
    ]
    assert compared(compare.conflicting_label, rows) == [(1, 2), (2, 1), (5, 2)]


def test_conversations_have_no_labels_that_could_conflict():
    rows = [chat(("user", f"{n}"), ("assistant", "x"), row=n) for n in range(3)]
    assert compared(compare.conflicting_label, rows) == []


def test_a_prompt_of_an_evaluation_source_is_not_trained_on():
    rows = [pair("seen", row=1), pair("new", row=2), pair("SEEN ", row=3, held_out=True)]
    assert compared(compare.in_own_evaluation, rows) == [(1, 3)]
    assert compared(compare.in_own_evaluation, rows[:2]) == []


def test_a_prompt_is_repeated_no_more_often_than_allowed():
    """Three rows have the same prompt, ignoring case and spaces; a thread also starts with it."""
    rows = [pair(chosen=f"good {row}", row=row) for row in (1, 2)]
    rows += [pair(prompt="why? ", chosen="good 3", row=3), pair(prompt="How?", row=4)]
    rows.append(pair(prompt=[("user", "Why?"), ("assistant", "So."), ("user", "So?")], row=5))
    assert compared(partial(compare.repeated_prompt, at_most=1), rows) == [(2, 1), (3, 1)]
    assert compared(partial(compare.repeated_prompt, at_most=2), rows) == [(3, 1)]


def orders(rows):
    made = compare.columns(rows, salt="1")
    return [rows[at].row for at in compare.in_order(made, np.ones(len(rows), dtype=bool))]


def test_adding_a_row_does_not_reorder_the_others():
    rows = [pair(f"prompt {number}", row=number) for number in range(200)]
    before = orders(rows)
    assert before != sorted(before)
    more = [*rows[:50], pair("new", row=999), *rows[50:]]
    assert [row for row in orders(more) if row != 999] == before
    random.Random(0).shuffle(rows)
    assert orders(rows) == before


# --- near duplicates ----------------------------------------------------------------------------

WORDS = [f"word{number}" for number in range(4000)]


def text(seed, words=200):
    return random.Random(seed).choices(WORDS, k=words)


def changed(words, every):
    """Replace every n-th word: each change affects five of the five-word n-grams."""
    return [f"other{at}" if at % every == every - 1 else word for at, word in enumerate(words)]


def signed(texts):
    """Signatures with each text as the prompt and the same reply to all."""
    return ngrams.signatures([(" ".join(words), "So be it.") for words in texts])


def near_duplicates(texts, threshold=0.8, earlier=()):
    made = [signed(texts), *([signed(earlier)] if earlier else [])]
    kept = np.ones(len(texts), dtype=bool)
    dropped, others = compare.near_duplicate(made, kept, threshold=threshold)
    return list(zip(dropped.tolist(), others.tolist(), strict=True))


@pytest.mark.parametrize(("every", "similarity"), [(200, 0.99), (50, 0.82), (20, 0.59)])
def test_signatures_estimate_how_much_two_texts_share(every, similarity):
    """Each changed word affects five of the 196 five-word n-grams, the last word only one. So four
    changes in 200 words leave 177 shared of 215 in total: 0.82. Within four standard errors."""
    one, other = (
        {tuple(words[at : at + 5]) for at in range(196)}
        for words in (text(0), changed(text(0), every))
    )
    exact = len(one & other) / len(one | other)
    assert exact == pytest.approx(similarity, abs=0.03)
    made = signed([text(0), changed(text(0), every)])
    (estimate,) = ngrams.similarity(made[:1], made[1:])
    assert estimate == pytest.approx(exact, abs=4 * (exact * (1 - exact) / 64) ** 0.5)


def test_a_long_prompt_does_not_make_two_replies_similar():
    prompt, *replies = (" ".join(text(seed, words=20 + 400 * (seed == 0))) for seed in range(3))
    rows = [(prompt, replies[0]), (prompt, replies[1]), (prompt, replies[0] + " indeed")]
    dropped, others = compare.near_duplicate(
        [ngrams.signatures(rows)], np.ones(3, dtype=bool), threshold=0.8
    )
    assert (dropped.tolist(), others.tolist()) == ([2], [0])


def test_the_opposite_preference_is_not_a_near_duplicate():
    """a over b and b over a have the same words but opposite meanings."""
    prompt, one, other = (" ".join(text(seed, words=40)) for seed in range(3))
    made = ngrams.signatures([(prompt, one, other), (prompt, other, one)])
    assert ngrams.similarity(made[:1], made[1:]) < 0.2


def test_of_nearly_equal_rows_the_earlier_one_is_kept():
    rows = [text(1), text(2), changed(text(1), 100), text(3), changed(text(3), 10)]
    assert near_duplicates(rows) == [(2, 0)]
    assert near_duplicates(rows, threshold=1) == []


def test_near_duplicates_of_an_earlier_set_are_dropped_wherever_they_are():
    """Row 1 nearly equals row 0 of the earlier set, which follows this set's rows at position 2."""
    assert near_duplicates([text(1), changed(text(2), 100)], earlier=[text(2)]) == [(1, 2)]


def test_texts_without_spaces_are_compared_by_character():
    one = "".join(chr(0x4E00 + number) for number in random.Random(0).choices(range(2000), k=200))
    other = one[:100] + "一" + one[101:]
    assert near_duplicates([[one], [other]]) == [(1, 0)]


def test_short_and_empty_texts_have_a_signature_of_their_own():
    assert near_duplicates([["a"], ["b"], [""], ["a", "b"]]) == []
    assert near_duplicates([["a"], ["A"]]) == [(1, 0)]
