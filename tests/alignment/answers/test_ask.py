from typing import NamedTuple

import pytest
import torch
from transformers import GenerationConfig

from alignment.answers.ask import generate
from alignment.answers.decode import without_thought
from alignment.models.chat_template import end_of_turn_id, render
from alignment.records.text import Message
from tests.chats import with_template

ASK = (Message(role="user", content="Is it so?"),)
LONG = (
    Message(role="system", content="Be brief, be clear, and never say more than you must."),
    Message(role="user", content="The answer is yes. The answer is no. Which answer is it?"),
)


@pytest.fixture
def tiny(open_tiny):
    """The tiny model with amplified layers; without that it only repeats the last token."""
    loaded = open_tiny()
    with torch.no_grad():
        for layer in loaded.model.model.layers.parameters():
            if layer.ndim == 2:
                layer *= 20
    return loaded


@pytest.fixture
def head(tiny):
    """The model's last layer, untied from the embedding and with a bias of its own."""
    tied = tiny.model.get_output_embeddings()
    own = torch.nn.Linear(tied.in_features, tied.out_features)
    own.load_state_dict({"weight": tied.weight, "bias": torch.zeros(tied.out_features)})
    tiny.model.lm_head = own.requires_grad_(requires_grad=False)
    return own


@pytest.fixture
def talkative(tiny, head):
    """A model that never ends its turn."""
    head.bias[end_of_turn_id(tiny.tokenizer)] = -1e4
    return tiny


class Said(NamedTuple):
    text: str
    tokens: int
    stopped: bool


def ask(loaded, prompts, **options):
    defaults = {"max_new_tokens": 8, "batch": 4}
    found = generate(loaded.model, loaded.tokenizer, prompts, **{**defaults, **options})
    return [Said(one.text, one.tokens, one.stopped) for one in found]


def naive(loaded, prompt, tokens):
    """Greedy decoding until the stop token, one forward per token; no cache, no padding."""
    ids = render(loaded.tokenizer, prompt, add_generation_prompt=True)
    reply: list[int] = []
    while len(reply) < tokens:
        with torch.no_grad():
            logits = loaded.model(input_ids=torch.tensor([ids + reply])).logits[0, -1]
        if int(logits.argmax()) == end_of_turn_id(loaded.tokenizer):
            break
        reply.append(int(logits.argmax()))
    return reply


def words(loaded, ids):
    return loaded.tokenizer.decode(ids, skip_special_tokens=True)


def test_a_reply_is_the_most_likely_token_again_and_again(talkative):
    (reply,) = ask(talkative, [LONG])
    assert reply.text == words(talkative, naive(talkative, LONG, 8))
    assert (reply.tokens, reply.stopped) == (8, False)


def test_a_short_prompt_beside_a_long_one_gets_the_reply_it_gets_alone(talkative):
    """Attending to left padding, or positions shifted by it, would change the reply."""
    together = ask(talkative, [LONG, ASK, LONG])
    assert together == [*ask(talkative, [LONG]), *ask(talkative, [ASK]), *ask(talkative, [LONG])]
    assert together[1].text == words(talkative, naive(talkative, ASK, 8))


@pytest.mark.parametrize(
    "theirs",
    [
        {"repetition_penalty": 5.0},
        {"no_repeat_ngram_size": 1},
        {"num_beams": 3},
        {"suppress_tokens": list(range(100))},
        {"min_new_tokens": 8},
    ],
    ids=lambda theirs: next(iter(theirs)),
)
def test_settings_of_the_model_folder_change_no_reply(talkative, theirs):
    expected = ask(talkative, [LONG, ASK])
    configured = GenerationConfig(**theirs)
    talkative.model.generation_config = configured
    assert ask(talkative, [LONG, ASK]) == expected
    assert talkative.model.generation_config is configured


def test_every_stop_token_that_the_model_knows_ends_a_reply(talkative):
    """As the model folder's generation config lists them: Llama-3 has three."""
    (unending,) = ask(talkative, [LONG])
    third = naive(talkative, LONG, 3)[-1]
    talkative.model.generation_config.eos_token_id = [0, third]
    (ended,) = ask(talkative, [LONG])
    assert ended.stopped
    assert ended.tokens <= 2
    assert unending.text.startswith(ended.text)


@pytest.mark.parametrize(
    ("template", "said", "answer"),
    [
        ("qwen3", "<think>\n\n</think>\n\nyes", "yes"),
        ("qwen3", "<think>\nso", ""),
        ("qwen3_5_think", "so\n</think>\n\nyes", "yes"),
        ("qwen3_5_think", "so", ""),
        ("qwen2_5", "yes", "yes"),
    ],
)
def test_a_verifier_sees_the_answer_without_its_thought(chatml_tokenizer, template, said, answer):
    tokenizer = with_template(chatml_tokenizer, template)
    assert without_thought(tokenizer, said, said) == answer


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_replies_come_in_the_order_of_the_prompts_whatever_the_batch(talkative, batch):
    assert ask(talkative, [LONG, ASK, LONG, ASK], batch=batch) == ask(talkative, [LONG, ASK] * 2)


def test_a_model_that_ends_its_turn_at_once_gives_an_empty_reply_and_has_stopped(tiny, head):
    head.bias[end_of_turn_id(tiny.tokenizer)] = 1e4
    (reply,) = ask(tiny, [ASK])
    assert reply == ("", 0, True)


def test_a_reply_ends_before_its_stop_token_which_is_not_counted(tiny, head):
    """The head is rigged to stop after three tokens: at state h, and at no other state.

    All states have the length of h, so h * state is largest at h itself, and far below elsewhere.
    """
    stop = end_of_turn_id(tiny.tokenizer)
    head.bias[stop] = -1e4
    first_three = naive(tiny, LONG, 3)
    ids = render(tiny.tokenizer, LONG, add_generation_prompt=True) + first_three
    with torch.no_grad():
        h = tiny.model.model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
    highest = head(h).max()
    head.weight[stop] = 100 * h
    head.bias[stop] = highest + 1 - 100 * h @ h
    ended, beside_it = ask(tiny, [LONG, ASK])
    assert (ended.tokens, ended.stopped) == (3, True)
    assert ended.text == words(tiny, first_three)
    assert (beside_it.tokens, beside_it.stopped) == (8, False)
    assert beside_it.text == words(tiny, naive(tiny, ASK, 8))


def test_dropout_is_off_while_generating_and_the_mode_is_restored(
    open_tiny, tiny_ref, make_adapter
):
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
    seen: list[int] = []
    ask(tiny, [ASK] * 5, batch=2, max_new_tokens=1, on_progress=seen.append)
    assert seen == [1, 2, 3, 4, 5]


def test_no_prompts_get_no_replies(tiny):
    assert ask(tiny, []) == []
