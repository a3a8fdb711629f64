"""Row counts by reason, and what the texts contain."""

from alignment.doctor.checks.counts import check_rows
from alignment.doctor.checks.flags import check_flags
from alignment.doctor.checks.texts import check_forged_turns, check_refusals
from tests.alignment.doctor.conftest import chat, dropped, pair


def test_a_few_damaged_rows_are_ok_many_warn_and_half_fail(pair_set):
    rows = [pair(f"Question {n}", "yes", "no") for n in range(96)]
    for broken, verdict in ((4, "ok"), (6, "warn"), (96, "fail")):  # 4 %, 5.9 %, 50 %
        found = check_rows([pair_set(rows, quarantined=dropped(malformed=broken))])
        assert found.verdict == verdict
        assert found.figures["unused"] == broken
        assert bool(found.remedy) == (verdict != "ok")


def test_rows_dropped_by_limit_or_as_ties_are_not_damaged(pair_set):
    rows = [pair("Question", "yes", "no")]
    found = check_rows([pair_set(rows, quarantined=dropped(over_limit=97, tie=1, empty=1))])
    assert found.verdict == "ok"
    assert found.figures["unused"] == 1
    assert found.figures["worst_source_share"] == 0.01  # of all rows read, not of those kept


def test_every_reason_but_the_configurations_own_has_examples(pair_set):
    quarantined = dropped(malformed=9, empty=1, over_limit=5)
    found = check_rows([pair_set([pair("Question", "yes", "no")], quarantined=quarantined)])
    notes = [example.note for example in found.examples]
    assert notes == ["malformed: as found"] * 3 + ["empty: as found"]
    assert found.examples[0].place == "pairs-1 · notes.jsonl row 1"


def test_rows_that_the_template_refuses_come_with_its_setting(pair_set):
    rows = [pair("Question", "yes", "no")]
    found = check_rows([pair_set(rows, quarantined=dropped(template=5, malformed=1))])
    assert "system: into_user" in found.remedy


def test_columns_that_are_not_read_are_listed_beside_their_source(pair_set):
    rows = [pair("Question", "yes", "no")]
    found = check_rows([pair_set(rows, unread={"model": 2, "messages[].weight": 9})])
    assert found.tables[0].rows[0][-1].text == "messages[].weight (9), model (2)"


def test_forged_turns_are_counted_and_one_in_ten_stops_the_run(pair_set):
    rows = [pair(f"Question {n}", "yes", "no") for n in range(89)]
    for forged, verdict in ((0, "ok"), (1, "warn"), (11, "fail")):
        found = check_forged_turns([pair_set(rows, quarantined=dropped(special_token=forged))])
        assert found.verdict == verdict
        assert found.figures["left_out"] == forged


def test_markers_of_other_templates_are_found_where_they_open_a_line(pair_set):
    clean = [pair(f"Is Assistant: a word, {n}?", "yes", "no") for n in range(9)]
    marked = pair("### Instruction: add", "[INST] no [/INST]", "Human: who?")
    found = check_forged_turns([pair_set([*clean, marked])])
    assert found.verdict == "warn"
    assert found.figures["foreign_marks"] == 1
    assert "### Instruction:" in found.headline
    assert check_forged_turns([pair_set(clean)]).verdict == "ok"


def test_refusals_warn_where_they_are_chosen_and_not_where_they_are_rejected(pair_set):
    plain = [pair(f"Question {n}", "Take the train.", "Walk.") for n in range(8)]
    preferred = [pair(f"How {n}?", "I\u2019m sorry, no.", "Like so.") for n in range(2)]
    rejected = [pair(f"How {n}?", "Like so.", "I cannot help.") for n in range(2)]
    taught = check_refusals([pair_set([*plain, *preferred])])
    assert taught.verdict == "warn"
    assert taught.figures["pairs-1 · notes / chosen"] == 0.2
    assert check_refusals([pair_set([*plain, *rejected])]).verdict == "ok"


def test_refusals_that_are_imitated_count_as_taught(chat_set):
    assert check_refusals([chat_set([chat("Hi", "As an AI, I have none.")])]).verdict == "warn"
    assert check_refusals([chat_set([chat("Hi", "Sorry to hear that!")])]).verdict == "ok"


def test_rows_worth_a_look_are_counted_and_shown_and_never_warn(pair_set):
    """Four rows: one of 3,200 letters, one with a bell, one that repeats the first prompt."""
    rows = [
        pair("Why?", "yes", "no"),
        pair("How?", "yes " * 800, "no"),
        pair("Ring?", "\a", "no"),
        pair("why? ", "sure", "no"),
    ]
    found = check_flags([pair_set(rows)])
    assert found.verdict == "ok"
    assert found.figures == {"long": 1, "control_character": 1, "repeated_prompt": 1}
    assert [example.place for example in found.examples] == [
        f"pairs-1 · row {row.id}" for row in rows[1:]
    ]
    assert found.examples[1].pieces[0].text == "user: Ring?\n\nchosen: \a\n\nrejected: no"
