"""The gate as a step: which model it passes on, and which champion it compares with."""

import pytest

from alignment.evaluate.settings import PlainGate
from alignment.evaluate.verdict import GateResult
from alignment.execution.run_step import run_step
from alignment.pipeline.steps import ParentGate, SftGate
from alignment.records.refs import ModelRef
from alignment.report.assemble import gather
from alignment.store.store import Store
from tests.alignment.artifacts import put_evaluation, put_model


@pytest.fixture
def store(tmp_path, tiny_ref):
    """Three models with different uris; they get 30, 10 and 20 of 40 pairs right."""
    store = Store(root=tmp_path)
    for label, right in (("sft", 30), ("round 1", 10), ("round 2", 20)):
        put_model(store, f"merge-{label[-1]}", tiny_ref, uri=f"folder:{label}")
        model = {"model": f"merge-{label[-1]}"}
        put_evaluation(store, f"evaluate-{label[-1]}", label, right=right, parents=model)
    return store


def gate(candidate, *, champion):
    return ParentGate(
        name="gate",
        config=PlainGate(),
        candidate=f"merge-{candidate}",
        evaluation=f"evaluate-{candidate}",
        champion=f"merge-{champion}",
        against=f"evaluate-{champion}",
    )


def passed_on(store, step):
    result = GateResult.model_validate(run_step(store, step).output)
    return result.model.base.uri, result.evaluation


def test_gate_passes_on_a_round_that_is_not_worse(store):
    assert passed_on(store, gate("2", champion="1")) == ("folder:round 2", "evaluate-2")


def test_gate_passes_on_the_champion_when_the_round_is_worse(store):
    step = gate("2", champion="t")
    assert passed_on(store, step) == ("folder:sft", "evaluate-t")
    (note,) = store.open(step.key).notes
    assert note.startswith("round 2 is rejected, sft stays: preference accuracy fell by 0.250")


@pytest.mark.parametrize("on_regression", ["keep_sft", "keep_base"])
def test_sft_that_is_not_worse_is_passed_on_without_a_note(store, on_regression):
    fields = gate("2", champion="1").model_dump(exclude={"stage"})
    step = SftGate.model_validate({**fields, "on_regression": on_regression})
    assert passed_on(store, step) == ("folder:round 2", "evaluate-2")
    record = store.open(step.key)
    assert (record.notes, record.metrics) == ((), {"kept": 1.0, "regression": 0.0})


def test_report_names_the_model_that_the_last_gate_passed_on(finished):
    report = gather(finished.store, finished.chain, config=finished.config, command="", timings={})
    passed = GateResult.model_validate(finished.records["gate-2"].output).model
    merges = {"sft": "merge-sft", "round 1": "merge-dpo-1", "round 2": "merge-dpo-2"}
    assert report.final is not None
    assert passed == ModelRef.model_validate(finished.records[merges[report.final]].output)
    assert [verdict.candidate for verdict in report.verdicts] == ["round 1", "round 2"]
    notes = " ".join(note for note in report.notes if note.startswith("The gate"))
    assert "round 1" in notes
    assert "round 2" in notes
