"""Rows laid end to end: each is computed as if it were alone, whatever its neighbours."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from alignment.errors import ModelError
from alignment.models.encoding import IGNORED
from alignment.scoring.attention import use_packed_attention
from alignment.scoring.batches import PackedRow, lay_out, level, split
from alignment.scoring.engine import Packed
from alignment.scoring.logprobs import Completion, predicted_logprobs, reply_logprobs
from benchmarks.tiny_models import config_of, tiny_model
from tests.alignment.train.models import random_model

PAIR = PackedRow((10, 11, 12), ((20, 21), (30,)))


def test_rows_are_split_into_as_few_groups_as_fit():
    """7 is a group of its own; 5 + 2 and 4 + 3 both fill seven."""
    assert split([5, 2, 7, 4, 3], budget=7) == [[2], [0, 1], [3, 4]]


def test_a_row_larger_than_the_budget_is_a_group_of_its_own():
    assert split([3, 9, 3], budget=6) == [[1], [0, 2]]


def test_level_groups_are_as_few_and_of_similar_size():
    """First fit makes groups of 8 and 2; adding each row to the smaller group makes 5 and 5."""
    assert split([4, 3, 1, 2], budget=8) == [[0, 1, 2], [3]]
    assert level([4, 3, 1, 2], budget=8) == [[0, 2], [1, 3]]


def test_groups_are_unchanged_if_level_ones_would_not_fit():
    """3 + 3 and 2 + 2 + 2 both fit into six; levelling would end with 3 + 2 + 2."""
    assert (
        level([3, 3, 2, 2, 2], budget=6) == split([3, 3, 2, 2, 2], budget=6) == [[0, 1], [2, 3, 4]]
    )


def test_a_row_larger_than_the_budget_does_not_let_the_others_grow():
    """The same five rows beside a 9; their level groups would have 7 and 5 tokens."""
    assert level([9, 3, 3, 2, 2, 2], budget=6) == [[0], [1, 2], [3, 4, 5]]


def test_a_pair_stores_its_prompt_once():
    micro = lay_out([PAIR])
    assert micro.ids.tolist() == [10, 11, 12, 20, 21, 30]
    assert micro.positions.tolist() == [0, 1, 2, 3, 4, 3], "both replies follow the prompt"


def test_each_reply_attends_to_the_prompt_and_itself():
    segments = lay_out([PAIR]).segments
    assert segments.queries == (3, 2, 1)
    assert segments.keys == (3, 3 + 2, 3 + 1)
    assert segments.gather is not None
    assert segments.gather.tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 0, 1, 2, 5]


def test_the_prompts_last_token_predicts_the_first_of_both_replies():
    micro = lay_out([PAIR])
    assert micro.sources.tolist() == [2, 3, 2]
    assert micro.targets.tolist() == [20, 21, 30]
    assert micro.owners.tolist() == [0, 0, 1]


def test_a_conversations_targets_are_its_labels_but_never_its_first_token():
    row = PackedRow((), ((10, 11, 12, 13),), ((10, IGNORED, 12, 13),))
    micro = lay_out([PAIR, row])
    assert micro.sources.tolist()[3:] == [6 + 1, 6 + 2]
    assert micro.targets.tolist()[3:] == [12, 13]
    assert micro.target_counts.tolist() == [2, 1, 2]


def test_values_are_summed_over_each_completion():
    assert lay_out([PAIR]).per_completion(torch.tensor([1.0, 2.0, 4.0])).tolist() == [3.0, 4.0]


def test_a_sum_keeps_what_fp32_would_drop():
    """Near 45,000 the resolution of fp32 is 0.004."""
    values = torch.tensor([45_000.0, 2**-10, 4.0])
    assert lay_out([PAIR]).per_completion(values).tolist() == [45_000 + 2**-10, 4.0]


def completions(seed=0):
    """Six prompts of 1 to 40 tokens with two replies each; adjacent rows share the prompt."""
    generator = torch.Generator().manual_seed(seed)

    def ids(count):
        return tuple(torch.randint(3, 500, (count,), generator=generator).tolist())

    rows = []
    for prompt, chosen, rejected in [(7, 33, 5), (40, 9, 30), (1, 1, 9), (12, 1, 1), (25, 40, 40)]:
        shared = ids(prompt)
        rows += [Completion(shared, ids(chosen)), Completion(shared, ids(rejected))]
    return rows


def test_sharing_a_prompt_changes_no_logprob():
    model, rows = random_model("qwen2"), completions()
    use_packed_attention(model)
    pairs = zip(rows[::2], rows[1::2], strict=True)
    shared = [
        PackedRow(chosen.prompt, (chosen.reply, rejected.reply)) for chosen, rejected in pairs
    ]
    single = [PackedRow(row.prompt, (row.reply,)) for row in rows]
    with torch.no_grad():
        micro = lay_out(shared)
        together = predicted_logprobs(model, micro)
        apart = predicted_logprobs(model, lay_out(single))
    assert len(micro.ids) == sum(row.length for row in rows) - sum(
        len(row.prompt) for row in rows[::2]
    )
    torch.testing.assert_close(together, apart, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["qwen2", "mistral-window", "gemma2", "gpt-oss", "qwen3-moe"])
def test_no_row_ever_attends_to_another(family):
    """Replacing every token of one pair leaves the log-probs of the others unchanged."""
    model, engine = tiny_model(family), Packed(tokens_per_micro_batch=10_000)
    rows, other = completions(), completions(seed=1)
    before = engine.reply_logprobs(model, rows, batch=1)
    after = engine.reply_logprobs(model, [*rows[:4], *other[4:6], *rows[6:]], batch=1)
    for at in (0, 1, 2, 3, 6, 7, 8, 9):
        torch.testing.assert_close(after[at], before[at], rtol=0, atol=1e-6)
    assert (after[5] - before[5]).abs().max() > 1e-3


def test_the_chosen_reply_does_not_attend_to_the_rejected_one():
    model, engine = random_model("qwen2"), Packed()
    rows = completions()
    changed = [rows[0], Completion(rows[1].prompt, (9, 8, 7)), *rows[2:]]
    before, after = (engine.reply_logprobs(model, each, batch=1)[0] for each in (rows, changed))
    torch.testing.assert_close(after, before, rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt-oss"])
def test_without_segments_the_model_attends_as_before(family):
    """Generation and padded batches on a model switched to packed attention."""
    rows = completions()
    untouched = reply_logprobs(tiny_model(family), rows, batch=4)
    touched = tiny_model(family)
    use_packed_attention(touched)
    for found, expected in zip(reply_logprobs(touched, rows, batch=4), untouched, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0 if family == "llama" else 1e-5)


@pytest.mark.parametrize("family", ["llama", "mistral-window", "gemma2", "gpt-oss"])
def test_without_segments_the_model_generates_as_before(family):
    """Prompts of 7 and 30 tokens, left-padded; replies exceed the window of 16."""
    padded = torch.randint(3, 500, (2, 30), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(padded)
    mask[0, :23] = 0
    found = []
    for packed in (False, True):
        model: Any = tiny_model(family)
        if packed:
            use_packed_attention(model)
        options = {"max_new_tokens": 20, "do_sample": False, "eos_token_id": None}
        found.append(model.generate(padded, attention_mask=mask, **options))
    assert torch.equal(*found)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (config_of("qwen3-next"), r"Qwen3NextGatedDeltaNet \(layer 0\) mixes tokens by more than"),
        (config_of("falcon-h1"), r"FalconH1Mixer \(layer 0\) mixes tokens by more than attention"),
        (config_of("lfm2"), r"Lfm2ShortConv \(layer 0\) mixes tokens by more than attention"),
        (config_of("falcon"), "the attention of falcon is its own"),
        (config_of("llama", attention_dropout=0.1), r"uses attention dropout \(10%\)"),
        (config_of("gemma3", use_bidirectional_attention=True), "attention is not causal"),
        (
            AutoConfig.for_model("gpt2", n_embd=32, n_layer=2, n_head=4),
            "GPT2Model has no list of layers",
        ),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_a_model_that_cannot_be_packed_is_refused_by_name(config, reason):
    model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(ModelError, match=f"{reason}.*; set engine.name=stock"):
        use_packed_attention(model)
