"""The limits of the gate's guards."""

from typing import Literal

from pydantic import Field

from alignment.records import Frozen


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
