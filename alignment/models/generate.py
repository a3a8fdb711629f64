"""Greedy replies in batches, left-padded.

Prompts are answered in order of their length, so a batch wastes little padding; results come
back in the order asked. Not here: what a reply is worth (`evaluate`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alignment.models.chat_template import end_of_turn_id, render
from alignment.records import Message


@dataclass(frozen=True)
class Reply:
    """One generated reply.

    Attributes:
        text: without special tokens.
        tokens: generated tokens, the stop token not counted.
        stopped: whether the model ended the turn itself within the limit.
    """

    text: str
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
    """The most likely reply to each prompt, token by token.

    The model's mode is put back as it was.

    Args:
        model: a causal language model, with or without adapters.
        tokenizer: of that model; its padding side is not used.
        prompts: messages, the last one of the user.
        max_new_tokens: longest reply in tokens.
        batch: prompts per forward pass.
        on_progress: called with the number of prompts answered so far.
    """
    encoded = [render(tokenizer, prompt, add_generation_prompt=True) for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda row: len(encoded[row]))
    replies: dict[int, Reply] = {}
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            found = _batch(model, tokenizer, [encoded[row] for row in rows], max_new_tokens)
            replies.update(zip(rows, found, strict=True))
            on_progress(len(replies))
    model.train(was_training)
    return [replies[row] for row in range(len(prompts))]


def _batch(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    encoded: Sequence[Sequence[int]],
    max_new_tokens: int,
) -> list[Reply]:
    stop, pad = end_of_turn_id(tokenizer), tokenizer.pad_token_id
    width = max(map(len, encoded))
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in encoded])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in encoded])
    device = next(model.parameters()).device
    generator: Any = model
    output = generator.generate(
        input_ids=ids.to(device),
        attention_mask=mask.to(device),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        temperature=None,
        top_p=None,
        top_k=None,
        eos_token_id=stop,
        pad_token_id=pad,
        use_cache=True,
    )
    return [_reply(tokenizer, row[width:].tolist(), stop) for row in output]


def _reply(tokenizer: PreTrainedTokenizerBase, ids: list[int], stop: int) -> Reply:
    stopped = stop in ids
    kept = ids[: ids.index(stop)] if stopped else ids
    text = tokenizer.decode(kept, skip_special_tokens=True)
    return Reply(text=str(text), tokens=len(kept), stopped=stopped)
