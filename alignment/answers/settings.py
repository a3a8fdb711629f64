"""How answers are drawn from a model; nothing else decides them, no model folder and no batch."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from alignment.records.base import Frozen, digest_of

AnswerEngine = Literal["auto", "hf", "continuous"]
"""hf: padded batches through transformers' `generate`. continuous: rows without padding that share
one memory of keys and values; a finished row is replaced. auto: continuous, on a GPU in half
precision, if the model can be run that way, else hf."""


class OwnEngine(Frozen):
    """An engine of this package writes the answers; all of them draw the same ones."""

    name: AnswerEngine = Field(
        default="auto",
        description="hf: transformers' generate, in padded batches. continuous: a finished answer "
        "makes room for the next one. auto: continuous (on a GPU in half precision) if the model's "
        "attention allows it, else hf.",
    )


class Vllm(Frozen):
    """vLLM writes the answers: a process of its own, in an environment of its own.

    It draws other answers than the engines of this package.
    """

    name: Literal["vllm"]
    python: Path = Field(
        description="The interpreter of an environment with vLLM, such as /venvs/vllm/bin/python."
    )


AnyEngine = Annotated[OwnEngine | Vllm, Field(discriminator="name")]


class Drawing(Frozen):
    """How answers are drawn, apart from the seed. By default the most likely token at each step."""

    max_new_tokens: PositiveInt = Field(
        default=256, description="Maximum length of an answer, in tokens."
    )
    samples: PositiveInt = Field(default=1, description="Answers to each prompt.")
    temperature: float = Field(
        default=0.0, ge=0, description="0 takes the most likely token; 1 is the model as it is."
    )
    top_p: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Draw from the fewest tokens whose probabilities add up to this.",
    )
    top_k: NonNegativeInt = Field(
        default=0, description="Draw from this many of the most likely tokens; 0: from all."
    )

    def seeded(self, seed: int) -> "Sampling":
        """The same with a seed."""
        return Sampling(**{name: getattr(self, name) for name in Drawing.model_fields}, seed=seed)


class Sampling(Drawing):
    """How answers are drawn."""

    seed: NonNegativeInt = Field(default=0, description="Seed of all draws.")

    @property
    def greedy(self) -> bool:
        """Whether nothing is drawn at random."""
        return self.temperature == 0

    def seed_of(self, prompt_id: str, sample: int) -> int:
        """The seed of one answer, 0 .. 2^31 - 1: the same whatever is answered beside it."""
        return int(digest_of([self.seed, prompt_id, sample])[:8], 16) >> 1
