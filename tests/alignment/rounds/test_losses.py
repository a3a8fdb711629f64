"""A ledger that loses its last entries still matches itself; artifacts made after them do not."""

import pytest

from alignment.rounds.losses import lost_entries
from flows.commands.show import show_store
from tests.alignment.rounds.played import EveryRoundIsKept, changed, drop, round_


@pytest.fixture
def history(tmp_path):
    """A line that has kept two rounds, between which a person approved the first."""
    made = EveryRoundIsKept(0, tmp_path)
    made.config = changed(made.config, inbox={"promotion": {"name": "gate"}})
    drop(made, "monday.jsonl")
    round_(made)
    champion = made.line.state().champion
    assert champion is not None
    made.line.promote(champion, "it is good")
    drop(made, "tuesday.jsonl")
    round_(made)
    return made


def entries(history):
    return sorted(history.line.ledger.folder.glob("*.json"))


def test_a_ledger_that_is_whole_has_lost_nothing(history):
    names = [entry.event.name for entry in history.line.ledger.read()]
    assert names == ["started", "adopted", "opened", "closed", "moved", "opened", "closed"]
    assert lost_entries(history.store) == ()


def test_entries_lost_before_something_was_made_are_said_by_round_and_show(history, capsys):
    for entry in entries(history)[4:]:  # with the promotion, after which a batch was copied
        entry.unlink()
    assert history.line.ledger.read()[-1].event.name == "closed", "the rest matches itself"
    (loss,) = lost_entries(history.store)
    assert "the ledger of line 'main' has lost entries" in loss
    assert "was made after entry 5, which is no longer there" in loss
    assert loss in round_(history).message
    show_store(None, history.store.root, lineage=False, as_json=False)
    assert loss in capsys.readouterr().err


def test_another_entry_in_the_place_of_a_lost_one_does_not_hide_it(history):
    for entry in entries(history)[4:]:
        entry.unlink()
    for _ in range(3):
        champion = history.line.state().champion
        other = champion.model_copy(update={"label": champion.label + "!"})
        history.line.promote(other, "another history")
    assert len(entries(history)) >= 5
    assert "after entry 5" in lost_entries(history.store)[0]


def test_a_whole_line_that_is_lost_is_noticed(history):
    for entry in entries(history):
        entry.unlink()
    history.line.ledger.folder.rmdir()
    assert "line 'main'" in lost_entries(history.store)[0]


def test_an_entry_lost_after_everything_was_made_is_not_noticed(history):
    """The limit that docs/rounds.md states."""
    entries(history)[-1].unlink()
    assert lost_entries(history.store) == ()
