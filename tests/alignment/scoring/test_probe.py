import math
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from alignment.errors import TrainingError
from alignment.scoring import probe as module
from alignment.scoring.logprobs import Completion, reply_distributions
from alignment.scoring.probe import (
    PROBE_TOKENS,
    Probe,
    divergence,
    last_replies,
    probe_rows,
    record_probe,
    save_probe,
)
from benchmarks.tiny_models import tiny_model


def of_length(tokens):
    return Completion((1,), (2,) * tokens)


def test_a_probe_has_as_many_replies_as_fit_into_512_tokens():
    """200 + 200 = 400 fit; 112 more make 512, which also fit; one more does not."""
    assert PROBE_TOKENS == 512
    rows = [of_length(200), of_length(200), of_length(112), of_length(1)]
    assert probe_rows(rows) == rows[:3]


def test_a_probe_has_at_least_one_reply_cut_to_the_limit():
    """With a vocabulary of 152,064, a reply of 4,096 tokens would need 2.5 GB in fp32."""
    prompt, reply = (7,) * 900, tuple(range(900))
    (row,) = probe_rows([Completion(prompt, reply), of_length(1)])
    assert row == Completion(prompt, reply[:512])
    assert probe_rows([]) == []


def test_replies_within_the_limit_are_probed_unchanged():
    assert probe_rows([of_length(512)]) == [of_length(512)]
    assert probe_rows([of_length(1), of_length(512)]) == [of_length(1)]


def test_distributions_and_the_probe_agree_on_their_rows(open_tiny):
    rows = [Completion((3, 4), (5, 6)), Completion((3,), (5,))]
    found = reply_distributions(open_tiny().model, rows, batch=2)
    assert [len(one) for one in found] == [2, 1]


