"""What a person is told who changes a line of rounds from a shell. No model is loaded."""

import sys

import pytest

from alignment.config.pipeline import PipelineConfig
from alignment.evaluate.settings import AnchoredGate, PlainGate
from alignment.execution.run_step import run_step
from alignment.pipeline.steps import AnchorGate, ParentGate
from alignment.rounds.identity import identity_of
from alignment.rounds.ledger import Champion, OutcomeName
from alignment.rounds.line import RoundLine
from alignment.store.store import Store
from flows.cli import main
from tests.alignment.artifacts import put, put_evaluation
from tests.alignment.rounds.lines import batch
from tests.faults.simulate import MODEL


@pytest.fixture
def sft_dpo(monkeypatch, capsys):
    """Run a command in this process: its exit code, and what it printed."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["sft-dpo", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return ended.value.code, said.out + said.err

    return run


def judged(label):
    key = label.replace(" ", "")
    return Champion(model=f"merge-{key}", evaluation=f"evaluate-{key}", label=label)


def judge(store, name, gate, outcome: OutcomeName):
    """A line whose first round this gate has judged."""
    run_step(store, gate)
    line = RoundLine(store=store, name=name)
    line.start(judged("sft"), rounds=0)
    line.open((batch(1),))
    said = " ".join(store.open(gate.key).notes)
    line.close(1, judged("round 1"), outcome=outcome, why=said, gate=gate.key)


@pytest.fixture
def store(tmp_path):
    """Two lines that trained the same model in their first round, and judged it by other rules."""
    store = Store(root=tmp_path / "runs")
    for label, right in (("sft", 400), ("round 1", 396)):
        one = judged(label)
        put(store, one.model, output={**MODEL, "derived_from": label})
        put_evaluation(
            store,
            one.evaluation,
            label,
            right=right,
            of=600,
            parents={"model": one.model},
            config={"config": {"max_new_tokens": 8}},
        )
    put(store, batch(1).key)
    compared = {
        "name": "gate-1",
        "candidate": "merge-round1",
        "evaluation": "evaluate-round1",
        "champion": "merge-sft",
        "against": "evaluate-sft",
    }
    anchored = AnchorGate(
        config=AnchoredGate(margin=0.005), anchor="evaluate-sft", look=1, **compared
    )
    plain = ParentGate(config=PlainGate(), **compared)
    judge(store, "strict", anchored, "inconclusive")
    judge(store, "lax", plain, "kept")
    return store


def test_a_model_of_two_lines_has_the_verdict_of_each(store, sft_dpo):
    _, said = sft_dpo("show", "--store", store.root)
    assert "round 1: inconclusive (anchored gate): " in said
    assert "round 1: kept (plain gate): " in said
    code, said = sft_dpo("verdict", "champion:lax", "--store", store.root)
    assert (code, said.splitlines()[-1][:10]) == (0, "plain gate")
    _, said = sft_dpo("promote", "round 1", "--line", "strict", "--store", store.root)
    assert "as judged in round 1: round 1 is inconclusive, sft stays: " in said
    code, said = sft_dpo("verdict", "champion:strict", "--store", store.root)
    assert code == 3, "a person promoted it, and its verdict is still the line's"
    assert "anchored gate, repeated from" in said


def test_a_label_is_that_of_the_line_that_is_named(store, sft_dpo):
    """Every line numbers its rounds from one."""
    line = RoundLine(store=store, name="third")
    line.start(judged("sft"), rounds=0)
    line.open((batch(1),))
    put(store, "merge-third", output={**MODEL, "derived_from": "third"})
    own = Champion(model="merge-third", evaluation="evaluate-sft", label="round 1")
    line.close(1, own, outcome="rejected", why="any")
    code, _ = sft_dpo("promote", "round 1", "--line", "strict", "--store", store.root)
    assert code == 0
    champion = RoundLine(store=store, name="strict").state().champion
    assert champion == judged("round 1")


def test_a_model_that_its_line_never_judged_has_no_verdict_there(store, sft_dpo):
    other = RoundLine(store=store, name="other")
    other.start(judged("sft"), rounds=0)
    _, said = sft_dpo("promote", "round 1", "--line", "other", "--store", store.root)
    assert "line other has not judged round 1: no round of it trained this model" in said
    code, said = sft_dpo("verdict", "champion:other", "--store", store.root)
    assert code == 2
    assert "line other has not judged its champion, round 1: a person promoted it" in said


def test_a_round_that_waits_outlives_a_confirmation_but_not_another_champion(store, sft_dpo):
    line = RoundLine(store=store, name="waits")
    line.start(judged("sft"), rounds=0)
    line.open((batch(1),))
    line.close(1, judged("round 1"), outcome="waiting", why="passed")
    where = ("--line", "waits", "--store", store.root)
    sft_dpo("promote", "champion:waits", *where)
    assert line.state().waiting is not None
    put(store, "merge-other", output={**MODEL, "derived_from": "other"})
    line.promote(Champion(model="merge-other", evaluation="evaluate-sft", label="other"), "any")
    assert line.state().waiting is None


def test_a_rollback_says_that_a_round_no_longer_waits(store, sft_dpo):
    line = RoundLine(store=store, name="lax")
    put(store, batch(2).key)
    line.open((batch(2),))
    put(store, "merge-round2", output={**MODEL, "derived_from": "round 2"})
    line.close(2, judged("round 2"), outcome="waiting", why="passed")
    code, said = sft_dpo("rollback", "--line", "lax", "--store", store.root)
    assert code == 0
    assert "round 2 no longer waits for approval" in said


def test_adopting_another_base_says_that_no_round_starts_from_it(
    tiny_settings, write_config, tmp_path, sft_dpo
):
    hub = {"name": "hub", "id": "someone/tiny", "revision": "0" * 40}
    settings = {**tiny_settings, "model": hub, "inbox": {"path": str(tmp_path)}}
    config = write_config(settings)
    line = RoundLine(store=Store(root=tiny_settings["store"]))
    described = identity_of(PipelineConfig.model_validate(settings))
    line.start(judged("sft"), rounds=0, identity=described)
    _, said = sft_dpo("line", "adopt", config, "--set", "gate.max_length_growth=2")
    assert "start no round" not in said
    _, said = sft_dpo("line", "adopt", config, "--set", "model.id=someone/large")
    assert "model: the line has someone/tiny@" in said
    assert "the model, quantisation and SFT of this config start no round" in said
