"""Sizes, steps and learning rates: whether there is enough to learn from, at a sane rate."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

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
"""How many times larger than the smallest round the largest may be."""
SEED_PARAMETERS = 7.6e9
SEED_RATES = {False: 2e-5, True: 5e-6}
"""The seed's peak rates at 7.6 billion parameters, for SFT (False) and DPO (True)."""


class Problem(NamedTuple):
    """What is wrong with one training."""

    verdict: Verdict
    words: str
    remedy: str


def check_rounds(sets: Sequence[PreparedSet]) -> Finding:
    """How many rows every set has, and whether enough are held out to measure anything."""
    sizes = {set_.name: len(set_.train) for set_ in sets if set_.prompt and set_.train}
    held = sum(len(set_.held_out) for set_ in sets if set_.prompt)
    uneven = share(max(sizes.values(), default=0), min(sizes.values(), default=0))
    half = proportion(held // 2, held) if held else None
    precision = f" (an accuracy is known to ±{(half.high - half.low) / 2:.2f})" if half else ""
    verdict: Verdict = "ok"
    remedy = ""
    if uneven >= UNEVEN:
        verdict = "warn"
        remedy = "Rounds of very different size: give the small ones more rows, or set `limit`."
    if held < FEWEST_HELD_OUT:
        verdict = "fail" if held == 0 else "warn"
        remedy = (
            "Raise held_out_share, or name a set under evaluation.data: with so few held-out "
            "pairs no round can be told from the one before."
        )
    counts = ", ".join(f"{count:,}" for count in sizes.values()) or "no pairs"
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
                        "not used": float(len(set_.dropped) - set_.count(*BY_CHOICE)),
                    }
                    for set_ in sets
                },
            ),
        ),
        remedy=remedy,
    )


def check_schedule(trainings: Sequence[Training], shape: Shape | None) -> Finding:
    """Steps, warm-up and learning rate of every training."""
    judged = [(training, list(_problems(training, shape))) for training in trainings]
    found = [(training, problem) for training, problems in judged for problem in problems]
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
        for training, problems in judged
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
    """Peak rates from which on it is worth a second look, for a model of this size.

    A rule of thumb through two points: the seed's rates at 7.6 billion parameters, and the
    practice recipe at 135 million, where fifty times that rate worked and eighty times did not
    (docs/practice.md): the seed's rate grows as the size shrinks. Half a magnitude is left above
    the seed's own rate, one magnitude below it.
    """
    seed = SEED_RATES[is_dpo]
    return seed / 10, max(3 * seed, seed * SEED_PARAMETERS / parameters)


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
            "Add rows or epochs, or take fewer rows a step: a handful of steps moves little.",
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
