"""Rounds whose reference is the anchor: their steps, and their margins computed by hand."""

import json

import pytest
import torch
from safetensors.torch import load_file

from alignment.config.pipeline import PipelineConfig
from alignment.errors import Interrupted
from alignment.execution.run_step import build
from alignment.models.chat_template import render
from alignment.models.load import open_model
from alignment.pipeline.chain_builder import chain
from alignment.pipeline.step import data_of, model_of, rows_of
from alignment.records.text import PreferencePair
from alignment.store.progress import Progress
from alignment.store.store import Store

ENGINES = ({"name": "stock"}, {"name": "packed", "tokens_per_micro_batch": 150})


@pytest.fixture
def settings(tiny_settings):
    tiny_settings.update(sft={"name": "none"}, control=None, gate=None)
    tiny_settings["dpo"] |= {"reference": "anchor", "warmup_ratio": 0.0, "samples": 0}
    return tiny_settings


def steps_of(settings):
    return {step.name: step for step in chain(PipelineConfig.model_validate(settings)).steps()}


def test_only_rounds_that_start_from_another_model_score_their_pairs_first(settings):
    steps = steps_of(settings)
    assert [name for name in steps if name.startswith("reference")] == ["reference-2"]
    assert steps["reference-2"].model == steps["merge-sft"].key
    settings["dpo"]["reference"] = "round_start"
    ordinary = steps_of(settings)
    assert "reference-2" not in ordinary
    assert "reference" not in ordinary["dpo-2"].model_dump_json()


def test_a_loss_without_a_reference_is_refused(settings):
    settings["dpo"] |= {"loss": {"name": "simpo"}, "engine": {"name": "packed"}}
    with pytest.raises(ValueError, match="loss simpo has no reference; remove `reference`"):
        PipelineConfig.model_validate(settings)


def by_hand(store, key, pairs):
    """log p(chosen) - log p(rejected) of each pair under a model, one reply at a time."""
    loaded = open_model(model_of(store, key), store, dtype="float32")
    found = {}
    for pair in pairs:
        prompt = render(loaded.tokenizer, pair.prompt, add_generation_prompt=True)
        sums = []
        for reply in (pair.chosen, pair.rejected):
            ids = render(loaded.tokenizer, (*pair.prompt, *reply))[:-1]  # a newline ends ChatML
            with torch.no_grad():
                logprobs = loaded.model(torch.tensor([ids])).logits[0].log_softmax(-1)
            rows = range(len(prompt), len(ids))
            sums.append(sum(float(logprobs[row - 1, ids[row]]) for row in rows))
        found[pair.id] = sums[0] - sums[1]
    return found


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine["name"])
def test_margins_are_those_of_policy_and_anchor_also_after_a_stop(settings, engine):
    settings["dpo"]["engine"] = engine
    store, steps = Store(root=settings["store"]), steps_of(settings)
    needed = [name for name in steps if name.split("-")[0] != "evaluate"]
    for name in needed[: needed.index("dpo-2")]:
        build(store, steps[name], Progress())
    stopping = Progress()
    stopping.ask_to_stop()
    with pytest.raises(Interrupted, match="stopped at step 1"):
        build(store, steps["dpo-2"], stopping)
    build(store, steps["dpo-2"], Progress())
    folder = store.folder(steps["dpo-2"].key)

    first = json.loads((folder / "trained.jsonl").read_text().splitlines()[0])
    data = data_of(store, steps["pairs-2"].key)
    pairs = [p for p in rows_of(store, [data], "train", PreferencePair) if p.id in first["ids"]]
    policy, anchor = (by_hand(store, steps[n].key, pairs) for n in ("merge-dpo-1", "merge-sft"))
    expected = [0.1 * (policy[name] - anchor[name]) for name in first["ids"]]
    assert first["values"] == pytest.approx(expected, abs=2e-5)
    assert max(map(abs, expected)) > 1e-3
    history = map(json.loads, (folder / "history.jsonl").read_text().splitlines())
    losses = [row for row in history if "loss" in row]
    margins = torch.tensor(expected)
    assert losses[0]["loss"] == pytest.approx(float(-margins.sigmoid().log().mean()), abs=1e-5)

    other = steps["dpo-2"].model_copy(update={"name": "dpo-2-unstopped"})
    build(store, other, Progress())
    weights = [
        load_file(store.folder(key) / "adapter" / "adapter_model.safetensors")
        for key in (steps["dpo-2"].key, other.key)
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
