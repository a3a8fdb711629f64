"""Merging: W = W_origin + sum of alpha / r * B A in fp32, on the original base and no other.

The expected weights are computed here from the files alone, with numpy.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from alignment.errors import ModelError
from alignment.models import weight_files
from alignment.models.description import describe
from alignment.models.folder import digest_of_files, tokenizer_files
from alignment.models.load import open_model
from alignment.models.merge import plan_merge, write_merge
from alignment.records.refs import BaseRef, Materialised, Nf4
from alignment.store.progress import Follower, Mark, Progress
from alignment.store.store import Store


def weights(folder):
    """All tensors of a folder in fp32, by name; numpy has no bfloat16 of its own."""
    from safetensors.torch import load_file as load

    (file,) = folder.glob("*.safetensors")
    return {name: tensor.float().numpy() for name, tensor in load(file).items()}


def delta(folder, name):
    """alpha / r * B A of one weight in fp64; 0 where the adapter has none."""
    settings = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    key = f"base_model.model.{name.removesuffix('.weight')}"
    if f"{key}.lora_A.weight" not in tensors:
        return 0.0
    a, b = (tensors[f"{key}.lora_{side}.weight"].astype(np.float64) for side in "AB")
    return settings["lora_alpha"] / settings["r"] * (b @ a)


def base_in(folder, dtype="float32"):
    digest = digest_of_files(sorted(folder.glob("*.safetensors")))
    return BaseRef(uri=f"folder:{folder}", sha256=digest, dtype=dtype)


@pytest.fixture
def merge(tmp_path):
    """A function that merges a model with adapters: (folder, kept share)."""
    made = iter(range(100))

    def run(ref, dtype="float32"):
        folder = tmp_path / f"merged-{next(made)}"
        _, kept = write_merge(
            plan_merge(ref),
            store=Store(root=tmp_path),
            dtype=dtype,
            folder=folder,
            progress=Progress(),
        )
        return folder, kept

    return run


def test_merged_logits_match_adapter_logits(merge, open_tiny, tiny_ref, make_adapter):
    from transformers import AutoModelForCausalLM

    trained = tiny_ref.push(make_adapter("a", seed=1))
    folder, _ = merge(trained)
    ids = torch.tensor([[3, 4, 5, 6, 7, 8]])
    with torch.no_grad():
        base = open_tiny().model(input_ids=ids).logits
        adapted = open_tiny(trained).model(input_ids=ids).logits
        merged = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(ids).logits
    torch.testing.assert_close(merged, adapted, rtol=1e-4, atol=1e-5)
    assert (adapted - base).abs().max() > 0.01, "an adapter that matters"


def test_a_merge_is_the_base_and_the_delta_and_nothing_else_moves(
    merge, tiny_ref, make_adapter, tiny_model_folder, tmp_path
):
    folder, _ = merge(tiny_ref.push(make_adapter("a", seed=1)))
    base, merged = weights(tiny_model_folder), weights(folder)
    assert merged.keys() == base.keys()
    for name, weight in base.items():
        expected = weight + delta(tmp_path / "a", name)
        np.testing.assert_allclose(merged[name], expected, rtol=1e-5, atol=1e-6)
    moved = {name for name in base if not np.array_equal(base[name], merged[name])}
    assert len(moved) == 8, "q, v, up and down of both layers"


def test_sft_and_round_one_add_up_on_the_original_base(
    merge, tiny_ref, make_adapter, tiny_model_folder, tmp_path
):
    """Not round one onto a rounded merge of SFT: W + D_sft + D_1, then one cast.

    The intermediate merge is written in bfloat16. What it lost must not show in the second.
    """
    sft, first = make_adapter("sft", seed=1, r=2, alpha=6), make_adapter("dpo-1", seed=2)
    stage, kept = merge(tiny_ref.push(sft), dtype="bfloat16")
    merged = tiny_ref.model_copy(
        update={
            "base": base_in(stage),
            "materialised": Materialised(
                dtype="bfloat16", origin=tiny_ref.base, deltas=(sft,), kept_share=kept, probe={}
            ),
        }
    )
    deltas = plan_merge(merged.push(first))
    assert deltas.origin == tiny_ref.base
    assert deltas.adapters == (sft, first)
    folder, _ = merge(merged.push(first))
    base, final = weights(tiny_model_folder), weights(folder)
    for name, weight in base.items():
        expected = weight + delta(tmp_path / "sft", name) + delta(tmp_path / "dpo-1", name)
        np.testing.assert_allclose(final[name], expected, rtol=1e-5, atol=1e-6)


def test_a_model_trained_in_four_bits_is_merged_into_the_weights_before_quantising(
    merge, tiny_ref, make_adapter
):
    adapter = make_adapter("a", seed=1)
    quantised = tiny_ref.model_copy(update={"quantisation": Nf4()})
    full, _ = merge(tiny_ref.push(adapter))
    from_four_bits, _ = merge(quantised.push(adapter))
    expected, found = weights(full), weights(from_four_bits)
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    assert "quantization_config" not in json.loads((from_four_bits / "config.json").read_text())


def test_a_merge_in_fp32_keeps_everything(merge, tiny_ref, make_adapter):
    for scale in (0.2, 1e-3):
        _, kept = merge(tiny_ref.push(make_adapter(f"a{scale}", seed=1, scale=scale)))
        assert kept == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("scale", [1e-4, 1e-5])
def test_a_small_delta_is_lost_in_bfloat16_by_the_share_that_is_recorded(
    merge, tiny_ref, make_adapter, tiny_model_folder, tmp_path, scale
):
    """<W_written - W, D> / <D, D> over all adapted weights, here with numpy from the files."""
    folder, kept = merge(tiny_ref.push(make_adapter("a", seed=1, scale=scale)), dtype="bfloat16")
    base, written = weights(tiny_model_folder), weights(folder)
    along = exact = 0.0
    for name, weight in base.items():
        d = np.asarray(delta(tmp_path / "a", name))
        if d.any():
            along += ((written[name] - weight).astype(np.float64) * d).sum()
            exact += (d * d).sum()
    assert kept == pytest.approx(along / exact, rel=1e-4)


def test_what_bfloat16_keeps_shrinks_with_the_delta(merge, tiny_ref, make_adapter):
    """Of a base whose weights lie on the bfloat16 grid, as those of published models do.

    A weight of 0.02 has neighbours 1.2e-4 apart, and a delta below half of that is rounded away.
    """
    on_grid, _ = merge(tiny_ref.push(make_adapter("none", seed=1, scale=0.0)), dtype="bfloat16")
    base = base_in(on_grid, "bfloat16")
    ref = tiny_ref.model_copy(update={"base": base})
    shares = [
        merge(ref.push(make_adapter(f"a{scale}", seed=1, scale=scale)), dtype="bfloat16")[1]
        for scale in (1e-1, 3e-5, 1e-6)
    ]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0.99
    assert 0.05 < shares[1] < 0.95
    assert shares[2] < 0.05


def test_an_adapter_without_effect_keeps_all_of_nothing(merge, tiny_ref, make_adapter):
    _, kept = merge(tiny_ref.push(make_adapter("none", seed=1, scale=0.0)))
    assert kept == 1


def test_a_merged_folder_is_a_model_of_its_own(merge, tiny_ref, make_adapter, tmp_path):
    """Its tokenizer is the base's, and it opens without the base or the adapter."""
    folder, _ = merge(tiny_ref.push(make_adapter("a", seed=1)), dtype="bfloat16")
    base, tokenizer = describe(folder, f"folder:{folder}", None)
    assert base.dtype == "bfloat16"
    assert tokenizer.sha256 == tiny_ref.tokenizer.sha256
    ref = tiny_ref.model_copy(update={"base": base, "tokenizer": tokenizer})
    opened = open_model(ref, Store(root=tmp_path), dtype="float32")
    assert not hasattr(opened.model, "peft_config")


