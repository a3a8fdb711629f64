"""Settings of a hand-over: how a stage's adapter gets to the next stage."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from alignment.records import Frozen


class Merge(Frozen):
    """Hand a stage's result over as one folder of full weights."""

    name: Literal["merge"] = "merge"
    dtype: Literal["bfloat16", "float32"] = Field(
        default="bfloat16",
        description="Of the weights written. bfloat16 halves the folder and loses the part of "
        "the training that the record calls 1 - kept_share; float32 loses nothing.",
    )
    max_kl: PositiveFloat = Field(
        default=0.3,
        description="Largest mean KL of the merged model, as the next stage loads it, from the one "
        "that was trained, nats per token of a probe; beyond it the run stops. Measured on "
        "SmolLM2-135M, merged in bfloat16 and quantised again: 0.05-0.12; training lost: 0.57.",
    )


class Stack(Frozen):
    """Hand a stage's result over as its adapter, on top of those before it."""

    name: Literal["stack"] = "stack"
    max_rank: PositiveInt = Field(
        default=256,
        description="Frozen ranks together beyond which the stack is summed in fp32 into a new "
        "base: memory and time of a step grow with them.",
    )
    max_gap: NonNegativeFloat | None = Field(
        default=None,
        description="Largest mean |difference| of a probe's log-probs at a hand-over, nats. By "
        "default 0 in fp32 and 0.05 in bfloat16; raise it where two stages run on different "
        "hardware, whose kernels round differently.",
    )


Compose = Annotated[Merge | Stack, Field(discriminator="name")]
