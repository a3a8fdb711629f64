"""Both engines on small models of several families, fp32 on a CPU."""

import random

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    FalconConfig,
    Gemma2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from alignment.answers.answer import Asked
from alignment.answers.ask import answers
from alignment.answers.settings import Sampling
from alignment.errors import AlignmentError
from alignment.models.chat_template import render
from alignment.models.load import open_model
from alignment.models.stopping import stop_ids
from alignment.records.refs import Nf4
from alignment.records.text import Message
from alignment.store.store import Store
from tests.tiny import LICENSE

DRAWN = Sampling(max_new_tokens=12, samples=3, temperature=0.8, top_p=0.95, top_k=50, seed=1)
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
FAMILIES = {
    "llama": (LlamaConfig, {}),
    "qwen2": (Qwen2Config, {}),
    "qwen3": (Qwen3Config, {"head_dim": 16}),
    "sliding window": (MistralConfig, {"sliding_window": 16}),
    "capped scores": (Gemma2Config, {"head_dim": 16, "sliding_window": 16}),
}


def asked(count):
    """Prompts of 1 to 30 random words."""
    draw, words = random.Random(0), LICENSE.read_text().split()
    texts = [" ".join(draw.sample(words, draw.randint(1, 30))) for _ in range(count)]
    return [Asked(f"p{i}", (Message(role="user", content=text),)) for i, text in enumerate(texts)]


