"""What a model's family cannot do is found without its weights, before any step has run."""

import pytest

from alignment.config.pipeline import PipelineConfig
from alignment.errors import ModelError
from alignment.execution.run_step import build, try_in_child
from alignment.pipeline.chain_builder import chain
from alignment.pipeline.steps import TrainSft
from alignment.pipeline.trial import try_model
from alignment.records.refs import ModelRef
from alignment.store.progress import Progress
from alignment.store.store import Store
from alignment.train.settings import SftConfig
from benchmarks.families import settings, write_model


@pytest.fixture
def tried(chatml_tokenizer, tmp_path):
    """A function: a run on a tiny model of a family, tried with these changes to all trainings."""

    def run(family, **changes):
        write_model(family, chatml_tokenizer, tmp_path / "model")
        config = settings(tmp_path, family, all_linear=False)
        values = config.model_dump(mode="json")
        values["quantisation"] = changes.pop("quantisation", None)
        for training in (values["sft"]["training"], values["dpo"]):
            training.update({name: changes[name] for name in changes.keys() & training.keys()})
        config = PipelineConfig.model_validate(values)
        return try_model(chain(config).steps(), tmp_path / "model")

    return run


ALL = {"r": 4, "alpha": 8, "dropout": 0.0, "target_modules": "all-linear"}


def test_a_llama_passes_with_all_its_layers_covered(tried):
    trial = tried("llama")
    assert not trial.obstacles
    assert [(each.step, len(each.modules), each.covered) for each in trial.adapted] == [
        ("sft", 14, (1.0, ())),
        ("dpo-1", 14, (1.0, ())),
    ]
    assert not trial.notes


def test_names_that_match_nothing_are_refused_with_the_familys_own(tried):
    reason = tried("phi3").obstacles["sft"]
    assert "gate_proj, k_proj, q_proj, up_proj, v_proj match no linear layer of phi3" in reason
    assert "all-linear, or name some of down_proj, gate_up_proj, o_proj, qkv_proj" in reason