def test_the_merge_reports_progress_for_every_tensor(tiny_ref, make_adapter, tmp_path):
    marks = (tmp_path / "progress.jsonl").open("w+b")
    follower = Follower(marks)
    write_merge(
        plan_merge(tiny_ref.push(make_adapter("a", seed=1))),
        store=Store(root=tmp_path),
        dtype="float32",
        folder=tmp_path / "merged",
        progress=Progress(tmp_path / "progress.jsonl"),
    )
    new = follower.new()
    found = [(mark.phase, mark.done, mark.total) for mark in new if isinstance(mark, Mark)]
    marks.close()
    assert found == [("merging", done, 26) for done in range(1, 27)]


def test_a_damaged_adapter_is_not_merged(merge, tiny_ref, make_adapter, tmp_path):
    trained = tiny_ref.push(make_adapter("a", seed=1)).push(make_adapter("b", seed=2))
    weights_of_b = tmp_path / "b" / "adapter_model.safetensors"
    weights_of_b.write_bytes(weights_of_b.read_bytes()[:200])
    with pytest.raises(ModelError, match=r"adapter_model\.safetensors is damaged"):
        merge(trained)


def test_where_bfloat16_keeps_too_little_the_same_folder_is_float32(
    merge, tiny_ref, make_adapter, tmp_path, monkeypatch
):
    """The float32 shards replace the bfloat16 ones, of which there are fewer."""
    monkeypatch.setattr(weight_files, "SHARD_SIZE", "40KB")
    on_grid, _ = merge(tiny_ref.push(make_adapter("none", seed=1, scale=0.0)), dtype="bfloat16")
    base = base_in(on_grid, "bfloat16")
    trained = tiny_ref.model_copy(update={"base": base}).push(make_adapter("a", seed=1, scale=3e-5))
    marks = (tmp_path / "progress.jsonl").open("w+b")
    follower = Follower(marks)
    dtype, kept = write_merge(
        plan_merge(trained),
        store=Store(root=tmp_path),
        dtype="bfloat16",
        folder=tmp_path / "merged",
        progress=Progress(tmp_path / "progress.jsonl"),
        min_kept_share=0.95,
    )
    assert dtype == "float32"
    assert kept == pytest.approx(1, abs=1e-3)
    phases = {mark.phase for mark in follower.new() if isinstance(mark, Mark)}
    assert phases == {"merging", "merging in float32"}
    marks.close()
    expected, _ = merge(trained)
    files = {file.name: file.read_bytes() for file in expected.iterdir()}
    assert files == {file.name: file.read_bytes() for file in (tmp_path / "merged").iterdir()}