def says(*odds) -> Any:
    """A Llama without layers whose hidden states are all (1, 1): it says the same everywhere."""
    config = LlamaConfig(
        vocab_size=len(odds),
        hidden_size=2,
        num_hidden_layers=0,
        num_attention_heads=1,
        rms_norm_eps=0.0,
        bos_token_id=0,
        eos_token_id=1,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.model.embed_tokens.weight.fill_(1.0)
        model.lm_head.weight[:, 0] = torch.tensor(odds).log()
        model.lm_head.weight[:, 1] = 0.0
    return model


def test_the_divergence_of_two_distributions():
    """Trained (1/2, 1/2), loaded (1/4, 3/4), one reply token with id 0.

    |log 1/2 - log 1/4| = log 2. KL = 1/2 log 2 + 1/2 log(2/3) = 1/2 log(4/3).
    The loaded one puts 1 first; the trained one, at a tie, the first, 0: they disagree.
    """
    trained = record_probe(says(0.5, 0.5), [Completion((1,), (0,))])
    found = divergence(trained, says(0.25, 0.75))
    assert found == pytest.approx(
        {"mean_abs_logprob": math.log(2), "kl": 0.5 * math.log(4 / 3), "top1": 0.0}
    )


def test_a_model_agrees_with_itself_where_tokens_tie():
    """bfloat16 has many ties; which of them a sort puts first depends on how many it returns."""
    tied = says(*[1 / 2000] * 2000)
    trained = record_probe(tied, [Completion((1,), (0,))])
    assert divergence(trained, tied)["top1"] == 1


def test_tokens_outside_the_choices_count_as_one_token(monkeypatch):
    """Two of four choices are kept. Trained (4, 2, 1, 1) / 8, loaded (2, 2, 1, 3) / 8.

    KL over 4/8, 2/8 and the rest, 2/8 against 4/8:
    1/2 log 2 + 1/4 log 1 + 1/4 log 1/2 = 1/4 log 2. The whole KL is 1/2 log 2 + 1/8 log 1/3.
    """
    monkeypatch.setattr(module, "PROBE_CHOICES", 2)
    trained = record_probe(says(0.5, 0.25, 0.125, 0.125), [Completion((1,), (0,))])
    found = divergence(trained, says(0.25, 0.25, 0.125, 0.375))["kl"]
    assert found == pytest.approx(0.25 * math.log(2))
    assert found < 0.5 * math.log(2) + 0.125 * math.log(1 / 3)


def test_a_model_does_not_diverge_from_itself_even_after_the_probe_was_stored(
    open_tiny, conversations, tmp_path
):
    loaded = open_tiny()
    rows = probe_rows(last_replies(loaded.tokenizer, conversations))
    record_probe(loaded.model, rows).save(tmp_path / "probe.safetensors")
    stored = Probe.load(tmp_path / "probe.safetensors")
    assert list(stored.rows) == rows
    found = divergence(stored, open_tiny().model)
    assert found == {"mean_abs_logprob": 0.0, "kl": 0.0, "top1": 1.0}


def test_a_probe_scores_the_last_reply_given_the_turns_before_it(open_tiny, conversations):
    tokenizer = open_tiny().tokenizer
    first, *_ = last_replies(tokenizer, conversations)
    reply = conversations[0].messages[-1].content
    assert tokenizer.decode(first.reply) == f"{reply}<|im_end|>"
    assert tokenizer.decode(first.prompt).endswith("<|im_start|>assistant\n")


@pytest.fixture
def adapted(open_tiny, make_adapter, tmp_path):
    """The tiny model with an adapter, as PEFT leaves it at the end of a training."""
    from peft import PeftModel

    make_adapter("trained", seed=1)
    model = open_tiny().model
    PeftModel.from_pretrained(model, tmp_path / "trained")
    return model


@pytest.mark.parametrize("bf16", [False, True])
def test_training_saves_the_probe_of_its_model_with_the_adapter_frozen(
    adapted, open_tiny, conversations, tmp_path, bf16
):
    rows = probe_rows(last_replies(open_tiny().tokenizer, conversations))
    gap = save_probe(adapted, rows, tmp_path / "probe.safetensors", bf16=bf16)
    assert 0 <= gap < (0.05 if bf16 else 1e-5)
    assert divergence(Probe.load(tmp_path / "probe.safetensors"), adapted)["mean_abs_logprob"] == 0
    assert divergence(Probe.load(tmp_path / "probe.safetensors"), open_tiny().model)["kl"] > 1e-3


def test_an_adapter_that_changes_when_frozen_is_an_error(
    adapted, open_tiny, conversations, tmp_path
):
    """Simulated by applying its scale twice."""
    from peft.tuners.lora import LoraLayer

    rows = probe_rows(last_replies(open_tiny().tokenizer, conversations))
    for layer in adapted.modules():
        if isinstance(layer, LoraLayer):
            layer.scaling = Halving(layer.scaling)
    with pytest.raises(TrainingError, match="computes something else when frozen"):
        save_probe(adapted, rows, tmp_path / "probe.safetensors", bf16=False)


class Halving(dict[str, float]):
    """Scales that halve at every access."""

    def __getitem__(self, name):
        self[name] = super().__getitem__(name) / 2
        return super().__getitem__(name)


def test_a_probe_from_before_heads_were_whole_is_compared_as_it_was_taken(tmp_path):
    """Granite divides its logits by 8, which its probes once left out."""
    model = tiny_model("granite")
    rows = (Completion((3, 4), (5, 6, 7)),)
    with torch.no_grad():
        states = model.model(torch.tensor([[3, 4, 5, 6, 7]])).last_hidden_state[0, 1:-1]
        found = model.lm_head(states).log_softmax(-1)
    scores, choices = found.topk(100)
    gold = found.gather(1, torch.tensor([[5], [6], [7]]))[:, 0]
    Probe(rows, gold, choices, scores).save(tmp_path / "probe")
    tensors = load_file(tmp_path / "probe")
    del tensors["own_head"]
    save_file(tensors, tmp_path / "probe")
    assert divergence(Probe.load(tmp_path / "probe"), model)["mean_abs_logprob"] < 1e-5
    own = record_probe(model, rows)
    assert (own.gold - gold).abs().max() > 0.1
    own.save(tmp_path / "own")
    assert divergence(Probe.load(tmp_path / "own"), model)["mean_abs_logprob"] < 1e-6