def small(config, tokenizer, **more):
    """A random model whose layers are loud enough to say other things than the last token again."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config(vocab_size=len(tokenizer), **SHAPE, **more))
    amplify(model)
    return model


def amplify(model):
    decoder = model.get_decoder()
    with torch.no_grad():
        for weight in getattr(decoder, "layers", decoder).parameters():
            if weight.ndim == 2:
                weight *= 15


def by_id(model, tokenizer, prompts, sampling, **options):
    """The answers by prompt and sample; fewer rows than prompts, so that rows are replaced."""
    found = answers(model, tokenizer, prompts, sampling, **{"batch": 12, **options})
    return {(one.prompt_id, one.sample): one for one in found}


def texts(*arguments, **options):
    return {key: one.text for key, one in by_id(*arguments, **options).items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_continuous_writes_what_hf_writes(family, chatml_tokenizer):
    """Greedy, 64 prompts, fp32."""
    config, more = FAMILIES[family]
    model, greedy = small(config, chatml_tokenizer, **more), Sampling(max_new_tokens=12)
    continuous, padded = (
        texts(model, chatml_tokenizer, asked(64), greedy, engine=engine)
        for engine in ("continuous", "hf")
    )
    assert continuous == padded
    assert len(set(padded.values())) > 40


def test_a_row_that_ended_is_not_computed_until_the_longest_ends(chatml_tokenizer):
    """Unless told otherwise, each token of an answer but the last is read once, and nothing else.

    The counts of one-token steps add up to the tokens of all answers, of which four are written
    at a time and most end early.
    """
    model, steps = small(Qwen2Config, chatml_tokenizer), list[int]()

    def count(_, __, kwargs):
        if kwargs["position_ids"].min() > 0:  # not the reading of prompts
            steps.append(kwargs["input_ids"].numel())

    model.get_decoder().register_forward_pre_hook(count, with_kwargs=True)
    sampling = Sampling(max_new_tokens=40, temperature=1.5, samples=3)
    found = by_id(model, chatml_tokenizer, asked(10), sampling, batch=4).values()
    assert sum(steps) == sum(one.tokens + one.stopped - 1 for one in found)
    assert max(steps) == 4
    assert len({one.tokens for one in found}) > 1


@pytest.mark.parametrize("engine", ["hf", "continuous"])
def test_engines_write_what_generate_writes_for_a_prompt_alone(engine, chatml_tokenizer):
    """With a sliding window, without padding, and without anything of ours."""
    config, more = FAMILIES["sliding window"]
    model, prompts = small(config, chatml_tokenizer, **more), asked(8)
    found = texts(model, chatml_tokenizer, prompts, Sampling(max_new_tokens=12), engine=engine)
    stops = list(stop_ids(chatml_tokenizer, model.generation_config.eos_token_id))
    for name, messages in prompts:
        ids = torch.tensor([render(chatml_tokenizer, messages, add_generation_prompt=True)])
        whole = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=stops,
        )
        new = whole[0, ids.shape[1] :]
        assert found[name, 0] == chatml_tokenizer.decode(new, skip_special_tokens=True)


@pytest.mark.parametrize("batch", [1, 5])
def test_draws_depend_on_prompt_and_sample_not_on_engine_or_batch(chatml_tokenizer, batch):
    model, prompts = small(Qwen2Config, chatml_tokenizer), asked(10)
    one = by_id(model, chatml_tokenizer, prompts, DRAWN, engine="continuous")
    other = by_id(model, chatml_tokenizer, prompts[::-1], DRAWN, engine="hf", batch=batch)
    assert {key: (a.text, a.tokens, a.stopped, a.seed) for key, a in one.items()} == {
        key: (a.text, a.tokens, a.stopped, a.seed) for key, a in other.items()
    }
    assert [a.logprob for a in one.values()] == pytest.approx(
        [other[key].logprob for key in one], abs=1e-4
    )
    assert len({a.text for a in one.values()}) > 25


def test_another_seed_draws_other_answers(chatml_tokenizer):
    model, prompts = small(Qwen2Config, chatml_tokenizer), asked(5)
    one, other = (
        texts(model, chatml_tokenizer, prompts, DRAWN.model_copy(update={"seed": seed}))
        for seed in (1, 2)
    )
    assert all(one[key] != other[key] for key in one)


def test_draws_follow_the_models_probabilities(chatml_tokenizer):
    """The first token of 2,000 draws: each count is within 4 standard errors."""
    model, (prompt,) = small(Qwen2Config, chatml_tokenizer), asked(1)
    drawn = Sampling(max_new_tokens=1, samples=2000, temperature=0.7, top_k=3)
    counts: dict[float, int] = {}
    for one in answers(model, chatml_tokenizer, [prompt], drawn, engine="continuous"):
        counts[one.logprob] = counts.get(one.logprob, 0) + 1
    ids = torch.tensor([render(chatml_tokenizer, prompt.messages, add_generation_prompt=True)])
    with torch.no_grad():
        top = model(ids).logits[0, -1].topk(3).values
    expected = (top / 0.7).softmax(0).tolist()
    assert len(counts) == 3
    for share, (_, count) in zip(expected, sorted(counts.items(), reverse=True), strict=True):
        assert count == pytest.approx(2000 * share, abs=4 * (2000 * share * (1 - share)) ** 0.5)


def test_adapters_of_a_stack_take_part(open_tiny, tiny_ref, make_adapter):
    stacked = open_tiny(tiny_ref.push(make_adapter("a", seed=1)).push(make_adapter("b", seed=2)))
    plain = open_tiny()
    amplify(stacked.model)
    amplify(plain.model)
    prompts, greedy = asked(20), Sampling(max_new_tokens=8)
    continuous, padded, without = (
        texts(loaded.model, loaded.tokenizer, prompts, greedy, engine=engine)
        for loaded, engine in ((stacked, "continuous"), (stacked, "hf"), (plain, "hf"))
    )
    assert continuous == padded != without


def test_four_bit_weights_take_part(tiny_ref, tmp_path):
    ref = tiny_ref.model_copy(update={"quantisation": Nf4()})
    loaded = open_model(ref, Store(root=tmp_path), dtype="float32")
    prompts, greedy = asked(20), Sampling(max_new_tokens=8)
    continuous, padded = (
        texts(loaded.model, loaded.tokenizer, prompts, greedy, engine=engine)
        for engine in ("continuous", "hf")
    )
    assert continuous == padded


def test_a_model_that_continuous_cannot_run_is_named_and_answered_by_hf(chatml_tokenizer, caplog):
    """Falcon with ALiBi adds biases to its scores that no packed attention knows."""
    model = small(FalconConfig, chatml_tokenizer, alibi=True)
    prompts = asked(3)
    found = texts(model, chatml_tokenizer, prompts, DRAWN, engine="continuous")
    assert len(found) == 9
    assert "engine hf, which is slower: " in caplog.text
    assert "falcon" in caplog.text.lower()


@pytest.mark.parametrize("engine", ["hf", "continuous"])
def test_out_of_memory_halves_the_rows_and_loses_no_answer(chatml_tokenizer, caplog, engine):
    """The model refuses more than 4 answers at a time, as a full GPU would."""
    model, prompts = small(Qwen2Config, chatml_tokenizer), asked(10)
    expected = texts(model, chatml_tokenizer, prompts, DRAWN, engine=engine)

    def refuse(_, __, kwargs):
        ids = kwargs["input_ids"]
        one_each = ids.shape[1] == 1 or engine == "continuous"
        if one_each and ids.numel() > 4 and kwargs["position_ids"].min() > 0:
            raise torch.OutOfMemoryError("full")

    model.get_decoder().register_forward_pre_hook(refuse, with_kwargs=True)
    found = texts(model, chatml_tokenizer, prompts, DRAWN, engine=engine)
    assert len(found) == 30
    assert found == expected
    assert "Out of memory" in caplog.text


def test_a_model_without_numbers_is_an_error_not_an_answer(chatml_tokenizer):
    model = small(Qwen2Config, chatml_tokenizer)
    with torch.no_grad():
        model.get_decoder().norm.weight.fill_(torch.nan)
    for engine in ("hf", "continuous"):
        with pytest.raises(AlignmentError, match=r"computes no numbers: .* 'p0' is nan"):
            list(answers(model, chatml_tokenizer, asked(1), DRAWN, engine=engine))


def test_two_prompts_of_one_id_are_an_error(chatml_tokenizer):
    model = small(Qwen2Config, chatml_tokenizer)
    with pytest.raises(AlignmentError, match="Two prompts have the same id"):
        list(answers(model, chatml_tokenizer, asked(1) * 2, DRAWN))


def test_the_models_own_attention_and_mode_are_restored(chatml_tokenizer):
    model = small(Qwen2Config, chatml_tokenizer).train()
    before = model.config._attn_implementation
    for _ in answers(model, chatml_tokenizer, asked(3), DRAWN, engine="continuous"):
        assert torch.is_grad_enabled()
    assert model.training
    assert model.config._attn_implementation == before
