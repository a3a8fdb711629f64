"""Replay of earlier pairs."""

import pytest

from alignment.data.build.replay import add_replay
from alignment.data.build.report import PreparationReport, Prepared
from alignment.records.refs import DataRef
from alignment.records.text import Message, PreferencePair
from alignment.store.jsonl import read_rows


def pairs(name, count):
    return [
        PreferencePair.of(
            (Message(role="user", content=f"{name} {number}"),),
            chosen=(Message(role="assistant", content="yes"),),
            rejected=(Message(role="assistant", content="no"),),
            task_type="any",
            source=name,
        )
        for number in range(count)
    ]


@pytest.fixture
def written(tmp_path):
    """A function that writes `new` pairs, replays old ones, and returns the pairs on disk."""

    def write(new, trained, share, salt="0"):
        lines = "".join(pair.model_dump_json() + "\n" for pair in pairs("new", new))
        (tmp_path / "train.jsonl").write_text(lines)
        ref = DataRef(
            kind="pairs",
            train="train.jsonl",
            held_out="held_out.jsonl",
            quarantine="quarantine.jsonl",
            kept=new,
            held=0,
        )
        prepared = Prepared(ref, PreparationReport(sources=()))
        made = add_replay(prepared, trained, share=share, salt=salt, out=tmp_path)
        found = list(read_rows(tmp_path / "train.jsonl", PreferencePair))
        assert made.ref.kept == len(found)
        return found

    return write


@pytest.mark.parametrize(
    ("new", "share", "old"), [(12, 0.25, 4), (30, 0.1, 3), (10, 0.5, 10), (10, 0.0, 0), (0, 0.5, 0)]
)
def test_share_is_of_all_training_rows(written, new, share, old):
    """old / (new + old) = share, so old = new * share / (1 - share)."""
    found = written(new, {"round 1": pairs("old", 50)}, share)
    assert [pair.source for pair in found] == ["new"] * new + ["old"] * old


def test_no_more_pairs_are_replayed_than_exist_and_none_twice(written):
    old = pairs("old", 3)
    found = written(10, {"round 1": old, "round 2": old}, 0.9)
    assert sorted(pair.id for pair in found[10:]) == sorted(pair.id for pair in old)


def test_salt_determines_which_rows_are_replayed(written):
    old = {"round 1": pairs("old", 50)}
    picks = [{p.id for p in written(12, old, 0.25, salt=salt)[12:]} for salt in ("0", "0", "1")]
    assert picks[0] == picks[1] != picks[2]
