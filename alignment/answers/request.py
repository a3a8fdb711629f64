"""What the engines are asked for and what they write: token ids."""

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from alignment.answers.answer import Asked
from alignment.answers.settings import Sampling
from alignment.errors import AlignmentError
from alignment.models.chat_template import render


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


def requests_of(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Iterable[Asked],
    sampling: Sampling,
    done: Collection[tuple[str, int]],
) -> list[Request]:
    """A request for each answer that is not done yet."""
    done, found = frozenset(done), list[Request]()
    for name, messages in prompts:
        samples = [n for n in range(sampling.samples) if (name, n) not in done]
        if samples:
            ids = tuple(render(tokenizer, messages, add_generation_prompt=True))
            found += [Request(name, n, ids, sampling.seed_of(name, n)) for n in samples]
    return found


def each_once(requests: Sequence[Request], written: Iterable[Written]) -> Iterator[Written]:
    """The written answers, checked: numbers, one for each request, none twice, none missing."""
    missing = {(request.prompt_id, request.sample) for request in requests}
    if len(missing) < len(requests):
        raise AlignmentError("Two prompts have the same id; give each its own.")
    for found in written:
        if not math.isfinite(found.logprob):
            raise AlignmentError(
                f"The model computes no numbers: the log-probability of its answer to prompt "
                f"{found.request.prompt_id!r} is {found.logprob}. Look for broken weights."
            )
        missing.remove((found.request.prompt_id, found.request.sample))
        yield found
    if missing:
        raise AlignmentError(f"{len(missing)} answers were not written, the first {min(missing)}.")
