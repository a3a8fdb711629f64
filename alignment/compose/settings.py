"""Settings of a handover: how a stage's adapter reaches the next stage."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from alignment.records.base import Frozen


class Merge(Frozen):
    """Hand over a stage's result as one folder of full weights."""

    name: Literal["merge"] = "merge"
    dtype: Literal["bfloat16", "float32"] = Field(
        default="bfloat16",
        description="Dtype of the weights written. bfloat16 halves the folder but loses a share "
        "1 - kept_share of the training's change, see the record; float32 loses nothing.",
    )
    max_kl: PositiveFloat = Field(
        default=0.3,
        description="Maximum mean KL between the trained model and the merged model as the next "
        "stage loads it, in nats per token of a probe; above it the run stops. Measured on "
        "SmolLM2-135M: 0.05-0.12 when merged in bfloat16 and quantised again.",
    )


class Stack(Frozen):
    """Hand over a stage's result as its adapter, stacked on the earlier ones."""

    name: Literal["stack"] = "stack"
    max_rank: PositiveInt = Field(
        default=256,
        description="Total rank of the frozen adapters above which they are merged, in fp32, into "
        "a new base. Memory and time of a training step grow with the rank.",
    )
    max_gap: NonNegativeFloat | None = Field(
        default=None,
        description="Maximum mean |difference| of a probe's log-probs at a handover, in nats. "
        "Default: 0 in fp32, 0.05 in bfloat16. Raise it if stages run on different hardware, "
        "whose kernels round differently.",
    )


Compose = Annotated[Merge | Stack, Field(discriminator="name")]
