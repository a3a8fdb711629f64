"""Engine `hf`: transformers' own `generate`, on left-padded batches of prompts of similar length.

Tokens are chosen by `choose`, not by transformers, whose draws depend on the other rows.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from alignment.answers.choose import choose
from alignment.answers.request import Request, Written
from alignment.answers.settings import Sampling

_log = logging.getLogger(__name__)


def write_padded(
    model: Any,
    requests: Sequence[Request],
    *,
    stops: Sequence[int],
    pad: int,
    sampling: Sampling,
    batch: int,
) -> Iterator[Written]:
    """Write every answer, shortest prompts first; a batch that does not fit in memory is halved.

    Raises:
        torch.OutOfMemoryError: a single row does not fit.
    """
    waiting = sorted(requests, key=lambda request: len(request.ids))
    while waiting:
        try:
            found = _batch(model, waiting[:batch], stops, pad, sampling)
        except torch.OutOfMemoryError:
            if batch == 1:
                raise
            found, batch = [], max(1, min(batch, len(waiting)) // 2)
        if not found:  # outside of `except`, where the failed batch is no longer referenced
            torch.cuda.empty_cache()
            _log.warning("Out of memory: answering %d prompts at a time from here on.", batch)
        yield from found
        waiting = waiting[len(found) :]


def _batch(
    model: Any, requests: Sequence[Request], stops: Sequence[int], pad: int, sampling: Sampling
) -> list[Written]:
    width = max(len(request.ids) for request in requests)
    ids = torch.tensor([[pad] * (width - len(r.ids)) + list(r.ids) for r in requests])
    mask = torch.tensor([[0] * (width - len(r.ids)) + [1] * len(r.ids) for r in requests])
    device = next(model.parameters()).device
    uniforms = torch.stack([request.uniforms(sampling) for request in requests])
    choice = _Choice(uniforms.to(device), sampling)
    output = model.generate(
        input_ids=ids.to(device),
        attention_mask=mask.to(device),
        logits_processor=LogitsProcessorList([choice]),
        generation_config=GenerationConfig(
            max_new_tokens=sampling.max_new_tokens,
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
            eos_token_id=list(stops),
            pad_token_id=pad,
            use_cache=True,
        ),
    )
    logprobs = torch.stack(choice.logprobs, dim=1).tolist()
    new = output[:, width:].tolist()
    return [_cut(*row, stops) for row in zip(requests, new, logprobs, strict=True)]


class _Choice(LogitsProcessor):
    """Leaves only the token that `choose` chose, and notes its log-probability."""

    def __init__(self, uniforms: Tensor, sampling: Sampling) -> None:
        self._uniforms, self._sampling = uniforms, sampling
        self.logprobs: list[Tensor] = []

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        del input_ids
        step = self._uniforms[:, len(self.logprobs)]
        chosen = choose(scores.float(), step, self._sampling)
        self.logprobs.append(chosen.logprobs)
        only = torch.full_like(scores, -torch.inf)
        return only.scatter_(1, chosen.tokens[:, None], 0.0)


def _cut(
    request: Request, ids: Sequence[int], logprobs: Sequence[float], stops: Sequence[int]
) -> Written:
    """The answer in generated ids: what comes before the first stop token."""
    length = next((at for at, index in enumerate(ids) if index in stops), len(ids))
    stopped = length < len(ids)
    return Written(request, ids[:length], sum(logprobs[: length + stopped]), stopped)
