"""Contradictions, ties, a preference for length, and repeated text."""

from alignment.doctor.checks.overlap import check_contamination, check_duplicates
from alignment.doctor.checks.preference import check_conflicts, check_length_bias, check_ties
from tests.alignment.doctor.conftest import chat, dropped, pair

LONG = "Tell me how a steam engine of the year eighteen hundred turned heat into work, step by step"


def pairs(number, **options):
    return [pair(f"Question number {n}", "yes", "no", **options) for n in range(number)]


def test_conflicts_are_counted_and_one_in_five_stops_the_run(pair_set):
    for conflicting, verdict in ((0, "ok"), (2, "warn"), (20, "fail")):
        made = pair_set(pairs(80), quarantined=dropped(conflicting_label=conflicting))
        found = check_conflicts([made])
        assert (found.verdict, found.figures["left_out"]) == (verdict, conflicting)


def test_a_text_that_is_chosen_in_one_pair_and_rejected_in_another_is_named(pair_set):
    ladder = [pair("Which?", "best", "middle"), pair("Which?", "middle", "worst")]
    found = check_conflicts([pair_set([*ladder, *pairs(3)])])
    assert found.figures["both_ways"] == 2
    assert found.examples[0].pieces[0].text == "Which?"


def test_ties_are_measured_in_the_set_with_the_largest_share(pair_set):
    scored = pair_set(pairs(90, strength=0.05), quarantined=dropped(tie=8, score_inverted=2))
    found = check_ties([scored, pair_set(pairs(400), name="pairs-2")])
    assert (found.verdict, found.figures["share"]) == ("warn", 0.1)
    assert found.figures["weak_share"] == 1
    assert check_ties([pair_set(pairs(9), quarantined=dropped(tie=9))]).verdict == "fail"
    without = check_ties([pair_set(pairs(9))])
    assert (without.verdict, "no scores" in without.headline) == ("ok", True)


def test_length_bias_is_seen_from_either_side_and_not_on_few_pairs(pair_set):
    longer = [pair(f"Question {n}", "a long reply it is", "no") for n in range(40)]
    shorter = [pair(f"Question {n}", "no", "a long reply it is") for n in range(40)]
    even = check_length_bias([pair_set([*longer, *shorter])])
    assert (even.verdict, even.figures["pick_the_longer"]) == ("ok", 0.5)
    tilted = check_length_bias([pair_set([*longer, *shorter[:10]])])
    assert (tilted.verdict, tilted.figures["pick_the_longer"]) == ("warn", 0.8)
    assert check_length_bias([pair_set(longer)]).verdict == "fail"
    assert "shorter" in check_length_bias([pair_set(shorter)]).remedy
    assert check_length_bias([pair_set(longer[:3])]).verdict == "ok"  # interval [.44, 1]


def test_equal_lengths_count_half_for_picking_the_longer(pair_set):
    found = check_length_bias([pair_set([pair("One?", "no", "no!!!"), pair("Two?", "ab", "ab")])])
    assert found.figures["pick_the_longer"] == 0.25
    assert found.figures["longer_won"] == 0


def test_replies_of_equal_length_are_not_said_to_win_or_lose(pair_set):
    found = check_length_bias([pair_set([pair(f"Question {n}?", "ab", "ab") for n in range(40)])])
    assert found.headline.startswith("The replies of every pair are equally long; ")


def test_a_run_without_pairs_is_ok(chat_set):
    sets = [chat_set([chat("Hi", "Hello")])]
    for check in (check_conflicts, check_ties, check_length_bias):
        assert check(sets).verdict == "ok"


def test_copies_and_repeated_prompts_are_counted(pair_set):
    repeated = [pair("Same?", f"yes {n}", "no") for n in range(4)]
    found = check_duplicates([pair_set([*repeated, *pairs(6)], quarantined=dropped(duplicate=2))])
    assert found.verdict == "warn"  # 2 of 12 rows read are copies, 3 of 10 kept ones repeat
    assert found.figures == {"copies": 2, "repeated_prompts": 3}
    assert check_duplicates([pair_set(pairs(6))]).verdict == "ok"


def test_a_training_prompt_that_is_held_out_elsewhere_fails(pair_set):
    held = pair_set([], name="pairs-evaluation", held_out=[pair(LONG, "yes", "no")])
    found = check_contamination([held, pair_set([pair(LONG.upper(), "maybe", "no"), *pairs(99)])])
    assert (found.verdict, found.figures["exact"]) == ("fail", 1)
    assert found.examples[0].note.startswith("same first turn as pairs-evaluation")


def test_a_near_copy_of_a_held_out_prompt_is_found_and_a_shared_phrase_is_not(pair_set):
    held = pair_set([], name="pairs-evaluation", held_out=[pair(LONG, "yes", "no")])
    copied = pair(f"Hello! {LONG}.", "yes", "no")
    phrase = pair("Tell me how a steam engine of the year nineteen sank a ship", "yes", "no")
    found = check_contamination([held, pair_set([copied, phrase, *pairs(98)])])
    assert (found.verdict, found.figures["near"]) == ("warn", 1)
    assert check_contamination([held, pair_set([phrase, *pairs(99)])]).verdict == "ok"
    assert check_contamination([held, pair_set([copied, *pairs(9)])]).verdict == "fail"


def test_a_phrase_that_many_held_out_prompts_share_is_no_contamination(pair_set):
    templated = [pair(f"{LONG}, for reader {n}", "yes", "no") for n in range(30)]
    held = pair_set([], name="pairs-evaluation", held_out=templated)
    assert (
        check_contamination([held, pair_set([pair(f"{LONG}, for me", "yes", "no")])]).verdict
        == "ok"
    )
