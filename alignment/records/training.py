"""Records of trainings: the rows of each step (`trained.jsonl`), a reference's log-probs."""

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


class PairReference(Frozen):
    """Summed log-probs (nats) and token counts of a pair's replies under the reference model."""

    id: str
    chosen: float
    rejected: float
    chosen_tokens: int
    rejected_tokens: int
