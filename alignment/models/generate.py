"""Greedy replies in batches, left-padded.

Prompts are sorted by length so that batches need little padding; replies are returned in the
order of the prompts. The settings are this module's own: a model folder's generation config may
hold a repetition penalty or beams, which would make greedy replies other than the most likely ones.
Not here: judging a reply (`evaluate`).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from alignment.models.chat_template import answer_of, opens_thought, render
from alignment.models.stopping import stop_ids
from alignment.records import Message


@dataclass(frozen=True)
class Reply:
    """One generated reply.

    Attributes:
        text: the reply without special tokens, with the thought before its answer.
        answer: the text without that thought; empty if the thought never ended.
        tokens: number of generated tokens, without the stop token.
        stopped: whether the model ended its turn within the limit.
    """

    text: str
    answer: str
    tokens: int
    stopped: bool


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[tuple[Message, ...]],
    *,
    max_new_tokens: int,
    batch: int,
    on_progress: Callable[[int], None] = lambda _: None,
) -> list[Reply]:
    """The greedy reply to each prompt: the most likely token at each step.

    The model's training or evaluation mode is restored afterwards.

    Args:
        model: a causal language model, with or without adapters.
        tokenizer: the model's tokenizer; its padding side is not used.
        prompts: messages of each prompt, ending with a user turn.
        max_new_tokens: maximum length of a reply in tokens.
        batch: prompts per forward pass.
        on_progress: called with the number of prompts answered so far.
    """
    encoded = [render(tokenizer, prompt, add_generation_prompt=True) for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda row: len(encoded[row]))
    replies: dict[int, Reply] = {}
    was_training = model.training
    model.eval()
    with torch.no_grad(), _own_settings(model) as theirs:
        stops = stop_ids(tokenizer, theirs.eos_token_id)
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            found = _batch(model, tokenizer, [encoded[row] for row in rows], stops, max_new_tokens)
            replies.update(zip(rows, found, strict=True))
            on_progress(len(replies))
    model.train(was_training)
    return [replies[row] for row in range(len(prompts))]


@contextmanager
def _own_settings(model: Any) -> Iterator[GenerationConfig]:
    """Put the model's generation config aside, whose values would fill ours where it is silent."""
    holders = [model, model.get_base_model()] if hasattr(model, "get_base_model") else [model]
    theirs = [holder.generation_config for holder in holders]
    for holder in holders:
        holder.generation_config = GenerationConfig()
    try:
        yield theirs[-1]
    finally:
        for holder, config in zip(holders, theirs, strict=True):
            holder.generation_config = config


def _batch(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    encoded: Sequence[Sequence[int]],
    stops: Sequence[int],
    max_new_tokens: int,
) -> list[Reply]:
    pad = tokenizer.pad_token_id
    width = max(map(len, encoded))
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in encoded])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in encoded])
    device = next(model.parameters()).device
    generator: Any = model
    output = generator.generate(
        input_ids=ids.to(device),
        attention_mask=mask.to(device),
        generation_config=GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
            eos_token_id=list(stops),
            pad_token_id=pad,
            use_cache=True,
        ),
    )
    return [reply_of(tokenizer, row[width:].tolist(), stops) for row in output]


def reply_of(tokenizer: PreTrainedTokenizerBase, ids: list[int], stops: Sequence[int]) -> Reply:
    """The reply in generated ids: what comes before the first stop token."""
    length = next((at for at, index in enumerate(ids) if index in stops), len(ids))
    text = str(tokenizer.decode(ids[:length], skip_special_tokens=True))
    return Reply(
        text=text,
        answer=_answer(tokenizer, str(tokenizer.decode(ids[:length])), text),
        tokens=length,
        stopped=length < len(ids),
    )


def _answer(tokenizer: PreTrainedTokenizerBase, raw: str, text: str) -> str:
    """The answer in a reply; its thought may be marked by special tokens, which `text` lacks."""
    begun = f"<think>{raw}" if opens_thought(tokenizer) else raw
    answer = answer_of(begun)
    if answer == begun:
        return text
    for special in tokenizer.all_special_tokens:
        answer = answer.replace(special, "")
    return answer
