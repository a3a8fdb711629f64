"""Chooses the next token of each row from its logits and one random number per row.

A row's choice depends on its own logits and number alone, so other rows in the batch do not matter.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from alignment.answers.settings import Sampling


class Chosen(NamedTuple):
    """The token chosen in each row, and its log-probability under the model: [rows] each."""

    tokens: Tensor
    logprobs: Tensor


def choose(logits: Tensor, uniforms: Tensor, sampling: Sampling) -> Chosen:
    """The next token of each row.

    Args:
        logits: [rows, vocab], fp32.
        uniforms: [rows], from [0, 1); not used if nothing is drawn.
        sampling: how to draw.
    """
    if sampling.greedy:
        tokens = logits.max(-1).indices  # as argmax, in a third of its time on a CPU
    else:
        tokens = _draw(_narrowed(logits / sampling.temperature, sampling), uniforms)
    own = logits.gather(1, tokens[:, None])[:, 0]
    return Chosen(tokens, own - logits.logsumexp(-1))


def _narrowed(logits: Tensor, sampling: Sampling) -> Tensor:
    """The logits with -inf for tokens that top_k, then top_p, leave out."""
    if 0 < sampling.top_k < logits.shape[-1]:
        least = logits.topk(sampling.top_k).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if sampling.top_p < 1:
        probabilities, order = logits.softmax(-1).sort(descending=True, stable=True)
        before = probabilities.cumsum(-1) - probabilities
        outside = torch.zeros_like(before, dtype=torch.bool)
        outside.scatter_(1, order, before >= sampling.top_p)
        logits = logits.masked_fill(outside, -torch.inf)
    return logits


def _draw(logits: Tensor, uniforms: Tensor) -> Tensor:
    """Inverse transform sampling: the first token at which the summed probability exceeds u."""
    probabilities = logits.softmax(-1)
    summed = probabilities.cumsum(-1)
    found = torch.searchsorted(summed, uniforms[:, None] * summed[:, -1:], right=True)[:, 0]
    # u times the sum can round up to the sum, which nothing exceeds
    return torch.where(found < logits.shape[-1], found, probabilities.argmax(-1))