def test_an_adapter_of_a_weight_that_the_base_lacks_is_refused(
    merge, tiny_ref, make_adapter, tmp_path
):
    """A tied head: the model has it, but its files contain only the embedding."""
    from safetensors.numpy import save_file

    trained = tiny_ref.push(make_adapter("a", seed=1))
    file = tmp_path / "a" / "adapter_model.safetensors"
    words = tensors_of(tiny_ref)["model.embed_tokens.weight"].shape[0]
    head = {
        "base_model.model.lm_head.lora_A.weight": np.ones((4, 32), np.float32),
        "base_model.model.lm_head.lora_B.weight": np.ones((words, 4), np.float32),
    }
    save_file(load_file(file) | head, file)
    with pytest.raises(ModelError, match=r"does not fit the model at lm_head"):
        merge(trained)
    settings = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    settings["target_modules"].append("lm_head")
    (tmp_path / "a" / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match=r"lm_head\.weight, but .* has no such weight"):
        merge(trained)


def test_a_base_in_four_bits_is_not_merged_into(merge, tiny_ref, make_adapter, tmp_path):
    trained = tiny_ref.push(make_adapter("a", seed=1))
    source = tiny_ref.base.uri.removeprefix("folder:")
    shutil.copytree(source, tmp_path / "base")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    base = base_in(tmp_path / "base")
    with pytest.raises(ModelError, match="are quantised, but a merge needs full weights"):
        merge(trained.model_copy(update={"base": base}))


