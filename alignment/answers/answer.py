"""What is asked of a model, and what it answered."""

from typing import NamedTuple

from alignment.records.base import Frozen
from alignment.records.text import Message


class Asked(NamedTuple):
    """A prompt to answer: its name, and its turns, of which the last is the user's."""

    id: str
    messages: tuple[Message, ...]


class Answer(Frozen):
    """One answer of a model.

    Attributes:
        prompt_id: the prompt that it answers.
        sample: its number among the answers to that prompt, from 0.
        text: the answer without special tokens, with the thought before it.
        answer: the text without that thought; empty if the thought never ended.
        tokens: number of generated tokens, without the stop token.
        logprob: log-probability of its tokens, stop token included, under the model at
            temperature 1, nats.
        stopped: whether the model ended its turn within the limit.
        seed: seed of its draws.
    """

    prompt_id: str
    sample: int
    text: str
    answer: str
    tokens: int
    logprob: float
    stopped: bool
    seed: int
