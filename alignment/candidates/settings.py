"""Settings of a round on the model's own answers: prompts, sampling, labels, pairs."""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    JsonValue,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from alignment.answers.settings import AnyEngine, Drawing, OwnEngine, Vllm
from alignment.data.formats import Auto, Format
from alignment.data.practice.source import PracticeSource
from alignment.data.read.sources import Source
from alignment.models.sources import ModelSource
from alignment.records.base import Frozen, digest_of

VLLM_TEMPERATURES = (0.01, 2.0)
"""Below, vLLM takes .01 instead; above, it refuses."""


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from error
    return pattern


def _is_schema(schema: dict[str, JsonValue]) -> dict[str, JsonValue]:
    import jsonschema  # every command would load it, for the few configurations that need it

    try:
        jsonschema.validators.validator_for(schema).check_schema(schema)
    except jsonschema.SchemaError as error:
        raise ValueError(f"not a JSON schema: {error.message}") from error
    return schema


class OwnCheck(Frozen):
    """Each prompt's own verifier. Only prompts of the practice set have one."""

    name: Literal["own"] = "own"


class PatternCheck(Frozen):
    """A regular expression that is found in a good answer."""

    name: Literal["pattern"] = "pattern"
    pattern: Annotated[str, AfterValidator(_compiles)] = Field(
        description="Regular expression, as for Python's re.search. ^ and $ match the whole text."
    )


class JsonSchemaCheck(Frozen):
    """A good answer is one JSON value that fits a JSON schema."""

    name: Literal["json_schema"] = "json_schema"
    json_schema: Annotated[dict[str, JsonValue], AfterValidator(_is_schema)] = Field(
        description="The schema."
    )


class FunctionCheck(Frozen):
    """A function of yours: called with prompt, answer and reference, it returns bool or number."""

    name: Literal["function"] = "function"
    entry: str = Field(
        pattern=r"^[\w.]+:\w+$",
        description="The function as module:name. It is called as f(prompt, answer, reference): "
        "the turns as a list of {role, content}, the answer's text, and the text of the source's "
        "own reply to the prompt (None if it has none).",
    )
    version: str = Field(
        default="",
        description="Part of the key: change it when the function changes, and labels are made "
        "again.",
    )


Check = Annotated[
    OwnCheck | PatternCheck | JsonSchemaCheck | FunctionCheck, Field(discriminator="name")
]


class VerifierLabel(Frozen):
    """A program scores each answer: 1 for a good one, 0 for another, or any number.

    It runs in a process of its own with a time limit. Where it raises or takes too long, the answer
    has no score, and the quarantine says why.
    """

    name: Literal["verifier"] = "verifier"
    check: Check = Field(default=OwnCheck(), description="The program.")
    seconds: PositiveFloat = Field(default=5.0, description="Time limit for one answer.")


class PeopleConfig(Frozen):
    """Pairs that people have labelled, on which a judge is measured before anything is answered."""

    sources: tuple[Source, ...] = Field(
        min_length=1, description="Preference pairs: files, folders or hub data sets."
    )
    limit: PositiveInt = Field(
        default=100, description="Measure on at most this many of them, in hash order."
    )
    min_agreement: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Smallest share of pairs on which the judge agrees with people, 0 to 1; a tie "
        "is no agreement. With less, the run stops.",
    )

    def digest(self) -> str:
        """Digest of the content of the sources, for cache keys."""
        return digest_of([source.digest() for source in self.sources])


class JudgeLabel(Frozen):
    """A model behind an OpenAI-compatible endpoint compares each answer with the prompt's first.

    Both are shown in both orders; if the judge's choice changes with the order, it is a tie. An
    answer's score is 1 if it is better, -1 if it is worse, and 0 for a tie and for the first.
    """

    name: Literal["judge"]
    url: str = Field(
        pattern="^https?://[^@?#]+$",
        description="Address of the endpoint, up to and including /v1, without a key in it.",
    )
    model: str = Field(min_length=1, description="Name of the model there.")
    key_file: Path | None = Field(
        default=None, description="A file that holds the key, sent as a bearer token; null: none."
    )
    instruction: str = Field(
        default="Compare two answers to the last user turn. Judge by correctness first, then by "
        "helpfulness. Length and style are no merits of their own.",
        description="What the judge is told before the conversation and the answers.",
    )
    max_tokens: PositiveInt = Field(
        description="Most tokens that the calls for a round's labels may take, what is read "
        "included. Too few for what is planned: refused before anything is answered. What is "
        "spent on `people` is limited as much, by itself."
    )
    max_cost: PositiveFloat | None = Field(
        default=None,
        description="Most that the same calls may cost, in the currency of the prices; null: only "
        "`max_tokens` limits them.",
    )
    price_read: NonNegativeFloat = Field(
        default=0.0, description="Price of a million tokens that the judge reads."
    )
    price_written: NonNegativeFloat = Field(
        default=0.0, description="Price of a million tokens that it writes."
    )
    reply_tokens: PositiveInt = Field(default=16, description="Most tokens of a reply.")
    seconds: PositiveFloat = Field(default=60.0, description="Time limit of one call.")
    retries: NonNegativeInt = Field(
        default=6, description="Further tries of a call that fails in a way that may pass."
    )
    backoff: PositiveFloat = Field(
        default=1.0,
        description="Seconds before the first of them; each further one waits twice as long, at "
        "most 60, and as long as the endpoint asks for.",
    )
    people: PeopleConfig | None = Field(
        default=None, description="Pairs labelled by people, to measure the judge on; null: none."
    )

    @model_validator(mode="after")
    def _priced(self) -> Self:
        if self.max_cost is not None and not (self.price_read or self.price_written):
            raise ValueError("max_cost needs price_read and price_written, per million tokens")
        return self

    def cost(self, read: int, written: int) -> float:
        """What so many tokens cost."""
        return (read * self.price_read + written * self.price_written) / 1e6


