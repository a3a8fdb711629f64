import pytest
import torch

from alignment.records.text import Message, PreferencePair
from alignment.scoring.logprobs import (
    Completion,
    encode,
    pair_logprobs,
    reply_distributions,
    reply_logprobs,
)
from tests.alignment.naive import naive_logprob


def turn(role, content):
    return Message(role=role, content=content)


SYSTEM, ASK = turn("system", "Be brief."), turn("user", "Is it so?")
YES, NO = turn("assistant", "The answer is yes."), turn("assistant", "no")
PAIR = PreferencePair.of(
    (SYSTEM, ASK), chosen=(YES,), rejected=(NO,), task_type="yes-no", source="test"
)


def test_a_reply_ends_with_its_end_of_turn_token(chatml_tokenizer):
    row = encode(chatml_tokenizer, (SYSTEM, ASK), (YES,), max_length=256)
    assert chatml_tokenizer.decode(row.prompt) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nIs it so?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert chatml_tokenizer.decode(row.reply) == "The answer is yes.<|im_end|>"
    assert row.length == len(row.prompt) + len(row.reply)


def test_a_reply_is_cut_at_the_length_limit(chatml_tokenizer):
    whole = encode(chatml_tokenizer, (SYSTEM, ASK), (YES,), max_length=256)
    cut = encode(chatml_tokenizer, (SYSTEM, ASK), (YES,), max_length=len(whole.prompt) + 2)
    assert cut == Completion(whole.prompt, whole.reply[:2])


def test_logprobs_agree_with_a_loop_over_single_tokens(open_tiny, pairs):
    loaded = open_tiny()
    found = pair_logprobs(loaded.model, loaded.tokenizer, pairs[:4], batch=3, max_length=256)
    for at, pair in enumerate(pairs[:4]):
        for side, reply in ((found.chosen, pair.chosen), (found.rejected, pair.rejected)):
            row = encode(loaded.tokenizer, pair.prompt, reply, max_length=256)
            expected = naive_logprob(loaded.model, row.prompt, row.reply)
            assert side[at].item() == pytest.approx(expected, rel=1e-5)


def test_padding_does_not_change_a_sequence_logprob(open_tiny):
    """Alone, and in a batch whose other row is four times as long."""
    model = open_tiny().model
    short, long = Completion((5, 6, 7), (8, 9)), Completion(tuple(range(3, 30)), (4, 5, 6))
    (alone,) = reply_logprobs(model, [short], batch=1)
    padded, _ = reply_logprobs(model, [short, long], batch=2)
    torch.testing.assert_close(padded, alone)


def test_the_order_of_rows_and_the_batch_size_change_nothing(open_tiny):
    model = open_tiny().model
    rows = [Completion(tuple(range(3, 4 + n)), (9, 8, 7)) for n in (12, 1, 30, 5)]
    one_by_one = [reply_logprobs(model, [row], batch=1)[0] for row in rows]
    for batch in (1, 3, 8):
        for found, expected in zip(
            reply_logprobs(model, rows, batch=batch), one_by_one, strict=True
        ):
            torch.testing.assert_close(found, expected)


def test_prompt_tokens_contribute_nothing(open_tiny):
    """log p(reply | prompt) = log p(prompt, reply) - log p(prompt): no term of the prompt remains.

    All three by the loop, with the first token given.
    """
    model = open_tiny().model
    prompt, reply = (3, 4, 5, 6), (7, 8, 9)
    (found,) = reply_logprobs(model, [Completion(prompt, reply)], batch=1)
    assert len(found) == len(reply)
    joint = naive_logprob(model, prompt[:1], (*prompt[1:], *reply))
    of_prompt = naive_logprob(model, prompt[:1], prompt[1:])
    assert found.sum().item() == pytest.approx(joint - of_prompt, rel=1e-5)


def test_the_probabilities_of_all_next_tokens_sum_to_one(open_tiny):
    (found,) = reply_distributions(open_tiny().model, [Completion((3, 4), (5, 6, 7))], batch=1)
    assert found.shape == (3, len(open_tiny().tokenizer))
    torch.testing.assert_close(found.exp().sum(1), torch.ones(3))


def test_distributions_contain_the_logprobs_of_the_reply(open_tiny):
    model, row = open_tiny().model, Completion((3, 4), (5, 6, 7))
    (whole,) = reply_distributions(model, [row], batch=1)
    (of_reply,) = reply_logprobs(model, [row], batch=1)
    torch.testing.assert_close(whole[range(3), row.reply], of_reply)


def test_swapping_chosen_and_rejected_negates_the_margin(open_tiny):
    loaded = open_tiny()
    swapped = PAIR.model_copy(update={"chosen": PAIR.rejected, "rejected": PAIR.chosen})
    found = pair_logprobs(loaded.model, loaded.tokenizer, [PAIR, swapped], batch=4, max_length=256)
    first, second = found.ratio.tolist()
    assert first == pytest.approx(-second)
    assert first != 0


def test_disabling_the_adapter_gives_the_reference(open_tiny, adapted, pairs):
    """An active adapter changes the log-probs; disabled, they equal the base model's exactly."""
    base = open_tiny()

    def score(loaded):
        return pair_logprobs(loaded.model, loaded.tokenizer, pairs, batch=4, max_length=256)

    on = score(adapted)
    with adapted.model.disable_adapter():
        off = score(adapted)
    assert torch.equal(off.chosen, score(base).chosen)
    assert torch.equal(off.rejected, score(base).rejected)
    assert (on.chosen - off.chosen).abs().min() > 1e-3


def test_the_mode_of_the_model_is_restored(open_tiny):
    model = open_tiny().model.train()
    reply_logprobs(model, [Completion((3,), (4,))], batch=1)
    assert model.training


def test_dropout_is_off_while_scoring(open_tiny, tiny_ref, make_adapter):
    model = open_tiny(tiny_ref.push(make_adapter("a", seed=1, lora_dropout=0.5))).model.train()
    row = Completion((3, 4, 5), (6, 7))
    (first,), (second,) = (reply_logprobs(model, [row], batch=1) for _ in range(2))
    assert torch.equal(first, second)


def test_progress_counts_rows(open_tiny):
    seen: list[int] = []
    rows = [Completion((3,), (4,))] * 5
    reply_logprobs(open_tiny().model, rows, batch=2, on_progress=seen.append)
    assert seen == [2, 4, 5]
