"""The evaluated model is the exported one, and its distance from the trained one is recorded."""

from pathlib import Path

import pytest

from alignment.compose.export import export
from alignment.config.pipeline import PipelineConfig
from alignment.execution.run_step import build
from alignment.pipeline.chain_builder import chain
from alignment.store.progress import Progress
from alignment.store.store import Store
from tests import tiny


def steps_of(settings):
    """The steps of a run up to the evaluation of its SFT adapter."""
    planned = chain(PipelineConfig.model_validate(settings))
    assert planned.held_out is not None
    assert planned.sft is not None
    data = [round_.pairs for round_ in planned.rounds]
    models = (planned.sft, planned.handover, planned.evaluate_base, planned.evaluate_sft)
    return planned.base, planned.held_out, *data, *models


@pytest.fixture(params=["merge", "stack"])
def settings(request, tiny_model_folder, make_adapter, tmp_path):
    make_adapter("sft", seed=1)
    made = tiny.settings(tiny_model_folder, tmp_path / "store")
    made["sft"] = {"name": "adapter", "path": str(tmp_path / "sft")}
    made["compose"] = {"name": request.param}
    made["rounds"][0]["data"]["held_out_share"] = 0.5
    return made


@pytest.fixture
def in_four_bits(settings):
    """The store of an NF4 run up to the evaluation of its SFT adapter, and the records."""
    settings["quantisation"] = {"kind": "nf4", "compute_dtype": "float32"}
    store = Store(root=Path(settings["store"]))
    steps = steps_of(settings)
    return store, {step.name: build(store, step, Progress()) for step in steps}


def test_a_model_that_is_evaluated_as_it_was_handed_over_is_not_compared_twice(settings):
    """Without the probe, only the handover's record says how far it is from training."""
    store = Store(root=Path(settings["store"]))
    *before, evaluate = steps_of(settings)
    records = {step.name: build(store, step, Progress()) for step in before}
    for probe in store.root.rglob("probe.safetensors"):
        probe.unlink()
    found = build(store, evaluate, Progress()).metrics
    handed = records[f"{settings['compose']['name']}-sft"].metrics
    for name in ("mean_abs_logprob", "kl", "top1"):
        assert found[f"{name}_from_training"] == handed[name]


def test_a_model_trained_in_four_bits_is_evaluated_as_it_is_exported(in_four_bits, tmp_path):
    """In full weights, and record and export state the same distance from training.

    The distance recorded by the handover differs: it is for the model that the next stage loads,
    which is 4-bit again.
    """
    store, records = in_four_bits
    evaluated = records["evaluate-sft"].metrics
    (handover,) = (r for name, r in records.items() if name in ("merge-sft", "stack-sft"))
    exported = export(store, handover, tmp_path / "out", dtype=None)
    assert exported.from_trained is not None
    recorded = {name: evaluated[f"{name}_from_training"] for name in exported.from_trained}
    assert recorded == pytest.approx(exported.from_trained, rel=0.05)
    assert evaluated["kl_from_training"] > 1e-5
    handed = {name: handover.metrics[name] for name in exported.from_trained}
    assert handed != pytest.approx(exported.from_trained, rel=0.05)


def test_the_base_has_no_distance_from_training(in_four_bits):
    _, records = in_four_bits
    assert not [name for name in records["evaluate-base"].metrics if name.endswith("_training")]
