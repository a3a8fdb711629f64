"""Set sizes, steps and learning rates: whether there is enough data, at a usual rate."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from alignment.config.pipeline import PipelineConfig
from alignment.doctor.checks.counts import BY_CHOICE
from alignment.doctor.finding import (
    Bars,
    Finding,
    Verdict,
    share,
    worst,
)
from alignment.doctor.forecast.trainings import Training
from alignment.doctor.inputs import PreparedSet
from alignment.doctor.shape import Shape
from alignment.evaluate.intervals import proportion
from alignment.report.table import Cell, Table

FEWEST_STEPS = 10
FEWEST_HELD_OUT = 50
UNEVEN = 4.0
"""Largest acceptable ratio between the largest and the smallest round."""
REFERENCE_PARAMETERS = 7.6e9
REFERENCE_RATES = {False: 2e-5, True: 5e-6}
"""Peak rates of the reference recipe at 7.6 billion parameters, for SFT (False) and DPO (True)."""


class Problem(NamedTuple):
    """A problem with one training."""

    verdict: Verdict
    words: str
    remedy: str


def without_rounds(config: PipelineConfig) -> Finding:
    """A run of SFT only, which holds out no pairs of its own to measure models on."""
    measured = config.evaluation.data is not None
    return Finding(
        check="rounds",
        verdict="ok" if measured else "warn",
        headline="No rounds: only SFT is trained"
        + ("." if measured else ", and no pairs are held out to compare its model with the base."),
        remedy="Add pairs under evaluation.data to see what SFT changed.",
    )


def check_rounds(sets: Sequence[PreparedSet]) -> Finding:
    """How many rows every set has, and whether enough are held out for a useful measurement."""
    sizes = {set_.name: len(set_.train) for set_ in sets if set_.prompt and set_.train}
    held = sum(len(set_.held_out) for set_ in sets if set_.prompt)
    uneven = share(max(sizes.values(), default=0), min(sizes.values(), default=0))
    half = proportion(held // 2, held) if held else None
    precision = f" (accuracy is known to ±{(half.high - half.low) / 2:.2f})" if half else ""
    verdict: Verdict = "ok"
    remedy = ""
    if uneven >= UNEVEN:
        verdict = "warn"
        remedy = (
            "Round sizes differ a lot: add rows to the small ones, or set `limit` on the large."
        )
    if held < FEWEST_HELD_OUT:
        verdict = "fail" if held == 0 else "warn"
        remedy = (
            "Raise held_out_share, or add sources under evaluation.data: with this few held-out "
            "pairs, rounds cannot be told apart."
        )
    counts = ", ".join(f"{count:,}" for count in sizes.values()) or "no pairs that exist before it"
    return Finding(
        check="rounds",
        verdict=verdict,
        headline=f"Rounds train on {counts}; {held:,} pairs are held out{precision}.",
        figures={**sizes, "held_out_pairs": held},
        charts=(
            Bars(
                title="Rows of every set",
                unit="rows",
                bars={
                    set_.name: {
                        "train": float(len(set_.train)),
                        "held out": float(len(set_.held_out)),
                        "dropped": float(len(set_.dropped) - set_.count(*BY_CHOICE)),
                    }
                    for set_ in sets
                },
            ),
        ),
        remedy=remedy,
    )


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
