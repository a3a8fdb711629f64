"""The champion and the ledger: single entries and concurrent writers."""

import json
import subprocess
import sys

import pytest

from alignment.errors import ArtifactError, Overtaken, UsageError
from alignment.rounds.ledger import Started
from alignment.rounds.line import check_sound
from alignment.store.store import Store
from tests.alignment.rounds.lines import batch, champion, put_model, started


@pytest.fixture
def line(tmp_path):
    """A line that has started, after three configured rounds."""
    return started(Store(root=tmp_path), "main")


def closed(line, number, *batches, outcome):
    """Open a round, train its model and close it."""
    opened = line.open(batches).open
    put_model(line.store, number, opened.parent.label.removeprefix("round "), *opened.batches)
    return line.close(number, champion(number), outcome=outcome, why="any")


def kept(line, number, *batches):
    return closed(line, number, *batches, outcome="kept")


def entries(line):
    return [entry.event.name for entry in line.ledger.read()]


# --- what changes the champion -------------------------------------------------------------------


def test_kept_round_is_the_champion_and_the_next_starts_from_it(line):
    assert kept(line, 4, batch(1)).champion == champion(4)
    opened = line.open((batch(2),)).open
    assert opened is not None
    assert (opened.number, opened.parent) == (5, champion(4))


def test_rejected_round_leaves_the_champion_and_spends_its_batches(line):
    line.open((batch(1),))
    state = line.close(4, champion(4), outcome="rejected", why="worse")
    assert state.champion == champion("start")
    assert state.spent == {batch(1).digest}
    assert line.open((batch(1),)).open is None, "not tried again"


def test_an_open_round_is_the_only_one_until_it_is_closed(line):
    line.open((batch(1),))
    opened = line.open((batch(2),)).open
    assert opened is not None
    assert opened.batches == (batch(1),)
    assert entries(line) == ["started", "opened"]


def test_round_that_waits_becomes_the_champion_once_a_person_approves(line):
    assert closed(line, 4, batch(1), outcome="waiting").champion == champion("start")
    assert line.open((batch(2),)).open is None, "no other round begins"
    state = line.promote(champion(4), "looked at ten replies")
    assert (state.champion, state.waiting) == (champion(4), None)
    assert [opened.number for opened, _ in state.lineage] == [4]


def test_declined_round_no_longer_waits_and_its_batches_are_spent(line):
    line.open((batch(1),))
    line.close(4, champion(4), outcome="waiting", why="passed")
    state = line.decline("merge-4", "too chatty")
    assert (state.champion, state.waiting) == (champion("start"), None)
    assert batch(1).digest in state.spent


def test_rollback_restores_an_earlier_champion_and_later_batches_stay_spent(line):
    kept(line, 4, batch(1))
    state = line.roll_back(champion("start"), "users complain")
    assert state.champion == champion("start")
    assert state.champions == (champion("start"), champion(4), champion("start"))
    assert batch(1).digest in state.spent
    assert state.lineage == ()


def test_rolling_back_twice_goes_back_two_champions(line):
    for number in (4, 5, 6):
        kept(line, number, batch(number))
    back = []
    for _ in range(3):
        line.roll_back(line.earlier_champion(), "bad")
        back.append(line.state().champion)
    assert back == [champion(5), champion(4), champion("start")]
    with pytest.raises(UsageError, match="no such earlier champion"):
        line.earlier_champion()


def test_a_rollback_follows_the_promotions_that_led_to_the_champion(line):
    kept(line, 4, batch(1))
    kept(line, 5, batch(2))
    line.roll_back(line.earlier_champion("round 4"), "bad")
    kept(line, 6, batch(3))
    line.promote(champion(5), "it was good")
    path = [champion(6), champion(4), champion("start")]
    for expected in path:
        assert line.roll_back(line.earlier_champion(), "bad").champion == expected


def test_rounds_are_judged_from_the_last_model_that_a_person_promoted(line):
    kept(line, 4, batch(1))
    kept(line, 5, batch(2))
    assert line.state().anchor == champion("start")
    line.promote(champion(5), "read ten replies")
    kept(line, 6, batch(3))
    line.promote_by_gate(champion(4), "the gate chose it", seen=line.state())
    assert (line.state().anchor, line.state().looks) == (champion(5), 2)
    opened = line.open((batch(4),)).open
    assert opened is not None
    assert (opened.anchor, opened.look) == (champion(5), 3)


def test_confirming_the_champion_begins_the_count_of_verdicts_again(line):
    kept(line, 4, batch(1))
    state = line.promote(champion(4), "still good")
    assert (state.anchor, state.looks) == (champion(4), 0)
    assert state.path == (champion("start"), champion(4)), "it is not its own predecessor"
    line.promote(champion(4), "still good")
    assert entries(line)[-2:] == ["closed", "moved"], "confirming twice changes nothing"


