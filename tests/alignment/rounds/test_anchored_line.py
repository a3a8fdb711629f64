"""A line whose gate compares with an anchor: what is measured again, and what is lost."""

import json

import pytest

from alignment.errors import ArtifactError
from alignment.pipeline.steps import AnchorGate, TrainDpo
from alignment.rounds.identity import identity_of
from alignment.rounds.ledger import Champion
from tests.alignment.rounds.played import EveryRoundIsKept, changed, drop, round_
from tests.faults.simulate import imitation


class DecidesByAnchor(EveryRoundIsKept):
    def build(self, step):
        if step.stage != "anchored":
            return super().build(step)
        if self.store.reuse(step.key) is None:
            workspace = self.store.workspace(step.key)
            self.store.commit(imitation(step, output=self.verdict(step)), workspace)
        return None


@pytest.fixture
def anchored(tmp_path):
    """A line under the anchored gate, with one kept round and a suite from a file."""
    made = DecidesByAnchor(0, tmp_path)
    suite = tmp_path / "suite.jsonl"
    suite.write_text(json.dumps({"prompt": "2 + 2?", "verifier": four}) + "\n")
    evaluation = made.config.model_dump(mode="json", exclude_unset=True)["evaluation"]
    made.config = changed(
        made.config,
        evaluation={**evaluation, "suites": [{"name": "file", "path": str(suite)}]},
        gate={"name": "anchored"},
        inbox={"promotion": {"name": "gate"}},
    )
    drop(made, "a.jsonl")
    assert round_(made).outcome == "kept"
    return made


four = {"name": "last_number", "number": 4}


def compared(history, name):
    """The evaluations that a gate compared: of the round, its parent and the anchor."""
    (gate,) = [record for record in history.store.records() if record.name == name]
    return [history.store.open(gate.parents[r]) for r in ("evaluation", "against", "anchor")]


def test_models_are_measured_again_where_a_file_of_a_suite_changed(anchored):
    before = compared(anchored, "gate-1")[0].config["benchmarks"]
    (suite,) = anchored.config.evaluation.suites
    suite.path.write_text(json.dumps({"prompt": "2 + 2?", "verifier": {**four, "number": 5}}))
    drop(anchored, "b.jsonl")
    assert round_(anchored).outcome == "kept"
    (now,) = {record.config["benchmarks"] for record in compared(anchored, "gate-2")}
    assert now != before


def test_the_anchor_too_is_measured_under_an_adopted_evaluation(anchored):
    evaluation = anchored.config.model_dump(mode="json", exclude_unset=True)["evaluation"]
    other = changed(anchored.config, evaluation={**evaluation, "max_new_tokens": 7})
    anchored.line.adopt(identity_of(other), "shorter replies")
    drop(anchored, "b.jsonl")
    assert round_(anchored, other).outcome == "kept"
    assert [r.config["config"]["max_new_tokens"] for r in compared(anchored, "gate-2")] == [7, 7, 7]


def approve(history):
    history.line.promote(history.line.state().champion, "read ten replies")


def during(history, kind, act):
    """A build after which something happens once, when it has built a step of this kind."""
    left = [act]

    def build(step):
        history.build(step)
        if isinstance(step, kind) and left:
            left.pop()(history)

    return build


def test_a_round_is_judged_from_the_model_that_was_approved_while_it_was_trained(anchored):
    drop(anchored, "b.jsonl")
    assert round_(anchored, build=during(anchored, TrainDpo, approve)).outcome == "kept"
    _, parent, anchor = compared(anchored, "gate-2")
    assert anchor == parent, "not from the line's first model"
    state = anchored.line.state()
    (gate,) = [record for record in anchored.store.records() if record.name == "gate-2"]
    assert (gate.config["look"], state.looks) == (1, 1)
    assert state.history[-1][1].gate == gate.key


def test_a_verdict_from_a_model_that_is_no_longer_the_anchor_decides_nothing(anchored):
    drop(anchored, "b.jsonl")
    champion = anchored.line.state().champion
    done = round_(anchored, build=during(anchored, AnchorGate, approve))
    assert done.outcome == "overtaken"
    assert done.message.startswith("the champion or the anchor changed meanwhile; ")
    assert (done.state.champion, done.state.looks) == (champion, 0)
    assert round_(anchored).outcome == "kept", "with the same batch"


@pytest.fixture
def ahead(anchored):
    """A line with an anchor that its rounds did not make, a later champion, and a batch to come."""
    anchored.put("merge-9", {"policy": "base-0"})
    anchored.put("evaluate-9", {"model": "merge-9", "data 1": "base-0"})
    anchored.line.promote(Champion(model="merge-9", evaluation="evaluate-9", label="nine"), "any")
    drop(anchored, "b.jsonl")
    assert round_(anchored).outcome == "kept"
    drop(anchored, "c.jsonl")
    return anchored


def test_a_damaged_evaluation_of_the_anchor_is_made_again(ahead):
    approve(ahead)
    anchor = ahead.line.state().anchor
    assert round_(ahead).outcome == "kept"
    (ahead.store.folder(anchor.evaluation) / "weights").write_text("other")
    drop(ahead, "d.jsonl")
    assert round_(ahead).outcome == "kept"
    assert ahead.store.open(anchor.evaluation).key == anchor.evaluation


def test_a_line_goes_on_when_rows_of_its_first_evaluation_are_damaged(ahead):
    (ahead.store.folder("evaluate-0") / "weights").write_text("other")
    assert round_(ahead).outcome == "kept"


def test_an_anchor_that_is_lost_is_said_before_a_batch_is_claimed(ahead):
    (ahead.store.folder("evaluate-9") / "weights").write_text("other")
    before = ahead.line.ledger.read()
    said = r"(?s)evaluate-9, .* the anchor of .* cannot be built .* promote champion --line main"
    with pytest.raises(ArtifactError, match=said):
        round_(ahead)
    assert ahead.line.ledger.read() == before
    approve(ahead)
    assert round_(ahead).outcome == "kept"
