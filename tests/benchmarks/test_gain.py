"""The share of the stack's gain that an arm hands over."""

import pytest

from benchmarks.gain import gain_kept
from benchmarks.quality import Quality
from benchmarks.stage import Stage


def quality(**fields):
    return Quality(**{"nll": 2.0, "nll_gain": 0.0, "accuracy": 0.5, "margin": 0.0, **fields})


def stage(arm, name, trained, start):
    return Stage(
        arm=arm,
        seed=0,
        stage=name,
        views={"trained": trained, "start": start},
        hand_over={},
        seconds=1,
        step_seconds=1,
        training_seconds=1,
        written=0,
        peak_gib=None,
    )


def test_gain_kept_is_a_share_of_what_the_stack_gained():
    """SFT: .3 of .4 nats = .75. Round 1: the stack went from 1 to 5, the merge hands over 3: .5."""
    stacked = quality(nll_gain=0.4, margin=1.0), quality(margin=5.0)
    merged = quality(nll_gain=0.3, margin=0.5), quality(margin=3.0)
    found = [
        stage(arm, name, *([view] * 2))
        for arm, views in (("stack", stacked), ("merge bf16", merged))
        for name, view in zip(("sft", "dpo-1"), views, strict=True)
    ]
    assert gain_kept(found, "merge bf16", 0) == pytest.approx({"sft": 0.75, "dpo-1": 0.5})
    assert gain_kept(found, "stack", 0) == {"sft": 1, "dpo-1": 1}
