"""How much of the margin gained by rounds an arm keeps."""

import numpy as np
import pytest

from benchmarks.gain import figure, gain_kept
from benchmarks.quality import Quality
from benchmarks.stage import Stage


def quality(margin):
    return Quality(nll=2.0, nll_gain=0.0, accuracy=0.5, margin=margin)


def stage(arm, name, start, exported):
    return Stage(
        arm=arm,
        seed=0,
        stage=name,
        views={"start": quality(start), "exported bf16": quality(exported)},
        handover={},
        seconds=1,
        step_seconds=1,
        training_seconds=1,
        written=0,
        peak_gib=None,
    )


FOUND = [
    stage("merge bf16", "sft", 2.5, 0.2),
    stage("merge bf16", "dpo-1", 2.75, 0.45),
    stage("stack", "sft", 3.0, 0.2),
    stage("stack", "dpo-1", 3.125, 0.4),
]


def test_gain_kept_is_the_margin_above_the_stacks_after_sft():
    """The merge loses 3 - 2.5 = .5 at SFT; its round adds .25, and .25 below SFT remain."""
    merged = gain_kept(FOUND, "merge bf16", 0, "start")
    assert merged == {"sft": -0.5, "dpo-1": -0.25}
    assert gain_kept(FOUND, "stack", 0, "start") == {"sft": 0, "dpo-1": 0.125}


def test_an_exported_model_is_compared_with_the_exported_sft():
    """.45 - .2 = .25 and .4 - .2 = .2, though in four bits the merge is below the stack."""
    merged = gain_kept(FOUND, "merge bf16", 0, "exported bf16")
    assert merged == pytest.approx({"sft": 0, "dpo-1": 0.25})
    stacked = gain_kept(FOUND, "stack", 0, "exported bf16")
    assert stacked == pytest.approx({"sft": 0, "dpo-1": 0.2})


def test_the_figure_draws_every_arm_both_ways_on_one_scale():
    handed_over, exported = figure(FOUND).axes
    merged, stacked = (np.asarray(line.get_ydata()) for line in handed_over.lines[:2])
    assert [*merged, *stacked] == [-0.5, -0.25, 0, 0.125]
    assert len(exported.lines) == len(handed_over.lines)
    assert exported.get_ylim() == handed_over.get_ylim()
