"""A whole run under `compose: {name: stack}`: SFT and two rounds on the tiny model, in fp32.

Training runs in child processes, the rest in this one, so a handover compares what one process
wrote with what another reads. One training is killed midway.
"""

import json
import math
import signal

import pytest

from alignment.compose.export import open_for_chat
from alignment.execution.run_step import run_step
from alignment.models.load import open_model
from alignment.pipeline.plan import plan
from alignment.records.evaluation import EvalReport
from alignment.records.refs import AdapterRef, ModelRef
from alignment.scoring.probe import PROBE_FILE, Probe, divergence
from tests.alignment.elsewhere import Elsewhere, children, finish

HANDOVERS = ("stack-sft", "stack-dpo-1", "stack-dpo-2")


def model(run, name):
    return ModelRef.model_validate(run.records[name].output)


def test_every_handover_is_exact(stacked):
    """0 nats from the probe that another process recorded at the end of training."""
    for name in HANDOVERS:
        metrics = stacked.records[name].metrics
        assert (metrics["mean_abs_logprob"], metrics["kl"], metrics["top1"]) == (0, 0, 1), name


def test_freezing_the_trained_adapter_changes_rounding_only(stacked):
    for name in ("sft", "dpo-1", "dpo-2"):
        assert 0 <= stacked.records[name].metrics["freezing_gap"] < 1e-5


def test_each_round_adds_one_adapter_to_the_same_base(stacked):
    base = model(stacked, "base")
    stages = {name: [a.stage for a in model(stacked, name).adapters] for name in HANDOVERS}
    assert stages == {
        "stack-sft": ["sft"],
        "stack-dpo-1": ["sft", "dpo-1"],
        "stack-dpo-2": ["sft", "dpo-1", "dpo-2"],
    }
    assert {model(stacked, name).base.sha256 for name in HANDOVERS} == {base.base.sha256}
    for name, policy in (("dpo-1", "stack-sft"), ("dpo-2", "stack-dpo-1")):
        ref = AdapterRef.model_validate(stacked.records[name].output)
        assert ref.trained_on == model(stacked, policy).ref_hash


def test_a_handover_writes_no_weights(stacked):
    for name in HANDOVERS:
        assert stacked.records[name].files == ()


def test_the_reference_of_a_round_is_the_model_of_the_round_before_exactly(stacked):
    """Without the newest adapter: bit for bit the log-probs of the previous round's probe."""
    ref = model(stacked, "stack-dpo-2").reference()
    assert ref == model(stacked, "stack-dpo-1")
    loaded = open_model(ref, stacked.store, dtype="float32")
    probe = Probe.load(stacked.store.folder(stacked.records["dpo-1"].key) / PROBE_FILE)
    assert divergence(probe, loaded.model)["mean_abs_logprob"] == 0


def test_every_round_starts_with_the_loss_of_equal_models(stacked):
    for name in ("dpo-1", "dpo-2"):
        folder = stacked.store.folder(stacked.records[name].key)
        rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
        first, *_, last = [row["loss"] for row in rows if "loss" in row]
        assert first == pytest.approx(math.log(2), abs=1e-6)
        assert abs(last - first) > 1e-4


def test_a_second_run_builds_nothing(stacked):
    assert {planned.status for planned in plan(stacked.chain, stacked.store)} == {"SKIP"}
    again = {step.name: run_step(stacked.store, step) for step in stacked.chain.steps()}
    assert again == stacked.records


def test_stacked_and_merged_runs_in_fp32_end_at_the_same_evaluation(stacked, finished):
    """W x + b (a x) against (W + b a) x, through SFT and two rounds of training on each.

    Rounding differs from the first step on, and training carries the difference along. The
    continuous metrics agree to three digits, and training moves them by far more than that.
    """
    for name in ("evaluate-sft", "evaluate-round-1", "evaluate-round-2"):
        one, other = (
            EvalReport.model_validate(run.records[name].output).overall
            for run in (stacked, finished)
        )
        base = EvalReport.model_validate(finished.records["evaluate-base"].output).overall
        for metric in ("nll", "kl_from_base"):
            assert one[metric].value == pytest.approx(other[metric].value, rel=1e-3), (name, metric)
        assert abs(one["nll"].value - base["nll"].value) > 0.01


@pytest.mark.slow
def test_a_killed_round_on_a_stack_ends_with_the_weights_of_one_that_was_not(stacked, tmp_path):
    elsewhere = Elsewhere(stacked, "dpo-2", tmp_path / "elsewhere")
    with elsewhere.running() as process:
        elsewhere.await_checkpoint(process)
        (child,) = children(process)
        child.send_signal(signal.SIGKILL)
        code, output = finish(process)
    assert code == 75, output
    assert elsewhere.sealed()
    code, output = elsewhere.run()
    assert code == 0, output
    for file in ("adapter/adapter_model.safetensors", PROBE_FILE):
        undisturbed = stacked.store.folder(elsewhere.step.key) / file
        assert elsewhere.file(file) == undisturbed.read_bytes(), file


def test_a_stack_can_be_talked_to(stacked):
    reply = open_for_chat(stacked.store, stacked.records["stack-dpo-2"], max_new_tokens=4)
    assert isinstance(reply([("user", "Is it so?")]), str)
