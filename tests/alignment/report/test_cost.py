import pytest

from alignment.records.manifest import Attempt
from alignment.report.cost import cost_of, cost_table
from alignment.report.page import render
from tests.alignment.report.conftest import record

GPU = {"hardware": {"gpu": "NVIDIA A100", "device": "NVIDIA A100"}}


def test_time_counts_unfinished_attempts_and_only_steps_on_a_gpu_have_gpu_hours():
    died = Attempt(started="2026-01-01T00:00:00Z", seconds=1800.0, libraries={})
    records = [
        record("pairs-1", "pairs", seconds=60.0, **GPU),
        record("dpo-1", "dpo", seconds=1800.0, earlier=(died,), key="dpo-1", **GPU),
        record("dpo-2", "dpo", seconds=3600.0, key="dpo-2", **GPU),
    ]
    data, dpo = cost_of(records, {"dpo-1": 1000, "dpo-2": 500})
    assert (data.seconds, data.tokens, data.gpu_hours) == (60.0, None, 0.0)
    assert (dpo.seconds, dpo.tokens, dpo.gpu_hours) == (7200.0, 1500, 2.0)
    total = [cell.text for cell in cost_table([data, dpo]).rows[-1]]
    assert total == ["total", "2 h 01 min", "100%", "1,500", "2.00"]


def test_trained_tokens_are_the_last_count_and_evaluated_ones_are_scored_or_generated(run):
    history = ({"step": 1, "num_tokens": 100.0}, {"step": 2, "num_tokens": 230.0}, {"step": 2})
    report = run.model_copy(
        update={
            "histories": {"dpo-1": history},
            "records": (
                record("dpo-1", "dpo", key="dpo-1"),
                record(
                    "evaluate-sft",
                    "evaluate",
                    key="evaluate-1",
                    parents={"model": "merge-1"},
                    output=run.evaluations[1].model_dump(mode="json"),
                ),
            ),
        }
    )
    dpo, evaluation = report.cost
    scored = sum(pair.chosen_tokens + pair.rejected_tokens for pair in run.pairs["sft"])
    assert dpo.tokens == 230
    assert evaluation.tokens == scored + sum(reply.tokens for reply in run.generations["sft"])
    assert f"{evaluation.tokens:,}" in render(report)
    assert report.numbers.cost == (dpo, evaluation)


def test_the_next_commands_name_the_final_model_and_its_store(run):
    report = run.model_copy(update={"models": {"round 2": "merge-abc"}, "store": "/a b/runs"})
    page = render(report)
    assert "sft-dpo chat merge-abc --store &#39;/a b/runs&#39;" in page
    assert report.numbers.next == report.commands
    assert not run.commands


@pytest.mark.parametrize("final", ["sft", "round 9"])
def test_a_model_without_a_key_has_no_commands(run, final):
    models = {"round 2": "merge-abc"}
    assert run.model_copy(update={"models": models, "final": final}).commands == ()