def test_rolling_back_past_an_approved_model_goes_back_to_the_anchor_before(line):
    kept(line, 4, batch(1))
    kept(line, 5, batch(2))
    line.promote(champion(5), "read ten replies")
    kept(line, 6, batch(3))
    line.roll_back(line.earlier_champion(), "bad")
    state = line.roll_back(line.earlier_champion(), "bad")
    assert (state.champion, state.anchor) == (champion(4), champion("start"))
    assert state.looks == 2, "its error is spent by the verdicts from before, not renewed"


def test_only_a_model_that_is_in_the_store_becomes_champion(line):
    kept(line, 4, batch(1))
    kept(line, 5, batch(2))
    (line.store.folder("merge-4") / "manifest.json").unlink()
    for change in (line.promote, line.roll_back):
        with pytest.raises(UsageError, match=r"round 4 \(merge-4\) is no longer in "):
            change(champion(4), "any")


# --- the second of two writers -------------------------------------------------------------------


def test_second_run_to_close_a_round_is_overtaken(line):
    """Both runs joined the same open round; the other one closed it first."""
    kept(line, 4, batch(1))
    with pytest.raises(Overtaken, match=r"has already closed round 4 of line 'main' \(kept\)"):
        line.close(4, champion("other"), outcome="kept", why="better")
    assert line.state().champion == champion(4)


def test_round_whose_parent_is_no_longer_champion_cannot_become_champion(line):
    kept(line, 4, batch(1))
    line.open((batch(2),))
    line.roll_back(champion("start"), "bad")
    state = line.close(5, champion(5), outcome="kept", why="better")
    assert state.champion == champion("start")
    assert state.history[-1][1].fate == "overtaken"
    assert state.requeued == ((batch(2),),), "its batches go to the next round"


def test_of_two_writers_that_read_the_same_ledger_one_writes(line):
    before = line.ledger.read()
    line.ledger.append(Started(head=champion("a"), rounds=0), after=before)
    with pytest.raises(Overtaken, match="run the same command again"):
        line.ledger.append(Started(head=champion("b"), rounds=0), after=before)


RACE = """
import sys
from pathlib import Path
from alignment.rounds.line import RoundLine, check_sound
from alignment.rounds.ledger import Delivery
from alignment.store.store import Store

line = RoundLine(store=Store(root=Path(sys.argv[1])))
sys.stdin.readline()
me = sys.argv[2] * 64
opened = line.open((Delivery(digest=me, key=f"batch-{me}", file=me),)).open
print(opened.batches[0].digest[0])
"""


def test_of_eight_processes_one_opens_the_round_and_all_see_the_same_one(line):
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, str(line.store.root), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in "abcdefgh"
    ]
    opened = {racer.communicate("go\n", timeout=300)[0].strip() for racer in racers}
    assert len(opened) == 1
    assert entries(line) == ["started", "opened"]


# --- a bad batch --------------------------------------------------------------------------------


def test_revoking_a_batch_undoes_its_round_and_all_later_ones(line):
    kept(line, 4, batch(1))
    kept(line, 5, batch(2), batch(3))
    kept(line, 6, batch(4))
    state = line.revoke(batch(2), "wrong labels")
    assert state.champion == champion(4)
    assert state.requeued == ((batch(3),), (batch(4),))


def test_model_with_a_revoked_batch_never_becomes_champion_again(line):
    kept(line, 4, batch(1))
    line.roll_back(champion("start"), "users complain")
    line.revoke(batch(1), "wrong labels")
    with pytest.raises(UsageError, match="no such earlier champion"):
        line.earlier_champion()
    for change in (line.promote, line.roll_back):
        with pytest.raises(UsageError, match=r"trained on a revoked batch \(1.jsonl\)"):
            change(champion(4), "it was better")
    assert line.state().champion == champion("start")


def test_rounds_lost_to_a_revoked_batch_are_retrained_one_by_one(line):
    kept(line, 4, batch(1), batch(2))
    kept(line, 5, batch(3))
    line.revoke(batch(1), "wrong labels")
    assert line.open((batch(9),)).open is None, "the requeued batches come first"
    kept(line, 6, batch(2))
    state = kept(line, 7, batch(3))
    assert [[b.file for b in opened.batches] for opened, _ in state.lineage] == [
        ["2.jsonl"],
        ["3.jsonl"],
    ]


def test_revoking_a_batch_that_no_champion_has_seen_keeps_the_champion(line):
    line.open((batch(1),))
    line.close(4, champion(4), outcome="rejected", why="worse")
    state = line.revoke(batch(1), "wrong labels")
    assert (state.champion, state.requeued) == (champion("start"), ())


def test_revoking_a_batch_of_the_open_round_voids_the_round(line):
    line.open((batch(1), batch(2)))
    line.revoke(batch(1), "wrong labels")
    state = line.close(4, champion(4), outcome="kept", why="better")
    assert state.champion == champion("start")
    assert state.requeued == ((batch(2),),)


