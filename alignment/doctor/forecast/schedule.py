"""Steps and learning rates: whether there are enough steps, at a usual rate."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from alignment.doctor.finding import (
    Finding,
    Verdict,
    worst,
)
from alignment.doctor.forecast.trainings import Training
from alignment.doctor.shape import Shape
from alignment.report.table import Cell, Table

FEWEST_STEPS = 10
REFERENCE_PARAMETERS = 7.6e9
REFERENCE_RATES = {False: 2e-5, True: 5e-6}
"""Peak rates of the reference recipe at 7.6 billion parameters, for SFT (False) and DPO (True)."""


class Problem(NamedTuple):
    """A problem with one training."""

    verdict: Verdict
    words: str
    remedy: str


def check_schedule(trainings: Sequence[Training], shape: Shape | None) -> Finding:
    """Steps, warm-up and learning rate of every training."""
    checked = [(training, list(_problems(training, shape))) for training in trainings]
    found = [(training, problem) for training, problems in checked for problem in problems]
    verdict = worst(problem.verdict for _, problem in found)
    rows = [
        (
            training.name,
            f"{training.rows:,}",
            f"{training.steps:,}",
            f"{training.warmup:,}",
            f"{training.config.learning_rate:.1e}",
            _range(training, shape),
            Cell(
                text=worst(problem.verdict for problem in problems),
                tone="bad" if problems else "good",
            ),
        )
        for training, problems in checked
    ]
    columns = ("Training", "Rows", "Steps", "Warm-up", "Rate", "Usual rates", "")
    fewest = min((training.steps for training in trainings), default=0)
    return Finding(
        check="schedule",
        verdict=verdict,
        headline="; ".join(f"{training.name}: {problem.words}" for training, problem in found) + "."
        if found
        else f"Every training has {fewest} steps or more, and a usual learning rate.",
        figures={f"{training.name}_steps": training.steps for training in trainings},
        tables=(Table.of("Steps and rates", columns, rows),),
        remedy=" ".join(dict.fromkeys(problem.remedy for _, problem in found)),
    )


def usual_rates(parameters: float, *, is_dpo: bool) -> tuple[float, float]:
    """The lowest and highest usual peak rate for a model of this size.

    A rule of thumb through two points: the reference recipe at 7.6 billion parameters, and the
    practice recipe at 135 million, where fifty times the reference rate worked and eighty times
    did not (docs/practice.md). So the highest rate grows as the model shrinks, and is at least
    three times the reference rate; the lowest is a tenth of it.
    """
    reference = REFERENCE_RATES[is_dpo]
    return reference / 10, max(3 * reference, reference * REFERENCE_PARAMETERS / parameters)


def _problems(training: Training, shape: Shape | None) -> Iterator[Problem]:
    steps, warmup, rate = training.steps, training.warmup, training.config.learning_rate
    if steps and warmup >= steps:
        yield Problem(
            "fail",
            f"the warm-up of {warmup} steps is as long as the run of {steps}",
            "Lower warmup_ratio, or train for more steps.",
        )
    elif steps < FEWEST_STEPS:
        yield Problem(
            "warn" if steps else "fail",
            f"only {steps} optimiser steps",
            "Add rows or epochs, or use fewer rows per step: a handful of steps changes little.",
        )
    if shape is None:
        return
    low, high = usual_rates(shape.parameters, is_dpo=training.is_dpo)
    if not low <= rate <= high:
        size = f"{shape.parameters / 1e9:.2g} billion parameters"
        yield Problem(
            "warn",
            f"learning rate {rate:.1e} is outside {low:.1e} to {high:.1e}, usual for {size}",
            "Set learning_rate within the usual range, or try it on a few steps first.",
        )


def _range(training: Training, shape: Shape | None) -> str:
    if shape is None:
        return "unknown size"
    low, high = usual_rates(shape.parameters, is_dpo=training.is_dpo)
    return f"{low:.1e} to {high:.1e}"