class RewardLabel(Frozen):
    """A reward model scores each answer: a sequence classifier with one output."""

    name: Literal["reward_model"]
    model: ModelSource = Field(description="The reward model, with its tokenizer.")
    batch: PositiveInt = Field(
        default=16, description="Answers per forward pass; halved if memory runs out."
    )


class DeltaLabel(Frozen):
    """The model's answers are chosen, those of a weaker model to the same prompts are rejected.

    Nothing else tells them apart, so it can only help where the other model is clearly weaker.
    """

    name: Literal["delta"]
    weak: ModelSource = Field(
        description="The weaker model, with its tokenizer and chat template. It draws as many "
        "answers, in the same way."
    )


Label = Annotated[
    VerifierLabel | JudgeLabel | RewardLabel | DeltaLabel, Field(discriminator="name")
]


class Pairing(Frozen):
    """Which answers to one prompt become a pair: the best one, and the worst of a few others."""

    worst_of: PositiveInt = Field(
        default=5,
        description="The rejected answer is the worst of this many others, drawn at random. With "
        "all of them it would be ever more extreme the more samples there are.",
    )
    margin: float = Field(
        default=0.0,
        ge=0,
        description="The scores of a pair differ by more than this.",
    )
    max_length_gap: NonNegativeInt | None = Field(
        default=None,
        description="The lengths of a pair differ by at most this many tokens; null: by any number."
        " For judges and reward models, which like long answers, 100 is usual.",
    )
    max_per_prompt: PositiveInt = Field(default=1, description="Most pairs for one prompt.")


class Answering(Drawing):
    """How answers of the model that a round starts from become pairs.

    It answers each prompt several times, the answers are labelled, and the best and a bad one
    become a pair. No row is held out.
    """

    samples: Annotated[int, Field(ge=2)] = Field(default=8, description="Answers to each prompt.")
    temperature: PositiveFloat = Field(
        default=0.8, description="Randomness of the answers; 1 is the model as it is."
    )
    engine: AnyEngine = Field(
        default=OwnEngine(),
        description="What computes the answers. Engines of this package draw the same ones; vLLM "
        "draws others.",
    )
    label: Label = Field(default=VerifierLabel(), description="How answers are scored.")
    pairing: Pairing = Field(default=Pairing(), description="Which answers become pairs.")
    min_pairs: NonNegativeInt = Field(
        default=1, description="The run fails if fewer pairs come out."
    )

    @model_validator(mode="after")
    def _drawn_as_said(self) -> Self:
        least, most = VLLM_TEMPERATURES
        if isinstance(self.engine, Vllm) and not least <= self.temperature <= most:
            raise ValueError(f"engine vllm takes a temperature from {least} to {most:g}")
        return self

    def drawing(self) -> Drawing:
        """How the answers are drawn."""
        return Drawing(**{name: getattr(self, name) for name in Drawing.model_fields})


class OwnAnswers(Answering):
    """A round's pairs are made from answers of the model that the round starts from.

    Models are evaluated on the rows of other rounds and of `evaluation.data`.
    """

    name: Literal["own_answers"]
    prompts: tuple[Source, ...] = Field(
        min_length=1,
        description="Where the prompts come from. Of chats and pairs, the turns before the reply.",
    )
    max_prompts: PositiveInt | None = Field(
        default=None, description="Use at most this many prompts, in hash order. Default: all."
    )

    def with_seed(self, seed: int) -> Self:
        """The same with `seed` for practice sources that set none of their own."""
        prompts = tuple(
            source.model_copy(update={"seed": seed})
            if isinstance(source, PracticeSource) and source.seed is None
            else source
            for source in self.prompts
        )
        return self.model_copy(update={"prompts": prompts})

    def digest(self) -> str:
        """Digest of the content of the prompts' sources, for cache keys."""
        return digest_of([source.digest() for source in self.prompts])


class InboxAnswers(Answering):
    """What a round does with batches of prompts: the champion answers them."""

    format: Format = Field(
        default=Auto(), description="Meaning of the columns; detected from their names if not set."
    )
    min_new_prompts: PositiveInt = Field(
        default=100,
        description="Minimum number of usable new prompts; with fewer, they wait for the next "
        "batch.",
    )
