"""Settings of the evaluation that every model of a run gets."""

from typing import Literal

from pydantic import Field, PositiveInt

from alignment.data.build.settings import PairSetConfig
from alignment.records import Frozen
from alignment.scoring.engine import Engine, Packed


class EvaluationConfig(Frozen):
    """What every model of the chain is measured on."""

    data: PairSetConfig | None = Field(
        default=None,
        description="Sources used for nothing but evaluation, beside the held-out share of every "
        "round. Their prompts are kept out of every training set.",
    )
    pairs: PositiveInt = Field(default=500, description="Held-out pairs scored, at most.")
    prompts: PositiveInt = Field(default=250, description="Held-out prompts answered, at most.")
    max_new_tokens: PositiveInt = Field(default=256, description="Longest reply, in tokens.")
    max_length: PositiveInt = Field(default=4096, description="Tokens scored per prompt and reply.")
    dtype: Literal["bfloat16", "float32"] = Field(
        default="bfloat16",
        description="Of the weights in memory. What is measured is the merged folder as it is "
        "handed on, never quantised.",
    )
    batch: PositiveInt = Field(
        default=16, description="Rows per forward pass; changes memory and speed only."
    )
    engine: Engine = Field(
        default=Packed(),
        description="How pairs are scored: stock, padded batches of `batch` rows; packed, end to "
        "end, each prompt once for both replies. Changes memory and speed only.",
    )
