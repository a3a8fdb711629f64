import pytest
import torch

from alignment.data.encode import end_of_turn_id, render
from alignment.evaluate.generate import generate
from alignment.records import Message

ASK = (Message(role="user", content="Is it so?"),)
LONG = (
    Message(role="system", content="Be brief, be clear, and never say more than you must."),
    Message(role="user", content="The answer is yes. The answer is no. Which answer is it?"),
)


@pytest.fixture
def tiny(open_tiny):
    return open_tiny()


@pytest.fixture
def biased(tiny):
    """A function that makes the model end its turn always (1e4), or never (-1e4)."""

    def make(bias):
        head = tiny.model.get_output_embeddings()
        with_bias = torch.nn.Linear(head.in_features, head.out_features)
        with torch.no_grad():
            with_bias.weight.copy_(head.weight)
            with_bias.bias.zero_()
            with_bias.bias[end_of_turn_id(tiny.tokenizer)] = bias
        tiny.model.lm_head = with_bias
        return tiny

    return make


def ask(loaded, prompts, **options):
    defaults = {"max_new_tokens": 8, "batch": 4}
    return generate(loaded.model, loaded.tokenizer, prompts, **{**defaults, **options})


def naive(loaded, prompt, tokens):
    """The most likely token, appended, and again, until it is the stop token; no cache, no padding.

    The ids, and by how much the stop token lost at each of them.
    """
    stop = end_of_turn_id(loaded.tokenizer)
    ids = render(loaded.tokenizer, prompt, add_generation_prompt=True)
    reply: list[int] = []
    gaps = []
    while len(reply) < tokens:
        with torch.no_grad():
            logits = loaded.model(input_ids=torch.tensor([ids + reply])).logits[0, -1]
        if int(logits.argmax()) == stop:
            break
        reply.append(int(logits.argmax()))
        gaps.append((logits.max() - logits[stop]).item())
    return reply, gaps


def words(loaded, ids):
    return loaded.tokenizer.decode(ids, skip_special_tokens=True)


def test_a_reply_is_the_most_likely_token_again_and_again(biased):
    loaded = biased(-1e4)
    (reply,) = ask(loaded, [LONG])
    assert reply.text == words(loaded, naive(loaded, LONG, 8)[0])
    assert (reply.tokens, reply.stopped) == (8, False)


def test_a_short_prompt_beside_a_long_one_gets_the_reply_it_gets_alone(biased):
    """Left padding that the model looked at, or positions that it shifted, would change it."""
    loaded = biased(-1e4)
    together = ask(loaded, [LONG, ASK, LONG])
    assert together == [*ask(loaded, [LONG]), *ask(loaded, [ASK]), *ask(loaded, [LONG])]
    assert together[1].text == words(loaded, naive(loaded, ASK, 8)[0])


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_replies_come_in_the_order_of_the_prompts_whatever_the_batch(biased, batch):
    loaded = biased(-1e4)
    assert ask(loaded, [LONG, ASK, LONG, ASK], batch=batch) == ask(loaded, [LONG, ASK] * 2)


def test_a_model_that_ends_its_turn_at_once_says_nothing_and_has_stopped(biased):
    (reply,) = ask(biased(1e4), [ASK])
    assert (reply.text, reply.tokens, reply.stopped) == ("", 0, True)


def test_a_reply_ends_before_its_stop_token_which_is_not_counted(biased):
    """The stop token gets what it lacks most narrowly on the way of one reply, and a bit more.

    So that reply ends there, and those beside it go their own way.
    """
    prompts = [(Message(role="user", content=f"Question {n}?"),) for n in range(12)]
    ways = [naive(biased(0), prompt, 8)[1] for prompt in prompts]
    bias = next(min(gaps) for gaps in ways if min(gaps) < gaps[0]) + 1e-3
    loaded = biased(bias)
    replies = ask(loaded, prompts)
    assert any(0 < reply.tokens < 8 for reply in replies)
    for prompt, reply in zip(prompts, replies, strict=True):
        expected, _ = naive(loaded, prompt, 8)
        assert reply.text == words(loaded, expected)
        assert (reply.tokens, reply.stopped) == (len(expected), len(expected) < 8)


def test_dropout_is_off_while_answering_and_the_mode_is_put_back(open_tiny, tiny_ref, make_adapter):
    loaded = open_tiny(tiny_ref.push(make_adapter("a", seed=1, lora_dropout=0.5)))
    loaded.model.train()
    assert ask(loaded, [LONG]) == ask(loaded, [LONG])
    assert loaded.model.training


def test_the_tokenizers_padding_side_is_neither_used_nor_changed(tiny):
    replies = []
    for side in ("left", "right"):
        tiny.tokenizer.padding_side = side
        replies.append(ask(tiny, [LONG, ASK]))
        assert tiny.tokenizer.padding_side == side
    assert replies[0] == replies[1]


def test_progress_counts_prompts(tiny):
    seen = []
    ask(tiny, [ASK] * 5, batch=2, max_new_tokens=1, on_batch=seen.append)
    assert seen == [2, 4, 5]


def test_no_prompts_get_no_replies(tiny):
    assert ask(tiny, []) == []
