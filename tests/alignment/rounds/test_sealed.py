"""What a person is told about the sealed rows before a promotion."""

import pytest

from alignment.rounds.ledger import Champion, Identity
from alignment.rounds.line import RoundLine
from alignment.rounds.sealed import on_sealed_rows
from alignment.store.store import Store
from tests.alignment.artifacts import put, put_evaluation


def champion(label):
    return Champion(model=f"merge-{label}", evaluation=f"evaluate-{label}", label=label)


def told(folder, gate):
    """The sentences on a model with 150 of 200 pairs right; the anchor has 100."""
    store = Store(root=folder)
    for label, right in (("sft", 100), ("new", 150)):
        put(store, f"merge-{label}")
        put_evaluation(store, f"evaluate-{label}", label, right=right, of=200)
    identity = Identity(model="m", quantisation=None, sft="", rows=(), evaluation={}, gate=gate)
    state = RoundLine(store=store).start(champion("sft"), rounds=0, identity=identity)
    return list(on_sealed_rows(store, state, champion("new")))


def test_promotion_tells_how_the_model_does_on_rows_that_chose_no_champion(tmp_path):
    """Half of 200 rows are sealed, and a quarter of all are won."""
    (sentence,) = told(tmp_path, {"name": "anchored", "sealed_share": 0.5})
    assert sentence.startswith("preference accuracy on the ")
    assert " sealed rows is 0.2" in sentence
    assert " above sft, at worst 0." in sentence


def test_few_sealed_rows_say_nothing(tmp_path):
    assert told(tmp_path, {"name": "anchored", "sealed_share": 0.05}) == [
        "no metric has 30 sealed rows, so they say nothing"
    ]


@pytest.mark.parametrize("gate", [None, {"name": "plain"}, {"name": "anchored"}])
def test_gate_that_seals_nothing_has_nothing_to_tell(tmp_path, gate):
    assert told(tmp_path, gate) == []
