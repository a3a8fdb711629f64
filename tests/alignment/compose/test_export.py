import json
import shutil

import pytest
import torch

from alignment.answers.ask import generate
from alignment.api.exports import write_with_card
from alignment.compose.export import Exported, export, open_for_chat
from alignment.errors import ModelError, StorageError, UsageError
from alignment.execution.run_step import build
from alignment.models.load import open_model
from alignment.models.sources import FolderModel
from alignment.pipeline.steps import OpenBase
from alignment.records.refs import AdapterRef, ModelRef
from alignment.records.text import Message
from alignment.scoring.probe import divergence, probe_of
from alignment.store.progress import Progress
from alignment.store.store import Store


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


def test_the_lineage_is_exported_with_the_model(finished, tmp_path):
    export(finished.store, finished.records["merge-dpo-1"], tmp_path / "out")
    names = [row["name"] for row in json.loads((tmp_path / "out" / "lineage.json").read_text())]
    assert names[0] == "base"
    assert names[-1] == "merge-dpo-1"
    assert {"conversations", "sft", "merge-sft", "pairs-1", "dpo-1"} <= set(names)
    assert not {"dpo-2", "evaluate-base"} & set(names), "nothing that had no part in it"


def test_a_trained_adapter_is_exported_unchanged(finished, tmp_path):
    record = finished.records["dpo-1"]
    written = export(finished.store, record, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "export.json",
        "lineage.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    stored = finished.store.path(AdapterRef.model_validate(record.output).uri)
    weights = "adapter_model.safetensors"
    assert (tmp_path / "out" / weights).read_bytes() == (stored / weights).read_bytes()
    assert (written.form, written.rank) == ("adapter", 4)


@pytest.mark.parametrize("exported", [False, True], ids=["in the store", "exported"])
def test_an_adapter_opens_with_plain_peft_as_the_model_that_was_trained(
    finished, tmp_path, exported
):
    """SFT on the base model, and a round on the merge of the one before, by their probes."""
    from peft import AutoPeftModelForCausalLM

    for name in ("sft", "dpo-1"):
        record = finished.records[name]
        adapter = AdapterRef.model_validate(record.output)
        folder = finished.store.path(adapter.uri)
        if exported:
            folder = tmp_path / name
            written = export(finished.store, record, folder)
            assert f"opens it on {written.base}" in "\n".join(written.notes())
        model = AutoPeftModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32)
        assert divergence(probe_of(finished.store, adapter), model)["mean_abs_logprob"] < 1e-6


def test_an_adapter_exported_from_a_store_that_has_moved_names_the_bases_new_place(
    finished, tmp_path
):
    store = Store(root=shutil.copytree(finished.store.root, tmp_path / "moved"))
    written = export(store, finished.records["dpo-1"], tmp_path / "out")
    merge = finished.records["merge-sft"]
    assert written.base == str(tmp_path / "moved" / "objects" / merge.key / "model")


def test_an_adapter_on_a_stack_says_what_to_export_instead(stacked, tmp_path):
    written = export(stacked.store, stacked.records["dpo-1"], tmp_path / "out")
    assert written.base is None
    assert "export the stack with --form adapter instead" in "\n".join(written.notes())


def test_stacked_adapters_exported_as_one_open_with_plain_peft(stacked, tmp_path):
    from peft import AutoPeftModelForCausalLM

    record = stacked.records["stack-dpo-1"]
    written = export(stacked.store, record, tmp_path / "out", form="adapter")
    model = AutoPeftModelForCausalLM.from_pretrained(str(tmp_path / "out"), dtype=torch.float32)
    newest = ModelRef.model_validate(record.output).adapters[-1]
    assert divergence(probe_of(stacked.store, newest), model)["mean_abs_logprob"] < 1e-5
    assert written.base is not None


def test_the_base_model_is_exported_from_its_own_folder(finished, tmp_path, tiny_model_folder):
    export(finished.store, finished.records["base"], tmp_path / "out")
    weights = (tmp_path / "out" / "model.safetensors").read_bytes()
    assert weights == (tiny_model_folder / "model.safetensors").read_bytes()


