"""Settings of the evaluation that every model of a run gets, and of the gate that judges rounds."""

from typing import Literal

from pydantic import Field, PositiveInt

from alignment.data.build.settings import PairSetConfig
from alignment.records import Frozen
from alignment.scoring.engine import Engine, Packed


class EvaluationConfig(Frozen):
    """How every model of the chain is evaluated."""

    data: PairSetConfig | None = Field(
        default=None,
        description="Sources used only for evaluation, in addition to the held-out share of every "
        "round. Their prompts are excluded from every training set.",
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
        default=16, description="Rows per forward pass. Changes memory and speed only."
    )
    engine: Engine = Field(
        default=Packed(),
        description="How pairs are scored. stock: padded batches of `batch` rows. packed: rows "
        "concatenated without padding, each prompt once for both replies. Changes memory and speed "
        "only.",
    )


class GateConfig(Frozen):
    """Keep a round unless it is shown to be worse or breaks a guard."""

    name: Literal["plain"] = "plain"
    max_length_growth: float = Field(
        default=1.5,
        gt=1,
        description="Reject a round whose mean reply is more than this many times as long as the "
        "champion's.",
    )
    max_stop_drop: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Reject a round whose share of replies that end by themselves falls by more "
        "than this, 0 to 1.",
    )
