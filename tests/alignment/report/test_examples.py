from collections import Counter

from alignment.report import examples


def test_a_quarter_of_the_prompts_is_without_a_change(run):
    chosen = examples.side_by_side(run.generations, "round 1", limit=24)
    counts = Counter(row.change for row in chosen)
    assert counts["lost"] + counts["gained"] == 18
    assert counts["never"] + counts["always"] == 6


def test_losses_and_gains_alternate(run):
    """Round 1 passes rows 0-25: the base fails 2-25 (gained), round 2 passes 26-33 (lost)."""
    chosen = examples.side_by_side(run.generations, "round 1", limit=24)
    assert [row.change for row in chosen[:4]] == ["lost", "gained", "lost", "gained"]


def test_task_types_take_turns(run):
    chosen = examples.side_by_side(run.generations, "round 2", limit=24)
    first = [row.prompt.task_type for row in chosen if row.change == "gained"][:4]
    assert first == ["city", "email", "lower", "number"]


def test_every_model_that_answered_is_shown_in_order(run):
    row = examples.side_by_side(run.generations, "round 2")[0]
    assert list(row.replies) == ["base", "sft", "round 1", "round 2", "control"]


def test_prompts_without_a_verifier_still_fill_the_page(run):
    silent = {
        label: tuple(row.model_copy(update={"passed": None}) for row in rows)
        for label, rows in run.generations.items()
    }
    chosen = examples.side_by_side(silent, "round 2", limit=24)
    assert Counter(row.change for row in chosen) == {"unverified": 24}


def test_a_model_that_answered_nothing_has_nothing_to_show(run):
    assert examples.side_by_side(run.generations, "round 9") == []
    assert examples.side_by_side({}, "base") == []


def test_wrong_pairs_come_worst_first_with_their_text(run):
    """chosen - rejected under the base model = (-10 + row % 3) - (-14 + row / 2).

    Row 27: -10 - -0.5 = -9.5; row 28: -9 - 0 = -9; row 29: -8 - 0.5 = -8.5.
    """
    wrong = examples.wrong_pairs(run.pairs["base"], run.pair_texts, limit=3)
    assert [pair.score.id for pair in wrong] == ["q27", "q28", "q29"]
    assert [pair.text.id for pair in wrong if pair.text] == ["q27", "q28", "q29"]


def test_a_pair_with_equal_log_probs_is_not_yet_right(run):
    tie = run.pairs["base"][0].model_copy(update={"chosen": -5.0, "rejected": -5.0})
    assert examples.wrong_pairs([tie], ()) == [examples.WrongPair(tie, None)]


def test_the_pairs_that_changed_most_come_with_the_largest_change_first(run):
    """Every margin rises by 3 from SFT to round 1; here one rises by 5 more and two fall."""
    before, after = run.pairs["sft"], list(run.pairs["round 1"])
    for place, nats in ((4, 5.0), (7, -9.0), (9, -4.0)):
        after[place] = after[place].model_copy(update={"chosen": after[place].chosen + nats})
    found = examples.changed_pairs(before, after, run.pair_texts, limit=2)
    assert [(pair.after.id, pair.change) for pair in found.improved] == [("q04", 8), ("q00", 3)]
    assert [(pair.after.id, pair.change) for pair in found.regressed] == [("q07", -6), ("q09", -1)]
    assert found.improved[0].text == run.pair_texts[4]


def test_pairs_that_only_one_model_scored_are_not_compared(run):
    assert examples.changed_pairs((), run.pairs["sft"], ()) == ([], [])