def test_an_existing_folder_is_not_touched(finished, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(StorageError, match=f"{tmp_path} already exists; choose a new folder"):
        export(finished.store, finished.records["dpo-1"], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_interrupted_export_is_not_mistaken_for_a_complete_one(finished, tmp_path):
    """Files are collected beside the target and moved there in one rename."""
    half = tmp_path / ".out.part"
    half.mkdir()
    (half / "half.safetensors").write_text("x")
    export(finished.store, finished.records["dpo-1"], tmp_path / "out")
    assert not (tmp_path / "out" / "half.safetensors").exists()
    assert not half.exists()


def test_a_folder_that_cannot_be_written_is_a_usage_error(finished, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        export(finished.store, finished.records["dpo-1"], tmp_path / "file" / "out")


def test_a_record_that_is_not_a_model_says_what_to_choose_instead(finished, tmp_path):
    with pytest.raises(
        UsageError, match=r"'pairs-1' is not a model\. Choose a base, a merge or a stack"
    ):
        export(finished.store, finished.records["pairs-1"], tmp_path / "out")
    with pytest.raises(UsageError, match=r"e\.g\. merge-dpo-1"):
        open_for_chat(finished.store, finished.records["sft"], max_new_tokens=4)


def test_a_chat_is_the_models_greedy_reply_to_all_turns(finished):
    record = finished.records["merge-dpo-2"]
    reply = open_for_chat(finished.store, record, max_new_tokens=6)
    turns = [("user", "Is it so?"), ("assistant", "yes"), ("user", "And that?")]
    loaded = open_model(ModelRef.model_validate(record.output), finished.store, dtype="float32")
    messages = tuple(Message(role=role, content=text) for role, text in turns)
    (expected,) = generate(loaded.model, loaded.tokenizer, [messages], max_new_tokens=6, batch=1)
    assert reply(turns) == expected.text


# --- forms ---------------------------------------------------------------------------------------


@pytest.fixture
def written(stacked, tmp_path):
    """A function that exports a stack of three adapters: its description and its folder."""

    def run(name="out", **options):
        record = stacked.records["stack-dpo-2"]
        return export(stacked.store, record, tmp_path / name, **options), tmp_path / name

    return run


@pytest.fixture
def judged(stacked):
    """That stack as evaluation opens it."""
    ref = ModelRef.model_validate(stacked.records["stack-dpo-2"].output)
    return open_model(ref, stacked.store, dtype="float32", quantised=False).model


def logits(model):
    with torch.no_grad():
        return model(torch.tensor([[3, 4, 5, 6, 7, 8]])).logits


def test_a_stack_is_exported_as_one_folder_that_computes_the_same(written, judged):
    from transformers import AutoModelForCausalLM

    said, folder = written(dtype="float32")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    torch.testing.assert_close(logits(model), logits(judged), rtol=0, atol=1e-5)
    assert said.kept_share == pytest.approx(1, abs=1e-4)
    assert said.from_measured["mean_abs_logprob"] < 1e-5
    assert said.from_trained["mean_abs_logprob"] < 1e-5
    assert json.loads((folder / "export.json").read_text()) == said.model_dump()


def test_a_stack_exported_as_one_adapter_loads_in_plain_peft(written, judged, open_tiny):
    """Ranks 4, 4 and 4 add up to 12, which vLLM serves with --max-lora-rank 16."""
    from peft import PeftModel

    said, folder = written(form="adapter")
    model = PeftModel.from_pretrained(open_tiny().model, folder)
    torch.testing.assert_close(logits(model), logits(judged), rtol=0, atol=1e-5)
    assert said.rank == 12
    assert "rank 12; vLLM needs --max-lora-rank 16" in said.notes()
    assert said.from_measured["top1"] == 1
    assert "tokenizer.json" in {path.name for path in folder.iterdir()}


def test_a_gguf_of_a_stack_is_its_fp32_merge_in_one_file(written, judged):
    """Loaded by transformers' own reader; the divergence stated is that of the file."""
    from alignment.models.gguf import FILE, load_gguf

    said, folder = written(form="gguf")
    torch.testing.assert_close(logits(load_gguf(folder)), logits(judged), rtol=0, atol=1e-5)
    assert (said.form, said.dtype) == ("gguf", "float32")
    assert said.kept_share == pytest.approx(1, abs=1e-4)
    assert said.from_measured["mean_abs_logprob"] < 1e-5
    assert said.from_trained["mean_abs_logprob"] < 1e-5
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["export.json", "lineage.json", FILE]


@pytest.mark.parametrize("name", ["merge-dpo-1", "base"])
def test_a_gguf_of_full_weights_is_a_copy(finished, tmp_path, name):
    from alignment.models.gguf import load_gguf

    record = finished.records[name]
    said = export(finished.store, record, tmp_path / "out", form="gguf")
    ref = ModelRef.model_validate(record.output)
    stored = open_model(ref, finished.store, dtype="float32").model
    assert torch.equal(logits(load_gguf(tmp_path / "out")), logits(stored))
    assert said.from_measured == {"mean_abs_logprob": 0, "kl": 0, "top1": 1}


CONVERTER = """
import shutil
import sys

from gguf import GGUFReader

file = sys.argv[sys.argv.index("--outfile") + 1]
shutil.copy("{good}", file)
tensors = {{tensor.name: tensor for tensor in GGUFReader(file, "r+").tensors}}
tensors["output_norm.weight"].data[:4] *= {change}
"""
"""A program that writes a file written before, and changes four numbers of one of its weights."""


@pytest.fixture
def converter(written, tmp_path):
    """A function: a converter whose file has four weights multiplied by this."""
    written(form="gguf", name="good")

    def make(change):
        file = tmp_path / "convert_hf_to_gguf.py"
        good = tmp_path / "good" / "model.gguf"
        file.write_text(CONVERTER.format(good=good, change=change))
        return file

    return make


def test_llama_cpps_converter_is_used_where_it_is_named(written, converter, judged):
    from alignment.models.gguf import load_gguf

    said, folder = written(form="gguf", converter=converter(1.0).parent)
    torch.testing.assert_close(logits(load_gguf(folder)), logits(judged), rtol=0, atol=1e-5)
    assert said.made_by.endswith("convert_hf_to_gguf.py")
    assert f"written by {said.made_by}" in said.notes()


def test_a_gguf_with_a_damaged_tensor_is_refused(written, converter, tmp_path):
    with pytest.raises(ModelError, match=r"convert_hf_to_gguf.py computes something else than"):
        written(form="gguf", converter=converter(-1.0))
    assert not (tmp_path / "out").exists()


def test_a_converter_that_fails_is_quoted_before_anything_is_merged(written, tmp_path):
    (tmp_path / "broken.py").write_text("raise SystemExit('Model TinyForCausalLM is unknown')")
    with pytest.raises(ModelError, match=r"broken.py says: Model TinyForCausalLM is unknown"):
        written(form="gguf", converter=tmp_path / "broken.py")


def test_a_converter_that_is_not_there_is_a_wrong_option(written, tmp_path):
    with pytest.raises(UsageError, match=r"nowhere/?.* does not exist; give llama.cpp's folder"):
        written(form="gguf", converter=tmp_path / "nowhere")


def test_a_gguf_has_one_precision(written):
    with pytest.raises(UsageError, match=r"a GGUF is always exported in float32.*llama-quantize"):
        written(form="gguf", dtype="bfloat16")


def test_bfloat16_is_written_if_it_keeps_the_training_and_float32_if_not(written, monkeypatch):
    """The tiny adapters were trained at a hundred times the usual rate, so bfloat16 keeps them.

    Asked to keep more than everything, the export falls back.
    """
    from alignment.compose import export

    said, _ = written()
    assert said.dtype == "bfloat16"
    assert said.kept_share >= 0.95
    assert said.from_measured["kl"] > 0
    monkeypatch.setattr(export, "KEPT_SHARE_WARNING", 1.5)
    assert written("full")[0].dtype == "float32"


def test_a_merge_can_be_written_again_in_another_precision(finished, tmp_path):
    """It is merged again from the deltas, not cast from the folder."""
    record = finished.records["merge-dpo-1"]
    said = export(finished.store, record, tmp_path / "out", dtype="bfloat16")
    assert said.dtype == "bfloat16"
    assert said.kept_share == pytest.approx(1, abs=0.1)
    assert said.from_measured is not None
    assert said.from_measured["mean_abs_logprob"] > 1e-5


def test_a_base_has_no_adapter_to_export(finished, tmp_path):
    with pytest.raises(UsageError, match="'base' has no adapter; export it without --form"):
        export(finished.store, finished.records["base"], tmp_path / "out", form="adapter")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("rank", "fits"), [(1, 1), (9, 16), (192, 256), (300, 320)])
def test_the_rank_that_vllm_needs_is_the_next_one_it_accepts(rank, fits):
    notes = Exported(form="adapter", rank=rank).notes()
    assert notes[1].endswith(f"--max-lora-rank {fits}")


@pytest.fixture
def unending(tmp_path, tiny_model_folder):
    """A store with a base model whose folder names another stop token than its chat template."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_folder, folder)
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        path = folder / name
        settings = json.loads(path.read_text())
        settings["eos_token" if name.startswith("tok") else "eos_token_id"] = (
            "<|endoftext|>" if name.startswith("tok") else 0
        )
        path.write_text(json.dumps(settings))
    return opened(folder, tmp_path / "store")


def opened(folder, root):
    """A store, and the record of the base model that it opened."""
    store, source = Store(root=root), FolderModel(path=folder)
    step = OpenBase(name="base", source=source, quantisation=None, digest=source.digest())
    return store, build(store, step, Progress())


def test_what_leaves_the_store_names_the_stop_token_that_was_trained(unending, tmp_path):
    """ChatML on a base model whose eos is <|endoftext|>: elsewhere it would talk for ever."""
    from gguf import GGUFReader
    from transformers import AutoTokenizer, GenerationConfig

    store, record = unending
    out = tmp_path / "out"
    export(store, record, out)
    assert GenerationConfig.from_pretrained(out).eos_token_id == [2, 0]
    assert json.loads((out / "config.json").read_text())["eos_token_id"] == [2, 0]
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("<|im_end|>", 2)
    export(store, record, tmp_path / "gguf", form="gguf")
    fields = GGUFReader(tmp_path / "gguf" / "model.gguf").fields
    assert fields["tokenizer.ggml.eos_token_id"].contents() == 2


def test_an_adapter_that_leaves_the_store_names_the_stop_token_that_was_trained(
    unending, finished, tmp_path
):
    from transformers import AutoTokenizer, GenerationConfig

    store, base = unending
    record = finished.records["sft"]
    workspace = store.workspace(record.key)
    trained = finished.store.path(AdapterRef.model_validate(record.output).uri)
    shutil.copytree(trained, workspace.out / trained.name)
    parents = dict.fromkeys(record.parents, base.key)
    moved = store.commit(record.model_copy(update={"parents": parents}), workspace)
    export(store, moved, tmp_path / "out")
    assert GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id == [2, 0]
    assert AutoTokenizer.from_pretrained(tmp_path / "out").eos_token == "<|im_end|>"


@pytest.mark.usefixtures("unending")
def test_an_eos_that_the_template_itself_writes_stays_the_tokenizers(tmp_path):
    """Phi-3 closes a reply with <|end|> and a chat with its eos."""
    from transformers import AutoTokenizer, GenerationConfig

    template = tmp_path / "model" / "chat_template.jinja"
    template.write_text(
        template.read_text() + "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}"
    )
    store, record = opened(tmp_path / "model", tmp_path / "store of Phi-3")
    export(store, record, tmp_path / "out")
    assert GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id == [2, 0]
    assert AutoTokenizer.from_pretrained(tmp_path / "out").eos_token == "<|endoftext|>"


def test_a_folder_that_names_its_stop_token_is_exported_as_it_is(
    finished, tmp_path, tiny_model_folder
):
    export(finished.store, finished.records["base"], tmp_path / "out")
    for file in tiny_model_folder.iterdir():
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()


def test_the_card_of_an_adapter_says_so_and_names_no_folder(stacked, tmp_path):
    record = stacked.records["sft"]
    written = write_with_card(stacked.store, record, tmp_path / "out", name="mine", form="merged")
    assert written.form == "adapter"
    card = (tmp_path / "out" / "README.md").read_text()
    assert "library_name: peft" in card
    assert "A LoRA adapter made from a model of its own" in card
    assert str(tmp_path.parent) not in card
