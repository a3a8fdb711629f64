"""Greedy replies in batches, left-padded.

Prompts are sorted by length so that batches need little padding; replies are returned in the
order of the prompts. Not here: judging a reply (`evaluate`).
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
        text: the reply without special tokens.
        tokens: number of generated tokens, without the stop token.
        stopped: whether the model ended its turn within the limit.
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
