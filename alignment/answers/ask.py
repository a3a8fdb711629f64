"""Asks a model: answers to prompts, by the engine that can, each exactly once.

Only `Sampling` decides what is answered. A model folder's generation config may hold a repetition
penalty, beams or a top-k, and would change answers without a word; only its stop tokens are used.
Not here: judging an answer (`evaluate`), vLLM, which opens the model itself (`vllm.py`).
"""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from alignment.answers.answer import Answer, Asked
from alignment.answers.attention import HALF
from alignment.answers.continuous import continuous_obstacle, write_continuous
from alignment.answers.decode import read_answer
from alignment.answers.padded import write_padded
from alignment.answers.request import Request, each_once, requests_of
from alignment.answers.settings import AnswerEngine, Sampling
from alignment.models.stopping import stop_ids
from alignment.records.text import Message
from alignment.scoring.head import plain
from alignment.scoring.ranks import Ranks

_log = logging.getLogger(__name__)


@torch.no_grad()  # as a decorator it is not in force while the caller has the answer
def answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Iterable[Asked],
    sampling: Sampling,
    *,
    engine: AnswerEngine = "auto",
    batch: int = 16,
    rows: int = 256,
    done: Collection[tuple[str, int]] = (),
) -> Iterator[Answer]:
    """`sampling.samples` answers to each prompt, in the order in which they are finished.

    The model's training or evaluation mode and its generation config are restored at the end.

    Args:
        model: a causal language model, with or without adapters.
        tokenizer: the model's tokenizer; its padding side is not used.
        prompts: what to answer; ids are unique.
        sampling: how answers are drawn.
        engine: how they are computed; changes memory and speed only.
        batch: answers that engine `hf` writes at once, and any engine on a CPU.
        rows: answers that engine `continuous` writes at once on a GPU, if memory allows.
        done: prompt id and sample of answers that exist already and are left out.

    Raises:
        AlignmentError: the model computes no numbers, or an engine left an answer out.
        torch.OutOfMemoryError: a single answer does not fit in memory.
    """
    requests = requests_of(tokenizer, prompts, sampling, done)
    with _evaluating(model), own_settings(model) as theirs:
        stops = stop_ids(tokenizer, theirs.eos_token_id)
        if _continuous(model, requests, sampling, engine):
            rows = rows if plain(model).device.type == "cuda" else batch
            written = write_continuous(model, requests, stops=stops, sampling=sampling, rows=rows)
        else:
            pad = cast(int, tokenizer.pad_token_id)
            written = write_padded(
                model, requests, stops=stops, pad=pad, sampling=sampling, batch=batch
            )
        for found in each_once(requests, written):
            yield read_answer(tokenizer, found)


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[tuple[Message, ...]],
    *,
    max_new_tokens: int,
    batch: int,
    engine: AnswerEngine = "auto",
    on_progress: Callable[[int], None] = lambda _: None,
) -> list[Answer]:
    """The greedy answer to each prompt, in the order of the prompts.

    On several devices, each answers its share of the prompts.

    Args:
        model: as for `answers`.
        tokenizer: as for `answers`.
        prompts: messages of each prompt, ending with a user turn.
        max_new_tokens: maximum length of an answer in tokens.
        batch: as for `answers`.
        engine: as for `answers`.
        on_progress: called with the number of prompts answered so far.
    """
    asked = [Asked(f"{number}", messages) for number, messages in enumerate(prompts)]
    sampling = Sampling(max_new_tokens=max_new_tokens)
    ranks = Ranks.current()

    def find(share: Sequence[int]) -> list[Answer]:
        own, found = [asked[at] for at in share], dict[str, Answer]()
        for answer in answers(model, tokenizer, own, sampling, engine=engine, batch=batch):
            found[answer.prompt_id] = answer
            on_progress(ranks.counted(len(found), len(asked)))
        return [found[one.id] for one in own]

    return ranks.spread([1] * len(asked), find)


def _continuous(
    model: Any, requests: Sequence[Request], sampling: Sampling, engine: AnswerEngine
) -> bool:
    """Whether engine `continuous` is to be used; a model that it cannot run is named in the log."""
    if engine == "hf" or not requests:
        return False
    if engine == "auto" and plain(model).device.type == "cuda" and plain(model).dtype not in HALF:
        return False  # torch's kernel takes half precision only
    longest = max(len(request.ids) for request in requests) + sampling.max_new_tokens
    obstacle = continuous_obstacle(model, longest)
    if obstacle:
        _log.warning("Answers are written by engine hf, which is slower: %s.", obstacle)
    return obstacle is None


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@contextmanager
def own_settings(model: Any) -> Iterator[GenerationConfig]:
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
