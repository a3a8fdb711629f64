"""What a run reads is what its keys say, even if files are overwritten while it is going on."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from alignment.config.pipeline import PipelineConfig
from alignment.errors import DataError, ModelError
from alignment.execution.run_step import build
from alignment.models.load import open_model
from alignment.models.tokenizer import open_tokenizer
from alignment.pipeline.chain_builder import chain
from alignment.pipeline.step import model_of
from alignment.store.progress import Progress
from alignment.store.store import Store
from tests import tiny


def said(role, content):
    return {"role": role, "content": content}


def write_chats(path, reply):
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"{n}?"},
                {"role": "assistant", "content": reply},
            ]
        }
        for n in range(20)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def planned(tiny_model_folder, tmp_path):
    """A chain, its store, and the model and data that it was planned with."""
    model, data = tmp_path / "model", tmp_path / "chats.jsonl"
    shutil.copytree(tiny_model_folder, model)
    write_chats(data, "yes")
    settings = tiny.settings(model, tmp_path / "store")
    settings["sft"]["data"]["sources"] = [{"name": "file", "path": str(data)}]
    settings["sft"]["data"]["near_duplicates"] = None
    config = PipelineConfig.model_validate(settings)
    return chain(config), Store(root=config.store), model, data


def change_weights(folder):
    weights = folder / "model.safetensors"
    tensors = {name: tensor + 1e-3 for name, tensor in load_file(weights).items()}
    save_file({name: tensor.to(torch.float32) for name, tensor in tensors.items()}, weights)


def test_a_file_that_changed_after_the_plan_is_not_stored_under_its_old_digest(planned):
    steps, store, _, data = planned
    for step in (steps.base, steps.held_out):
        build(store, step, Progress())
    write_chats(data, "no")
    with pytest.raises(DataError, match="a source was changed while the run was going on"):
        build(store, steps.conversations, Progress())
    assert store.find(steps.conversations.key) is None
    write_chats(data, "yes")
    build(store, steps.conversations, Progress())
    assert "no" not in (store.folder(steps.conversations.key) / "train.jsonl").read_text()


def test_weights_that_changed_after_the_plan_are_not_described_under_their_old_digest(planned):
    steps, store, model, _ = planned
    change_weights(model)
    with pytest.raises(ModelError, match="was changed since the run began"):
        build(store, steps.base, Progress())
    assert store.find(steps.base.key) is None


def test_a_base_that_was_overwritten_in_place_is_refused_wherever_it_is_opened(planned):
    steps, store, model, _ = planned
    build(store, steps.base, Progress())
    ref = model_of(store, steps.base.key)
    open_model(ref, store, dtype="float32")
    tokenizer = (model / "tokenizer_config.json").read_text()
    (model / "tokenizer_config.json").write_text(tokenizer.replace("{", "{ ", 1))
    with pytest.raises(ModelError, match="has changed: its files are not those that this model"):
        open_tokenizer(ref, store)
    (model / "tokenizer_config.json").write_text(tokenizer)
    change_weights(model)
    with pytest.raises(ModelError, match="has changed: its files are not those that this model"):
        open_model(ref, store, dtype="float32")


def test_a_suite_that_changed_after_the_plan_is_not_stored_under_its_old_digest(
    tiny_model_folder, tmp_path
):
    checks = tmp_path / "checks.jsonl"
    row = {"prompt": "Which letter?", "verifier": {"name": "says", "text": "b"}}
    checks.write_text(json.dumps(row))
    settings = tiny.settings(tiny_model_folder, tmp_path / "store")
    settings["evaluation"]["suites"] = [{"name": "file", "path": str(checks)}]
    steps = chain(PipelineConfig.model_validate(settings))
    store = Store(root=tmp_path / "store")
    evaluation = steps.evaluations()[0]
    for step in steps.steps():
        if step.stage in ("base", "conversations", "pairs"):
            build(store, step, Progress())
    checks.write_text(json.dumps({**row, "prompt": "Which one?"}))
    with pytest.raises(DataError, match=r"a file of evaluation\.suites .* was changed"):
        build(store, evaluation, Progress())
    assert store.find(evaluation.key) is None
    checks.write_text(json.dumps(row))
    build(store, evaluation, Progress())
