"""The trail of a line, found in a store from its last gate."""

import pytest

from alignment.evaluate.settings import AnchoredGate, PlainGate
from alignment.execution.run_step import run_step
from alignment.pipeline.steps import AnchorGate, ParentGate
from alignment.report.gates import gates_since_anchor, trail_in
from alignment.store.store import Store
from tests.alignment.artifacts import put_evaluation, put_model

RIGHT = {"sft": 30, "round 1": 32, "round 2": 10, "round 3": 33, "round 9": 34}
"""How many of 40 pairs each model gets right."""


@pytest.fixture
def store(tmp_path, tiny_ref):
    store = Store(root=tmp_path)
    for label, right in RIGHT.items():
        put_model(store, f"merge-{label[-1]}", tiny_ref, uri=f"folder:{label}")
        model = {"model": f"merge-{label[-1]}"}
        put_evaluation(store, f"evaluate-{label[-1]}", label, right=right, parents=model)
    return store


def judge(store, number, *, candidate, champion, anchor="t"):
    models = {
        "candidate": f"merge-{candidate}",
        "evaluation": f"evaluate-{candidate}",
        "champion": f"merge-{champion}",
        "against": f"evaluate-{champion}",
    }
    rule = AnchoredGate(margin=0.4, rounds=5)
    step = AnchorGate(
        name=f"gate-{number}", config=rule, anchor=f"evaluate-{anchor}", look=number, **models
    )
    return run_step(store, step)


def test_a_line_is_followed_back_to_its_anchor_with_the_rounds_that_were_not_kept(store):
    judge(store, 1, candidate="1", champion="t")
    judge(store, 2, candidate="2", champion="1")
    last = judge(store, 3, candidate="3", champion="1")
    trail = trail_in(store, gates_since_anchor(store, last))
    assert trail is not None
    assert (trail.anchor, trail.margin) == ("sft", 0.4)
    assert trail.rounds == ("round 1", "round 2", "round 3")
    differences = [point.difference for point in trail.points]
    assert differences == pytest.approx([2 / 40, -20 / 40, 3 / 40])
    assert [point.kept for point in trail.points] == [True, False, True]


def test_a_line_that_began_with_the_same_model_is_another_line(store):
    judge(store, 1, candidate="1", champion="t")
    judge(store, 1, candidate="9", champion="t")
    last = judge(store, 2, candidate="3", champion="1")
    trail = trail_in(store, gates_since_anchor(store, last))
    assert trail is not None
    assert trail.rounds == ("round 1", "round 3")


def test_rounds_before_the_anchor_are_left_out(store):
    judge(store, 1, candidate="1", champion="t")
    last = judge(store, 2, candidate="3", champion="1", anchor="1")
    trail = trail_in(store, gates_since_anchor(store, last))
    assert trail is not None
    assert (trail.anchor, trail.rounds) == ("round 1", ("round 3",))


def test_under_the_plain_gate_rounds_are_compared_with_the_first_champion(store):
    gates = [
        ParentGate(
            name=f"gate-{candidate}",
            config=PlainGate(),
            candidate=f"merge-{candidate}",
            evaluation=f"evaluate-{candidate}",
            champion=f"merge-{champion}",
            against=f"evaluate-{champion}",
        )
        for candidate, champion in (("1", "t"), ("3", "1"))
    ]
    trail = trail_in(store, [run_step(store, gate) for gate in gates])
    assert trail is not None
    assert (trail.anchor, trail.margin, trail.rounds) == ("sft", None, ("round 1", "round 3"))
    assert trail_in(store, []) is None
