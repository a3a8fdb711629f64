"""Log-probs of every model family, held against the model's own logits, one row at a time."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from alignment.models.rope import rope_limit
from alignment.scoring.engine import Packed, Stock
from alignment.scoring.head import head_obstacle, head_of
from alignment.scoring.logprobs import reply_distributions
from alignment.scoring.packable import packing_obstacle
from benchmarks.tiny_models import ALL, config_of, tiny_model
from tests.alignment.scoring.test_batches import completions

FAMILIES = [family for family in ALL if family != "mistral3-vision"]  # not a causal LM
UNPACKED = {
    "qwen3-next",
    "qwen3.5",
    "qwen3.5-vision",
    "granite4-hybrid",
    "falcon",
    "falcon-h1",
    "lfm2",
    "jamba",
    "seed-oss",
}
"""Families that the packed engine refuses: recurrent or convolutional layers, own attention,
attention dropout."""


def own_logprobs(model, rows):
    """Log-probs of the replies from the logits of the model's own forward."""
    found = []
    for row in rows:
        ids = torch.tensor([row.prompt + row.reply])
        with torch.no_grad():
            logits = model(input_ids=ids, use_cache=False).logits[0]
        full = logits.float().log_softmax(-1)[len(row.prompt) - 1 : -1]
        found.append(full.gather(1, torch.tensor(row.reply)[:, None])[:, 0])
    return found


def rows_of(config):
    """Rows of 2 to 70 tokens; those within the rope's limit if its frequencies are unstable."""
    rows, limit = completions(), rope_limit(config)
    stretches = limit and config.rope_parameters["rope_type"] == "dynamic"
    return [row for row in rows if not stretches or row.length <= limit]


@pytest.mark.parametrize("family", FAMILIES)
def test_logprobs_are_those_of_the_models_own_logits(family):
    """Padded; packed in many micro-batches and in one; adjacent rows share their prompt."""
    model = tiny_model(family)
    rows = rows_of(model.config)
    expected = own_logprobs(model, rows)
    refused = packing_obstacle(model.config)
    assert bool(refused) == (family in UNPACKED), refused
    engines: list[Stock | Packed] = [Stock()]
    if not refused:
        engines += [Packed(tokens_per_micro_batch=tokens) for tokens in (40, 10_000)]
    for engine in engines:
        found = engine.reply_logprobs(model, rows, batch=4)
        for own, true in zip(found, expected, strict=True):
            torch.testing.assert_close(own, true, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["gemma2", "granite", "cohere", "falcon-h1", "gemma4"])
def test_whole_distributions_have_what_follows_the_head(family):
    """These families scale or cap their logits; without that, all would be off by nats."""
    model, rows = tiny_model(family), completions()[:2]
    for found, row in zip(reply_distributions(model, rows, batch=2), rows, strict=True):
        ids = torch.tensor([row.prompt + row.reply])
        with torch.no_grad():
            logits = model(input_ids=ids, use_cache=False).logits[0, len(row.prompt) - 1 : -1]
        torch.testing.assert_close(found, logits.log_softmax(-1), rtol=1e-5, atol=1e-5)


def test_the_head_has_the_models_gradient():
    """Through the scale and the cap, as the model's own backward pass gives it."""
    model = tiny_model("gemma2")
    ids = torch.tensor([[5, 6, 7, 8]])
    weight = model.get_output_embeddings().weight
    model(input_ids=ids, use_cache=False).logits.square().sum().backward()
    expected, weight.grad = weight.grad.clone(), None
    states = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0]
    head_of(model)(states).square().sum().backward()
    torch.testing.assert_close(weight.grad, expected)


def test_fifteen_and_more_families_can_be_packed():
    assert len({config_of(f).model_type for f in FAMILIES if f not in UNPACKED}) >= 20


SMALL = {
    "vocab_size": 512,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def other(kind, **options):
    """A random model of a type that no family of the table has."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**SMALL, **options})
    return AutoModelForCausalLM.from_config(config).eval()


def test_a_decoder_inside_the_part_that_the_head_calls_is_scored_once():
    """OPT's head calls `self.model.decoder`: as a stand-in it must not run again."""
    model = other("opt", ffn_dim=64, word_embed_proj_dim=32, init_std=0.2)
    rows = completions()
    for engine in (Stock(), Packed(tokens_per_micro_batch=40)):
        found = engine.reply_logprobs(model, rows, batch=4)
        for own, true in zip(found, own_logprobs(model, rows), strict=True):
            torch.testing.assert_close(own, true, rtol=1e-5, atol=1e-5)


def test_a_window_that_is_only_in_the_mask_is_not_packed():
    """Phi-3.5-MoE limits its mask and does not tell its attention; packed rows have no mask."""
    options = {"num_local_experts": 4, "head_dim": 8}
    refused = packing_obstacle(other("phimoe", sliding_window=8, **options).config)
    assert refused == (
        "the mask of PhimoeAttention is limited to 8 tokens, and its attention to None"
    )
    assert packing_obstacle(other("phimoe", sliding_window=None, **options).config) is None


def test_positions_that_count_across_rows_are_not_packed():
    model = other("bart", d_model=32, decoder_layers=1, encoder_layers=1, decoder_ffn_dim=64)
    refused = packing_obstacle(model.config)
    assert refused == "BartDecoder counts positions itself, across rows"


@pytest.mark.parametrize("kind", ["llama4_text", "modernbert-decoder"])
def test_a_head_that_cannot_be_applied_is_told_without_weights(kind):
    """transformers returns the whole model, or the output layer, as the decoder of these."""
    with torch.device("meta"):
        model = other(kind, head_dim=8, vocab_size=60_000)
    assert head_obstacle(model) == "transformers does not say which part of it is its decoder"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_of_the_table_has_a_head_that_can_be_applied(family):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config_of(family))
    assert head_obstacle(model) is None
