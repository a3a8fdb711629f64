"""Rounds that the gate cannot decide, that fail or that wait for a person."""

import pytest

from alignment.errors import ConfigError, DataError
from alignment.pipeline.steps import TrainDpo
from flows.line_printing import print_lines
from tests.alignment.rounds.played import changed, drop, failing, round_
from tests.faults.simulate import History, decided


class Undecided(History):
    """A line whose gate finds the same in every round."""

    finding = ""

    def verdict(self, step):
        output = decided(step, passed=False)
        output["verdict"]["checks"][0] = {"name": "rows", "finding": self.finding, "words": "few"}
        return output


@pytest.mark.parametrize("finding", ["inconclusive", "cannot be judged"])
def test_a_round_that_the_gate_could_not_decide_is_not_recorded_as_rejected(
    tmp_path, capsys, finding
):
    history = Undecided(0, tmp_path)
    history.finding = finding
    before = history.line.state().champion
    drop(history, "a.jsonl")
    done = round_(history)
    assert done.outcome == finding
    assert done.gate.startswith("gate-")
    state = history.line.state()
    assert [closed.fate for _, closed in state.history] == [finding]
    assert (state.champion, state.looks, len(state.spent)) == (before, 1, 1)
    print_lines(history.store, history.store.records())
    assert f"round 1: {finding} (plain gate): new " in capsys.readouterr().out


def test_a_round_that_fails_in_the_same_way_is_set_aside_and_the_line_goes_on(history):
    drop(history, "a.jsonl")
    build = failing(history, TrainDpo, DataError("the loss is NaN"))
    for _ in range(2):
        with pytest.raises(DataError, match="NaN"):
            round_(history, build=build)
    done = round_(history, build=build)
    assert done.outcome == "failed"
    assert "failed 3 times in the same way, so its batches are set aside: a.jsonl" in done.message
    assert [batch.file for batch in done.state.set_aside] == ["a.jsonl"]
    assert "set aside" in str(done.notes[0])
    drop(history, "b.jsonl")
    after = round_(history).state
    assert [[b.file for b in opened.batches] for opened, _ in after.lineage] == [["b.jsonl"]]


def test_different_failures_are_tried_again(history):
    drop(history, "a.jsonl")
    for attempt in range(5):
        error = DataError(f"failure {attempt}")
        with pytest.raises(DataError, match="failure"):
            round_(history, build=failing(history, TrainDpo, error))
    assert round_(history).outcome == "kept"


def test_a_failure_outside_the_round_is_not_counted(history):
    drop(history, "a.jsonl")
    for _ in range(5):
        with pytest.raises(ConfigError):
            round_(history, build=failing(history, TrainDpo, ConfigError("no such device")))
    assert history.line.state().failures == ()


def test_batches_of_a_failed_round_are_used_again_when_a_person_returns_them(history):
    path = drop(history, "a.jsonl")
    history.config = changed(history.config, inbox={"max_failures": 1})
    round_(history, build=failing(history, TrainDpo, DataError("the loss is NaN")))
    path.unlink()
    state = history.line.state()
    history.line.give_back(state.set_aside, "mended")
    assert round_(history).outcome == "kept", "from the store's copy"
    assert [b.file for b in history.line.state().history[-1][0].batches] == ["a.jsonl"]


def test_a_round_that_waits_says_how_to_approve_it(history, capsys):
    history.config = changed(history.config, inbox={"promotion": {"name": "person"}})
    drop(history, "a.jsonl")
    done = round_(history)
    assert done.outcome == "waiting"
    promote = f"waits for approval: sft-dpo promote {done.state.waiting.head.model}"
    assert promote in done.message
    assert promote in round_(history).message
    print_lines(history.store, history.store.records())
    assert promote in capsys.readouterr().out
    history.line.promote(done.state.waiting.head, "read ten replies")
    print_lines(history.store, history.store.records())
    assert "1 round from the inbox: 1 approved" in capsys.readouterr().out


def test_a_report_that_cannot_be_written_does_not_keep_the_round_open(history):
    drop(history, "a.jsonl")

    def report(_):
        raise OSError("no space left for the report")

    assert round_(history, report=report).outcome == "kept"
