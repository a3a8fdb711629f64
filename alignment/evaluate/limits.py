"""The limits that the gate's guards hold a round to."""

from typing import Literal

from pydantic import Field

from alignment.records import Frozen


class GateConfig(Frozen):
    """Keep a round unless it is shown to be worse or breaks a guard."""

    name: Literal["plain"] = "plain"
    max_length_growth: float = Field(
        default=1.5,
        gt=1,
        description="A round whose mean reply grows beyond so many times its parent's is rejected.",
    )
    max_stop_drop: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="A round whose share of replies that end by themselves falls by more is "
        "rejected, 0 to 1.",
    )