# --- compared with PEFT --------------------------------------------------------------------------


def by_peft(base, adapters, dtype, folder):
    """The same merge with the whole model in memory, by PEFT and transformers."""
    from peft import AutoPeftModelForCausalLM, PeftModel

    first, *others = adapters
    settings = json.loads((first / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = str(base)
    (first / "adapter_config.json").write_text(json.dumps(settings))
    adapted = AutoPeftModelForCausalLM.from_pretrained(first, dtype=torch.float32)
    model = adapted.merge_and_unload()
    for adapter in others:
        model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    model.to(dtype).save_pretrained(folder, max_shard_size=weight_files.SHARD_SIZE)


def tensors_of(ref):
    """Of a reference or folder, over all its shards."""
    from safetensors.torch import load_file as load

    folder = Path(ref) if isinstance(ref, Path) else Path(ref.base.uri.removeprefix("folder:"))
    return {k: v for file in folder.glob("*.safetensors") for k, v in load(file).items()}


@pytest.fixture(params=["tied, one file, fp32", "untied, in shards, bfloat16"])
def any_base(request, tiny_ref, tmp_path):
    """The tiny model as it is, or with an untied head and in bfloat16 shards, as published."""
    from transformers import AutoConfig, AutoModelForCausalLM

    if request.param.startswith("tied"):
        return tiny_ref
    source, folder = Path(tiny_ref.base.uri.removeprefix("folder:")), tmp_path / "base"
    config = AutoConfig.from_pretrained(source, tie_word_embeddings=False)
    model = AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
    model.generation_config.temperature = 0.5
    model.generation_config.do_sample = True
    model.save_pretrained(folder, max_shard_size="30KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    for file in tokenizer_files(source):
        shutil.copy(file, folder)
    base, tokenizer = describe(folder, f"folder:{folder}", None)
    return tiny_ref.model_copy(update={"base": base, "tokenizer": tokenizer})


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("adapters", [1, 3])
def test_what_is_written_equals_the_merge_by_peft_bit_for_bit(
    merge, any_base, make_adapter, tmp_path, monkeypatch, dtype, adapters
):
    """Weights, config, generation config; also with scales of 3 and 4/3, which round."""
    monkeypatch.setattr(weight_files, "SHARD_SIZE", "40KB")
    ranks = {"a": (4, 8), "b": (2, 6), "c": (3, 4)}
    made = [
        make_adapter(name, seed=seed, r=ranks[name][0], alpha=ranks[name][1])
        for seed, name in enumerate("abc"[:adapters])
    ]
    ref = any_base.model_copy(update={"adapters": tuple(made)})
    folder, _ = merge(ref, dtype=dtype)
    base, expected = Path(any_base.base.uri.removeprefix("folder:")), tmp_path / "expected"
    by_peft(base, [tmp_path / one.stage for one in made], getattr(torch, dtype), expected)
    found, wanted = tensors_of(folder), tensors_of(expected)
    assert found.keys() == wanted.keys()
    assert all(found[name].dtype == wanted[name].dtype for name in wanted)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert len(list(folder.glob("*.safetensors"))) > 1
    for name in ("config.json", "generation_config.json"):
        assert (folder / name).read_text() == (expected / name).read_text()
    index, theirs = (
        json.loads((one / weight_files.INDEX).read_text()) for one in (folder, expected)
    )
    assert index["metadata"] == theirs["metadata"]
    assert index["weight_map"].keys() == theirs["weight_map"].keys()
