"""Set sizes: whether there is enough to train on, and enough held out to tell rounds apart."""

from collections.abc import Sequence

from alignment.config.pipeline import PipelineConfig
from alignment.doctor.checks.counts import BY_CHOICE
from alignment.doctor.finding import Bars, Finding, Verdict, share
from alignment.doctor.sets import PreparedSet
from alignment.evaluate.intervals import proportion

FEWEST_HELD_OUT = 50
UNEVEN = 4.0
"""Largest acceptable ratio between the largest and the smallest round."""


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
