"""Which rows each optimiser step was trained on: `trained.jsonl` of a training's artifact."""

from typing import Literal

from alignment.records.base import Frozen

TRAINED = "trained.jsonl"

Measure = Literal["loss", "margin"]
"""What is kept of a row. loss: mean of its target tokens (SFT); margin: reward of its chosen minus
that of its rejected reply (DPO)."""


class TrainedStep(Frozen):
    """One optimiser step: the ids of its rows, and the measure of each before the update.

    A value is None if it was not a finite number.
    """

    step: int
    measure: Measure
    ids: tuple[str, ...]
    values: tuple[float | None, ...]
