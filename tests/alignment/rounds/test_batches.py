"""What a round makes of the files in its inbox."""

import json
import os

import pytest

from alignment.errors import DataError
from alignment.pipeline.steps import TrainDpo
from alignment.rounds.ledger import Champion
from alignment.rounds.line import RoundLine
from alignment.rounds.notes import read_notes
from tests.alignment.rounds.played import changed, drop, failing, round_


def test_every_unused_file_is_named_with_its_reason(history):
    drop(history, "a.jsonl")
    drop(history, "colours.jsonl", text='{"colour": 1}\n')
    drop(history, "notes.txt", text="hello")
    drop(history, "cut.jsonl", text='{"prompt":')
    os.mkfifo(history.inbox / "pipe.jsonl")
    done = round_(history)
    assert (done.outcome, done.refused) == ("kept", 1)
    named = {note.file.rpartition("/")[2]: note.why for note in done.notes}
    assert named["colours.jsonl"].startswith("refused: ")
    assert named["notes.txt"].startswith("ignored: ")
    assert named["cut.jsonl"] == "its last line is truncated"
    assert named["pipe.jsonl"] == "it is not a regular file"
    assert read_notes(history.line) == done.notes
    again = round_(history)
    assert (again.refused, again.notes) == (0, done.notes), "named every time, refused once"


def test_a_round_leaves_nothing_in_the_store_that_others_can_read(history):
    drop(history, "a.jsonl")
    drop(history, "notes.txt", text="hello")
    assert round_(history).outcome == "kept"
    assert not [path for path in history.store.root.rglob("*") if path.stat().st_mode & 0o077]


def test_a_round_that_ends_in_an_error_names_what_it_does_not_use_too(history):
    drop(history, "a.jsonl")
    drop(history, "notes.txt", text="hello")
    with pytest.raises(DataError) as failed:
        round_(history, build=failing(history, TrainDpo, DataError("the loss is NaN")))
    (note,) = read_notes(history.line)
    assert "notes.txt: ignored: " in str(note)
    assert str(failed.value) == f"the loss is NaN\nnot used: {note}"
    assert history.line.state().failures == ("the loss is NaN",)


def test_the_same_bytes_under_two_names_are_one_batch_with_the_first_name(history):
    text = drop(history, "b.jsonl").read_text()
    drop(history, "a.jsonl", text=text)
    round_(history)
    (batch,) = history.line.state().history[0][0].batches
    assert batch.file == "a.jsonl"


def test_a_missing_inbox_is_named(history):
    history.inbox.rmdir()
    (note,) = round_(history).notes
    assert note.why.startswith("the inbox is not there, so no file was looked at; make it")


def test_a_batch_refused_under_a_wrong_format_is_read_under_the_right_one(history):
    drop(history, "a.jsonl")
    wrong = changed(history.config, inbox={"format": {"name": "hh"}})
    assert round_(history, wrong).refused == 1
    assert round_(history).outcome == "kept"


def test_a_refused_batch_is_read_again_when_a_person_asks(history):
    drop(history, "a.jsonl", text='{"colour": 1}\n')
    assert round_(history).refused == 1
    refused = history.line.state().refused
    history.line.give_back(tuple(one.batch for one in refused.values()), "look again")
    done = round_(history)
    assert done.outcome == "no new data"
    assert refused.keys() == done.state.refused.keys(), "refused again, with a new entry"


def test_a_batch_that_cannot_be_prepared_is_refused_and_the_others_go_on(history):
    drop(history, "a.jsonl")
    drop(history, "b.jsonl", text='{"prompt": "poison", "chosen": "yes", "rejected": "no"}\n')

    def build(step):
        if step.stage == "intake" and any(
            "poison" in path.read_text()
            for key in step.batches
            for path in history.store.folder(key).glob("*.jsonl")
        ):
            raise ValueError("an error that no one knows")
        history.build(step)

    done = round_(history, build=build)
    assert (done.outcome, done.refused) == ("kept", 1)
    assert "an error that no one knows" in str(done.notes[0])


def test_a_file_named_like_a_manifest_is_a_batch_like_any_other(history):
    rows = [{"prompt": f"{n}", "chosen": "yes", "rejected": "no"} for n in range(20)]
    drop(history, "manifest.json", text=json.dumps(rows))
    assert round_(history).outcome == "kept"
    (batch,) = history.line.state().history[0][0].batches
    assert history.store.open(batch.key).output == {"file": "batch-manifest.json"}


def test_a_batch_revoked_on_another_line_is_not_taken(history):
    drop(history, "a.jsonl")
    round_(history)
    (batch,) = history.line.state().history[0][0].batches
    other = RoundLine(store=history.store, name="other")
    other.start(Champion(model="merge-0", evaluation="evaluate-0", label="start"), rounds=0)
    history.line.revoke(batch, "wrong labels")
    config = changed(history.config, inbox={"line": "other"})
    assert round_(history, config, line=other).outcome == "no new data"
