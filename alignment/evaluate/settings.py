"""Settings of the evaluation that every model of a run gets, and of the gate that judges rounds."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator

from alignment.data.build.settings import PairSetConfig
from alignment.data.practice.source import EVALUATION_PARTS, PracticeSource
from alignment.evaluate.suites import Suite
from alignment.records.base import Frozen
from alignment.scoring.engine import Engine, Packed


class HarnessConfig(Frozen):
    """Tasks of EleutherAI's lm-eval, run on every model with the model's own chat template.

    Needs the extra `lm-eval`.
    """

    tasks: tuple[str, ...] = Field(
        min_length=1,
        description="Names of tasks, groups or tags, as `lm-eval ls tasks` lists them.",
    )
    limit: PositiveInt | None = Field(
        default=None, description="Use only the first documents of each task."
    )
    few_shot: NonNegativeInt | None = Field(
        default=None, description="Examples in the prompt. Default: as many as the task says."
    )
    include: Path | None = Field(
        default=None, description="Folder with tasks of your own, as lm-eval's YAML files."
    )


class EvaluationConfig(Frozen):
    """How every model of the chain is evaluated."""

    data: PairSetConfig | None = Field(
        default=None,
        description="Sources used only for evaluation, all of their rows, in addition to the "
        "held-out share of every round. Their prompts are excluded from every training set.",
    )
    pairs: PositiveInt = Field(
        default=500, description="Maximum number of held-out pairs to score."
    )
    prompts: PositiveInt = Field(
        default=250, description="Maximum number of held-out prompts to answer."
    )
    max_new_tokens: PositiveInt = Field(
        default=256, description="Maximum length of a reply, in tokens."
    )
    max_length: PositiveInt = Field(
        default=4096, description="Maximum tokens of prompt plus reply in scoring."
    )
    dtype: Literal["bfloat16", "float32"] = Field(
        default="bfloat16",
        description="Dtype of the weights in memory. The merged model that is handed over is "
        "evaluated, never a quantised one.",
    )
    batch: PositiveInt = Field(
        default=16,
        description="Rows per forward pass; on a CPU also for a round's own answers. Changes "
        "memory and speed only.",
    )
    engine: Engine = Field(
        default=Packed(),
        description="How pairs are scored. stock: padded batches of `batch` rows. packed: rows "
        "concatenated without padding, each prompt once for both replies. Changes memory and speed "
        "only.",
    )
    suites: tuple[Suite, ...] = Field(
        default=(),
        description="Prompts beside the run's own, such as `[{name: general}]`, which shows what a "
        "model has unlearned. Every reply is checked by a program.",
    )
    harness: HarnessConfig | None = Field(
        default=None, description="Tasks of lm-eval to run on every model."
    )
    noise_floor: NonNegativeInt = Field(
        default=0,
        exclude_if=lambda times: times == 0,  # so that keys from before it existed stay
        description="Measure the base model this many times more, with the rows in other batches. "
        "No difference that is smaller than what this changes counts as shown.",
    )

    @field_validator("data")
    @classmethod
    def _not_for_training(cls, data: PairSetConfig | None) -> PairSetConfig | None:
        for source in data.sources if data else ():
            if isinstance(source, PracticeSource) and source.part not in EVALUATION_PARTS:
                raise ValueError(
                    f"practice part {source.part!r} is for training, so most of its rows would not "
                    f"be evaluated. Use {' or '.join(EVALUATION_PARTS)}."
                )
        return data


UNMEASURED = frozenset({"data", "batch", "engine"})
"""Fields of the evaluation that do not change its numbers; the rows are listed by key."""


class PlainGate(Frozen):
    """Keep a round unless it is shown to be worse than its parent or breaks a guard.

    This does not bound the loss over many rounds: a loss too small to be shown passes every time.
    """

    name: Literal["plain"] = "plain"
    max_length_growth: float | None = Field(
        default=1.5,
        gt=1,
        description="Reject a round whose mean reply is more than this many times as long as the "
        "champion's. null: any length.",
    )
    max_stop_drop: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Reject a round whose share of replies that end by themselves falls by more "
        "than this, 0 to 1.",
    )


class AnchoredGate(Frozen):
    """Keep a round only if it is shown to be no worse than the anchor by more than a margin.

    The anchor is the model that a person approved last, or the one the rounds began with. The
    chance that a line ever keeps a model below the margin is at most `error`, over `rounds` rounds.
    """

    name: Literal["anchored"] = "anchored"
    margin: float = Field(
        default=0.03,
        gt=0,
        lt=1,
        description="How far preference accuracy and pass rate may lie below the anchor's, 0 to 1. "
        "`sft-dpo doctor` says how many held-out rows this needs.",
    )
    error: float = Field(
        default=0.05,
        gt=0,
        lt=0.5,
        description="Chance that any of `rounds` rounds is kept although it lies below the margin.",
    )
    rounds: PositiveInt = Field(
        default=50,
        description="Rounds that `error` is divided among. After as many verdicts, rounds are "
        "kept again once a person has promoted a model, which becomes the anchor.",
    )
    min_rows: PositiveInt = Field(
        default=30, description="Fewer common held-out rows of a metric decide nothing."
    )
    group_margin: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="Reject a round in which a task type or a source with `min_rows` rows is shown "
        "to lie further than this below the anchor.",
    )
    max_length_ratio: float = Field(
        default=1.5,
        gt=1,
        description="Reject a round whose mean reply is more than this many times as long, or as "
        "short, as the anchor's.",
    )
    max_stop_drop: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="How far the share of replies that end by themselves may lie below the "
        "anchor's.",
    )
    max_nll_rise: float = Field(
        default=0.5,
        ge=0,
        description="How far the NLL of held-out chosen replies may lie above the anchor's, in "
        "nats per token.",
    )
    max_kl_rise: float = Field(
        default=0.5,
        ge=0,
        description="How far the KL from the base model may lie above the anchor's, in nats per "
        "token.",
    )
    max_repetition_rise: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="How far the repeated share of a reply may lie above the anchor's.",
    )
    max_refusal_rise: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="How far the share of refusals may lie above the anchor's.",
    )
    # Not written where they are the defaults, so that keys from before they existed stay.
    sealed_share: float = Field(
        default=0.0,
        ge=0,
        lt=0.9,
        exclude_if=lambda share: share == 0.0,
        description="Share of the held-out prompts that the gate does not look at, except in every "
        "`sealed_every`-th verdict and when a person promotes a model. Chosen by hash of the "
        "prompt. Every other verdict has so many rows fewer.",
    )
    sealed_every: PositiveInt = Field(
        default=10,
        exclude_if=lambda every: every == 10,
        description="The sealed rows are opened in every verdict with a number that this divides.",
    )
    on_inconclusive: Literal["keep_champion", "keep_candidate"] = Field(
        default="keep_champion",
        description="What to keep if a round is not shown to be worse, nor to hold the margin. "
        "keep_candidate gives up the bound on the loss.",
    )

    @property
    def level(self) -> float:
        """One-sided error of a single verdict."""
        return self.error / self.rounds


OnRegression = Literal["keep_sft", "keep_base"]
"""Which model the rounds start from when SFT is worse than the base model."""
GateConfig = Annotated[PlainGate | AnchoredGate, Field(discriminator="name")]