def test_model_of_an_open_round_is_barred_once_its_batch_is_revoked(line):
    """Its manifest says what it contains; the ledger does not know the model yet."""
    line.open((batch(1), batch(2)))
    put_model(line.store, 4, "start", batch(1), batch(2))
    line.revoke(batch(1), "wrong labels")
    with pytest.raises(UsageError, match=r"trained on a revoked batch \(1.jsonl\)"):
        line.promote(champion(4), "it looks good")


def test_a_batch_revoked_on_one_line_is_revoked_on_every_line_that_used_it(line):
    other = started(line.store, "other")
    kept(line, 4, batch(1))
    kept(other, 4, batch(1).model_copy(update={"file": "same-bytes.jsonl"}), batch(2))
    line.revoke(batch(1), "wrong labels")
    with pytest.raises(UsageError, match="trained on a revoked batch"):
        check_sound(line.store, "round 4", "merge-4")
    state = other.revoke_as_elsewhere()
    assert state.champion == champion("start")
    assert state.requeued == ((batch(2),),)


def test_a_line_that_was_given_a_revoked_model_goes_back_along_its_path(line):
    other = started(line.store, "other")
    kept(line, 4, batch(1))
    other.promote(champion(4), "from the other line")
    line.revoke(batch(1), "wrong labels")
    assert other.revoke_as_elsewhere().champion == champion("start")
    with pytest.raises(UsageError, match="trained on a revoked batch"):
        other.promote(champion(4), "again")


def test_a_round_is_overtaken_when_another_line_revokes_its_batch(line):
    other = started(line.store, "other")
    kept(other, 4, batch(1))
    line.open((batch(1), batch(2)))
    other.revoke(batch(1), "wrong labels")
    state = line.close(4, champion(4), outcome="kept", why="better")
    assert state.history[-1][1].fate == "overtaken"
    assert state.requeued == ((batch(2),),)


def test_batch_is_found_by_whatever_is_printed_of_it(line):
    hostile = batch(2).model_copy(update={"file": "\x1b[2J.jsonl"})
    kept(line, 4, batch(1), hostile)
    state = line.state()
    with pytest.raises(UsageError) as listed:
        state.find_batch("any")
    assert "\x1b" not in str(listed.value)
    name, file = str(listed.value).splitlines()[2].split()
    for reference in (name, file, hostile.file, f"inbox/{file}", hostile.digest[:12], hostile.key):
        assert state.find_batch(reference) == hostile


def test_batch_is_found_by_file_digest_or_key(line):
    kept(line, 4, batch(1), batch(2))
    state = line.state()
    for reference in ("2.jsonl", "inbox/2.jsonl", batch(2).digest[:8], batch(2).key):
        assert state.find_batch(reference) == batch(2)
    with pytest.raises(
        UsageError, match="'nonsense' matches 0 of the batches that rounds have used"
    ):
        state.find_batch("nonsense")


# --- the files ----------------------------------------------------------------------------------


def test_changed_entry_is_detected(line):
    """Even in the last entry, whose digest no later entry holds."""
    last = sorted(line.ledger.folder.iterdir())[-1]
    last.write_text(last.read_text().replace("merge-start", "merge-other"))
    with pytest.raises(ArtifactError, match=r"00000001.json is damaged"):
        line.state()


def test_any_flipped_bit_of_the_last_entry_is_detected(line):
    last = sorted(line.ledger.folder.iterdir())[-1]
    intact = last.read_bytes()
    for at in range(len(intact)):
        damaged = bytearray(intact)
        damaged[at] ^= 1 << at % 8
        last.write_bytes(damaged)
        with pytest.raises(ArtifactError, match="is damaged"):
            line.state()


def test_replaced_entry_is_detected_by_the_next_one(line):
    kept(line, 4, batch(1))
    first, entry = sorted(line.ledger.folder.iterdir())[0], line.ledger.read()[0]
    other = Started(head=champion("other"), rounds=3)
    first.write_bytes(entry.model_copy(update={"event": other}).encoded())
    with pytest.raises(ArtifactError, match=r"00000002.json does not follow the previous entry"):
        line.state()


def test_missing_entry_is_detected(line):
    kept(line, 4, batch(1))
    sorted(line.ledger.folder.iterdir())[1].unlink()
    with pytest.raises(ArtifactError, match="the ledger was edited"):
        line.state()


def test_leftovers_of_a_killed_writer_are_not_an_entry(line):
    (line.ledger.folder / ".00000002.json.7-1").write_text('{"number": 2')
    assert line.state().champion == champion("start")
    assert kept(line, 4, batch(1)).champion == champion(4)


def test_entry_is_readable_json(line):
    kept(line, 4, batch(1))
    last = json.loads(sorted(line.ledger.folder.iterdir())[-1].read_text())
    assert last["number"] == 3
    assert last["event"]["name"] == "closed"
    assert last["event"]["fate"] == "kept"
