import json

import pytest
import torch

from alignment.errors import StorageError, UsageError
from alignment.evaluate.generate import generate
from alignment.export import export, open_for_chat
from alignment.models.load import open_model
from alignment.records import Message, ModelRef


def test_an_exported_model_loads_by_itself_and_computes_the_same(finished, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    record = finished.records["merge-dpo-1"]
    export(finished.store, record, tmp_path / "out")
    ref = ModelRef.model_validate(record.output)
    stored = open_model(ref, finished.store, dtype="float32")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    ids = torch.tensor([[3, 4, 5, 6]])
    with torch.no_grad():
        assert torch.equal(model(ids).logits, stored.model(ids).logits)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.chat_template == stored.tokenizer.chat_template


def test_the_lineage_goes_with_the_model(finished, tmp_path):
    export(finished.store, finished.records["merge-dpo-1"], tmp_path / "out")
    names = [row["name"] for row in json.loads((tmp_path / "out" / "lineage.json").read_text())]
    assert names[0] == "base"
    assert names[-1] == "merge-dpo-1"
    assert {"conversations", "sft", "merge-sft", "pairs-1", "dpo-1"} <= set(names)
    assert not {"dpo-2", "evaluate-base"} & set(names), "nothing that had no part in it"


def test_an_adapter_is_exported_as_an_adapter(finished, tmp_path):
    written = export(finished.store, finished.records["dpo-1"], tmp_path / "out")
    assert [path.name for path in written] == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "lineage.json",
    ]


def test_the_base_model_is_exported_from_where_it_lies(finished, tmp_path, tiny_model_folder):
    export(finished.store, finished.records["base"], tmp_path / "out")
    weights = (tmp_path / "out" / "model.safetensors").read_bytes()
    assert weights == (tiny_model_folder / "model.safetensors").read_bytes()


def test_an_existing_folder_is_left_alone(finished, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(StorageError, match=f"{tmp_path} exists already; choose a new folder"):
        export(finished.store, finished.records["dpo-1"], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_what_an_interrupted_export_left_is_not_mistaken_for_one(finished, tmp_path):
    """Files are gathered beside the target and moved there at once."""
    half = tmp_path / ".out.part"
    half.mkdir()
    (half / "half.safetensors").write_text("x")
    written = export(finished.store, finished.records["dpo-1"], tmp_path / "out")
    assert "half.safetensors" not in {path.name for path in written}
    assert not half.exists()


def test_a_folder_that_cannot_be_written_is_a_usage_error(finished, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        export(finished.store, finished.records["dpo-1"], tmp_path / "file" / "out")


def test_a_record_that_is_no_model_says_what_to_name_instead(finished, tmp_path):
    with pytest.raises(
        UsageError, match=r"'pairs-1' is not a model\. Name a base, a merge or a stack"
    ):
        export(finished.store, finished.records["pairs-1"], tmp_path / "out")
    with pytest.raises(UsageError, match="such as merge-dpo-1"):
        open_for_chat(finished.store, finished.records["sft"], max_new_tokens=4)


def test_a_chat_is_the_models_greedy_reply_to_all_turns(finished):
    record = finished.records["merge-dpo-2"]
    reply = open_for_chat(finished.store, record, max_new_tokens=6)
    turns = [("user", "Is it so?"), ("assistant", "yes"), ("user", "And that?")]
    loaded = open_model(ModelRef.model_validate(record.output), finished.store, dtype="float32")
    messages = tuple(Message(role=role, content=text) for role, text in turns)
    (expected,) = generate(loaded.model, loaded.tokenizer, [messages], max_new_tokens=6, batch=1)
    assert reply(turns) == expected.text
