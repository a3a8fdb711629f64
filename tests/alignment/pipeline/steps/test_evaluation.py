"""What is evaluated is what is exported, and its distance from what was trained is known."""

import pytest

from alignment.compose.export import export
from alignment.config.pipeline import PipelineConfig
from alignment.execution.run_step import build
from alignment.pipeline.chain import chain
from alignment.store.progress import Progress
from alignment.store.store import Store
from tests import tiny


@pytest.fixture(params=["merge", "stack"])
def in_four_bits(request, tiny_model_folder, make_adapter, tmp_path):
    """The steps of a run in NF4 up to the evaluation of its SFT adapter, and their records."""
    make_adapter("sft", seed=1)
    settings = tiny.settings(tiny_model_folder, tmp_path / "store")
    settings["sft"] = {"name": "adapter", "path": str(tmp_path / "sft")}
    settings["quantisation"] = {"kind": "nf4", "compute_dtype": "float32"}
    settings["compose"] = {"name": request.param}
    settings["rounds"][0]["data"]["held_out_share"] = 0.5
    woven = chain(PipelineConfig.model_validate(settings))
    store = Store(root=tmp_path / "store")
    assert woven.held_out is not None
    assert woven.sft is not None
    data = [round_.pairs for round_ in woven.rounds]
    models = (woven.sft, woven.handover, woven.evaluate_base, woven.evaluate_sft)
    steps = (woven.base, woven.held_out, *data, *models)
    return store, {step.name: build(store, step, Progress()) for step in steps}


def test_a_model_trained_in_four_bits_is_judged_as_it_is_exported(in_four_bits, tmp_path):
    """In full weights, at the same distance from training in the record and in the export.

    The hand-over's distance is of what the next stage loads, in four bits again: another one.
    """
    store, records = in_four_bits
    judged = records["evaluate-sft"].metrics
    (handed_over,) = (r for name, r in records.items() if name in ("merge-sft", "stack-sft"))
    said = export(store, handed_over, tmp_path / "out", dtype=None)
    assert said.from_trained is not None
    shown = {name: judged[f"{name}_from_training"] for name in said.from_trained}
    assert shown == pytest.approx(said.from_trained, rel=0.05)
    assert judged["kl_from_training"] > 1e-5
    handed = {name: handed_over.metrics[name] for name in said.from_trained}
    assert handed != pytest.approx(said.from_trained, rel=0.05)


def test_a_base_was_not_trained(in_four_bits):
    _, records = in_four_bits
    assert not [name for name in records["evaluate-base"].metrics if name.endswith("_training")]
