"""Whether the held-out rows suffice for the margin that the gate has to show."""

from collections.abc import Sequence

from alignment.config.pipeline import PipelineConfig
from alignment.doctor.finding import Finding
from alignment.doctor.sets import PreparedSet
from alignment.evaluate.noninferiority import margin_shown, rows_needed
from alignment.evaluate.settings import AnchoredGate

DISCORDANT = 0.42
"""Share of rows on which only one of two models is right, once many rounds lie between them: for
two unrelated models with an accuracy of .7 it is 2 * .7 * .3."""
POWER = 0.9
"""Chance that a round which changes nothing is kept."""


def check_gate(config: PipelineConfig, sets: Sequence[PreparedSet]) -> Finding:
    """How many held-out pairs the gate's margin needs, and which margin the pairs allow."""
    held = sum(len(set_.held_out) for set_ in sets if set_.prompt)
    rows = min(held, config.evaluation.pairs)
    if not isinstance(config.gate, AnchoredGate):
        return _unbounded(config, rows)
    gate = config.gate
    rows -= round(rows * gate.sealed_share)
    needed = rows_needed(gate.margin, gate.level, discordant=DISCORDANT, power=POWER)
    allowed = margin_shown(rows, gate.level, discordant=DISCORDANT, power=POWER) if rows else 1.0
    apart = ", without the sealed ones" if gate.sealed_share else ""
    headline = (
        f"{rows:,} held-out pairs{apart}; the gate's margin of {gate.margin:g} over {gate.rounds} "
        f"rounds needs {needed:,} to keep a round that changes nothing in {POWER:.0%} of cases"
    )
    return Finding(
        check="gate",
        verdict="ok" if rows >= needed else "warn",
        headline=headline,
        figures={"rows": rows, "needed": needed, "margin_at_these_rows": round(allowed, 4)},
        remedy=f"{_more_rows(held, config, needed)} {_kept(gate, rows, allowed)}",
    )


def _kept(gate: AnchoredGate, rows: int, allowed: float) -> str:
    """What the gate keeps on too few rows."""
    if rows < gate.min_rows:
        return f"With fewer than {gate.min_rows} pairs (gate.min_rows), they decide nothing."
    return (
        f"With these pairs, only rounds that are clearly better are kept, unless gate.margin is "
        f"{min(allowed, 1):.2f}. gate.rounds may be lowered to the rounds until a person approves "
        "one."
    )


def _unbounded(config: PipelineConfig, rows: int) -> Finding:
    kind = "no gate" if config.gate is None else "the plain gate"
    several = len(config.rounds) > 1 or config.inbox is not None
    return Finding(
        check="gate",
        verdict="ok",
        headline=f"{kind}: {rows:,} held-out pairs"
        + ("; the loss of many rounds is not bounded (docs/gate.md)" if several else ""),
        figures={"rows": rows},
    )


def _more_rows(held: int, config: PipelineConfig, needed: int) -> str:
    if held > config.evaluation.pairs:
        return f"Raise evaluation.pairs from {config.evaluation.pairs:,} to {min(held, needed):,}."
    return "Hold out more pairs (held_out_share of the rounds), or add evaluation.data."