@pytest.mark.parametrize(
    ("family", "names"),
    [
        ("phi3", {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}),
        ("falcon", {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"}),
        ("qwen3-moe", {"q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj"}),
        ("falcon-h1", {"q_proj", "k_proj", "v_proj", "o_proj", "in_proj", "gate_proj", "up_proj"}),
    ],
)
def test_all_linear_finds_the_layers_of_every_family(family, names, tried):
    trial = tried(family, lora=ALL)
    assert not trial.obstacles
    found = {name.rpartition(".")[2] for name in trial.adapted[0].modules}
    assert names <= found
    assert not found & {"lm_head", "gate", "router"}


def test_default_names_that_miss_the_experts_are_refused_with_what_trains_them(tried):
    reason = tried("qwen3-moe").obstacles["dpo-1"]
    assert "match no linear layer of qwen3_moe" in reason
    assert "(all-linear trains its experts too, and needs lora.dropout=0)" in reason


def test_experts_with_dropout_are_refused(tried):
    """The default dropout, .05, with which PEFT would fail at the first training step."""
    reason = tried("mixtral", lora={**ALL, "dropout": 0.05}).obstacles["sft"]
    assert "the experts of mixtral cannot have dropout: set lora.dropout to 0, or name" in reason


def test_names_that_peft_would_turn_into_experts_are_refused(tried):
    """GLM-4-MoE has linear layers of these names too, in its first block and its shared expert."""
    reason = tried("glm4-moe").obstacles["sft"]
    assert "down_proj, gate_proj, up_proj: in glm4_moe these are tensors of experts too" in reason


@pytest.mark.parametrize(
    "family", ["qwen3-moe", "glm4-moe", "qwen3-next", "gpt-oss", "deepseek-v3"]
)
def test_all_linear_covers_every_expert(tried, family):
    """And the linear layers of the same names, in shared experts and dense blocks."""
    trial = tried(family, lora=ALL)
    assert not trial.obstacles
    assert [each.covered for each in trial.adapted] == [(1.0, ())] * 2


@pytest.mark.parametrize("family", ["jamba", "granite4-hybrid"])
def test_layers_that_mamba_reads_past_their_adapters_are_refused_by_name(tried, family):
    lora = {**ALL, "target_modules": ["q_proj", "out_proj"]}
    reason = tried(family, lora=lora).obstacles["sft"]
    assert f"out_proj: Mamba layers of {family[:5]}" in reason
    assert "past their adapters; set it to all-linear, or name some of" in reason
    lora = {**ALL, "target_modules": ["q_proj"]}
    assert not tried(family, lora=lora).obstacles


def test_default_names_that_leave_a_gap_are_refused(tried):
    """Qwen2-MoE has all seven names, but only its shared expert's: two thirds get no adapter."""
    reason = tried("qwen2-moe").obstacles["sft"]
    assert "adapters on 33.3% of the weights in the model's blocks" in reason
    assert "none on experts.down_proj, experts.gate_up_proj" in reason


def test_names_that_the_user_chose_may_leave_a_gap_which_is_said(tried):
    trial = tried("qwen2-moe", lora={**ALL, "target_modules": ["q_proj", "v_proj"]})
    assert not trial.obstacles
    (note, _) = trial.notes
    assert note.startswith("sft: adapters on ")
    assert "none on down_proj, experts.down_proj, experts.gate_up_proj, gate_proj, k_proj" in note


def test_a_shared_expert_in_4_bits_is_refused(tried):
    """PEFT adapts it by its weight, which in 4 bits is no matrix."""
    reason = tried("qwen3-next", lora=ALL, quantisation={"kind": "nf4"}).obstacles["sft"]
    assert "in 4 bits PEFT cannot adapt shared_expert.down_proj.weight" in reason


def test_a_picture_encoder_gets_no_adapter(tried):
    trial = tried("gemma3-vision")
    assert not trial.obstacles
    assert all("language_model" in name for name in trial.adapted[0].modules)


def test_an_engine_that_cannot_run_the_model_is_refused(tried):
    reason = tried("lfm2", engine={"name": "packed"}, lora=ALL).obstacles["sft"]
    assert "Lfm2ShortConv (layer 0) mixes tokens by more than attention" in reason
    assert "set engine.name=stock" in reason


def test_rows_beyond_a_rope_that_depends_on_the_longest_are_refused(tried):
    """The limit of this model is 40 tokens; rows may have 256."""
    reason = tried("phi3-longrope", lora=ALL).obstacles["sft"]
    assert reason.startswith(
        "beyond 40 tokens the rotary frequencies of phi3 depend on the longest"
    )
    assert (
        "dpo-1"
        not in tried("phi3-longrope", lora=ALL, max_length=40, max_prompt_length=20).obstacles
    )


def test_a_model_that_is_no_causal_language_model_is_refused(tried):
    with pytest.raises(ModelError, match=r"the mistral3 model in .* is no causal language model"):
        tried("mistral3-vision")


def test_a_run_is_refused_in_a_child_before_its_data_is_prepared(chatml_tokenizer, tmp_path):
    write_model("phi3", chatml_tokenizer, tmp_path / "model")
    config = settings(tmp_path, "phi3", all_linear=False)
    steps, store = chain(config), Store(root=config.store)
    base = build(store, steps.base, Progress())
    with pytest.raises(ModelError, match=r"sft, dpo-1: lora.target_modules .* match no linear"):
        try_in_child(store, ModelRef.model_validate(base.output).base, tuple(steps.steps()))
    assert store.list_keys() == [steps.base.key]


def test_what_has_passed_is_not_tried_again_unless_it_asks_for_something_else(
    chatml_tokenizer, tmp_path
):
    """The model's config is gone the second time, so that a trial would find nothing."""
    write_model("llama", chatml_tokenizer, tmp_path / "model")
    config = settings(tmp_path, "llama", all_linear=False)
    steps, store = chain(config), Store(root=config.store)
    base = ModelRef.model_validate(build(store, steps.base, Progress()).output).base
    assert isinstance(steps.sft, TrainSft)
    partial = {"lora": {**ALL, "target_modules": ["q_proj"]}}
    sft = steps.sft.model_copy(
        update={"config": SftConfig.model_validate({**steps.sft.config.model_dump(), **partial})}
    )
    notes = try_in_child(store, base, (steps.base, sft))
    assert notes[0].startswith("sft: adapters on ")
    (tmp_path / "model" / "config.json").unlink()
    sft = sft.model_copy(update={"config": sft.config.model_copy(update={"learning_rate": 1.0})})
    assert try_in_child(store, base, (steps.base, sft)) == notes, "said again"
    longer = sft.model_copy(update={"config": sft.config.model_copy(update={"max_length": 99})})
    with pytest.raises(ModelError):
        try_in_child(store, base, (steps.base, longer))
