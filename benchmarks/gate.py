"""Simulates lines of rounds under both gates: how far does a champion fall that loses a little?

    python -m benchmarks.gate [--rows 300 1000 8920] [--lives 2000]

No model is trained. Each life is a line of rounds. A round changes `--changing` of the held-out
rows from right to wrong or back, and its true accuracy changes by a fixed amount; the gate sees
only the rows. The decisions are those of the product: `margin_finding` and `difference_of`.
"""

import argparse
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alignment.evaluate.anchored import margin_finding
from alignment.evaluate.intervals import difference_of
from alignment.evaluate.noninferiority import PairedCounts, rows_needed
from alignment.evaluate.settings import AnchoredGate

Counts = NDArray[np.int64]
CHANGES = (-0.05, -0.02, -0.01, -0.005, 0.0, 0.005)
"""True change of accuracy per round."""
DISCORDANT = 0.42
"""Share of rows on which two unrelated models with an accuracy of .7 differ: 2 * .7 * .3."""


@dataclass(frozen=True)
class Lines:
    """What came of many lines: the deepest true fall below the anchor, and the share kept."""

    falls: NDArray[np.float64]
    kept: float


@dataclass
class Rows:
    """The held-out rows of one line, counted by whether anchor and champion are right.

    Attributes:
        counts: `[2, 2]`: rows by anchor right (0 or 1) and champion right.
        accuracy: the champion's true accuracy.
    """

    counts: Counts
    accuracy: float


def life(
    gate: AnchoredGate | None,
    rows: int,
    change: float,
    *,
    changing: float,
    rng: np.random.Generator,
) -> tuple[float, int]:
    """One line: its deepest true fall, and the rounds kept. None: the plain gate."""
    start = 0.7
    right = int(rng.binomial(rows, start))
    line = Rows(np.array([[rows - right, 0], [0, right]]), start)
    deepest, kept = 0.0, 0
    for _ in range(50):
        moved = _moved(line, change, changing=changing, rng=rng)
        if _keeps(gate, moved, rows):
            line = Rows(moved.sum(axis=1), min(0.99, max(0.01, line.accuracy + change)))
            kept += 1
        deepest = max(deepest, start - line.accuracy)
    return deepest, kept


def _moved(line: Rows, change: float, *, changing: float, rng: np.random.Generator) -> Counts:
    """`[2, 2, 2]`: rows by anchor right, champion right, candidate right."""
    lost = min(1.0, (changing - change) / 2 / line.accuracy)
    won = min(1.0, (changing + change) / 2 / (1 - line.accuracy))
    turned = rng.binomial(line.counts, np.array([won, lost]))
    stayed = line.counts - turned
    by_champion = [
        np.stack([stayed[:, 0], turned[:, 0]], axis=1),
        np.stack([turned[:, 1], stayed[:, 1]], axis=1),
    ]
    return np.stack(by_champion, axis=1)


def _keeps(gate: AnchoredGate | None, moved: Counts, rows: int) -> bool:
    """The gate's decision on a candidate."""
    to_champion = moved.sum(axis=0)
    parent = difference_of(int(to_champion[0, 1]), int(to_champion[1, 0]), rows)
    if parent.shown and parent.difference.value < 0:
        return False
    if gate is None:
        return True
    to_anchor = moved.sum(axis=1)
    counts = PairedCounts(float(to_anchor[0, 1]), float(to_anchor[1, 0]), rows)
    return margin_finding(gate, counts) == "passed"


def lines(
    gate: AnchoredGate | None, rows: int, change: float, *, changing: float, lives: int
) -> Lines:
    """Many lines of 50 rounds, from one seed."""
    rng = np.random.default_rng(0)
    found = [life(gate, rows, change, changing=changing, rng=rng) for _ in range(lives)]
    return Lines(
        falls=np.array([fall for fall, _ in found]),
        kept=sum(kept for _, kept in found) / (50 * lives),
    )


def main() -> None:
    """Print a row for each gate, number of held-out rows and true change."""
    settings = AnchoredGate()
    enough = rows_needed(settings.margin, settings.level, discordant=DISCORDANT, power=0.9)
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rows", type=int, nargs="*", default=[100, 300, 1000, enough])
    parser.add_argument("--lives", type=int, default=2000)
    parser.add_argument("--changing", type=float, default=0.1)
    options = parser.parse_args()
    print("| gate | rows | true change | median fall | 95 % of falls | beyond margin | kept |")
    print("|---|---|---|---|---|---|---|")
    for name, gate in (("plain", None), ("anchored", settings)):
        for rows in options.rows:
            for change in CHANGES:
                found = lines(gate, rows, change, changing=options.changing, lives=options.lives)
                beyond = float(np.mean(found.falls > settings.margin + 0.01 + 1e-9))
                print(
                    f"| {name} | {rows} | {change:+.3f} | {np.median(found.falls):.3f} "
                    f"| {np.quantile(found.falls, 0.95):.3f} | {beyond:.3f} | {found.kept:.3f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
