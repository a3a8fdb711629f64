"""What the engines are asked for and what they write: token ids."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from alignment.answers.settings import Sampling


@dataclass(frozen=True)
class Request:
    """One answer to write: the ids of its prompt, and where its randomness comes from."""

    prompt_id: str
    sample: int
    ids: tuple[int, ...]
    seed: int

    def uniforms(self, sampling: Sampling) -> Tensor:
        """A number in [0, 1) for each token, [max_new_tokens] fp32; zeros if nothing is drawn."""
        if sampling.greedy:
            return torch.zeros(sampling.max_new_tokens)
        generator = torch.Generator().manual_seed(self.seed)
        return torch.rand(sampling.max_new_tokens, generator=generator)


class Written(NamedTuple):
    """The tokens of one answer, without the stop token; `logprob` and `stopped` as in `Answer`."""

    request: Request
    tokens: Sequence[int]
    logprob: float
    stopped: bool
