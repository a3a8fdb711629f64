"""Simulates lines of rounds under both gates: how far does a champion fall that loses a little?

    python -m benchmarks.gate [--rows 300 1000 8920] [--lives 2000]     lines of 50 rounds
    python -m benchmarks.gate --reuse --lives 1000 [--rows 300 1000]    which rows judge a round
    python -m benchmarks.gate --power                                   chance to keep a round

No model is trained. Each life is a line of rounds. A round changes `--changing` of the held-out
rows from right to wrong or back, and its true accuracy changes by a fixed amount; the gate sees
only the rows. All rounds are judged on the same rows, which thereby choose the champion. The
decisions are those of the product: `margin_finding` and `difference_of`.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alignment.evaluate.anchored import is_opened, margin_finding
from alignment.evaluate.intervals import difference_of
from alignment.evaluate.noninferiority import PairedCounts, is_shown_above, rows_needed
from alignment.evaluate.settings import AnchoredGate

Counts = NDArray[np.int64]
ROUNDS = 50
START = 0.7
CHANGES = (-0.05, -0.02, -0.01, -0.005, 0.0, 0.005)
"""True change of accuracy per round."""
DISCORDANT = 0.42
"""Share of rows on which two unrelated models with an accuracy of .7 differ: 2 * .7 * .3."""


@dataclass(frozen=True)
class Design:
    """Which rows judge which round.

    Attributes:
        gate: None: the plain gate.
        folds: the rows that are not sealed are divided into so many parts.
        judging: how many of these parts judge a round, by turn.
    """

    name: str
    gate: AnchoredGate | None
    folds: int = 1
    judging: int = 1

    def sizes(self, rows: int) -> list[int]:
        """The rows of each part, and of the sealed ones at the end."""
        sealed = round(rows * self.gate.sealed_share) if self.gate is not None else 0
        return [(rows - sealed) // self.folds] * self.folds + [sealed]

    def parts(self, number: int) -> list[int]:
        """The parts that judge a round of this number."""
        return [(number + part) % self.folds for part in range(self.judging)]


@dataclass(frozen=True)
class Lines:
    """What came of many lines: the deepest true fall below the anchor, and the share kept."""

    falls: NDArray[np.float64]
    kept: float

    def beyond(self, gate: AnchoredGate) -> float:
        """The share of lines that ever lie more than the margin and .01 below the anchor."""
        return float(np.mean(self.falls > gate.margin + 0.01 + 1e-9))


@dataclass
class Rows:
    """The held-out rows of one line, counted by whether anchor and champion are right.

    Attributes:
        counts: `[parts, 2, 2]`: rows by part, anchor right (0 or 1) and champion right.
        accuracy: the champion's true accuracy.
    """

    counts: Counts
    accuracy: float


def life(
    design: Design, rows: int, change: float, *, changing: float, rng: np.random.Generator
) -> tuple[float, int]:
    """One line: its deepest true fall, and the rounds kept."""
    counts = [
        [[size - right, 0], [0, right]]
        for size in design.sizes(rows)
        for right in (int(rng.binomial(size, START)),)
    ]
    line = Rows(np.array(counts), START)
    deepest, kept = 0.0, 0
    for number in range(1, ROUNDS + 1):
        moved = _moved(line, change, changing=changing, rng=rng)
        if _keeps(design, moved, number):
            line = Rows(moved.sum(axis=2), min(0.99, max(0.01, line.accuracy + change)))
            kept += 1
        deepest = max(deepest, START - line.accuracy)
    return deepest, kept


def _moved(line: Rows, change: float, *, changing: float, rng: np.random.Generator) -> Counts:
    """`[parts, 2, 2, 2]`: rows by part, anchor right, champion right, candidate right."""
    lost = min(1.0, (changing - change) / 2 / line.accuracy)
    won = min(1.0, (changing + change) / 2 / (1 - line.accuracy))
    turned = rng.binomial(line.counts, np.array([won, lost]))
    stayed = line.counts - turned
    by_champion = [
        np.stack([stayed[..., 0], turned[..., 0]], axis=-1),
        np.stack([turned[..., 1], stayed[..., 1]], axis=-1),
    ]
    return np.stack(by_champion, axis=-2)


def _keeps(design: Design, moved: Counts, number: int) -> bool:
    """The gate's decision on the candidate of a round."""
    gate = design.gate
    if not _holds(gate, moved[design.parts(number)].sum(axis=0)):
        return False
    if gate is None or not is_opened(gate, number):
        return True
    return _to_anchor(moved[-1]).difference >= -gate.margin


def _holds(gate: AnchoredGate | None, moved: Counts) -> bool:
    to_champion = moved.sum(axis=0)
    wins, losses = int(to_champion[0, 1]), int(to_champion[1, 0])
    parent = difference_of(wins, losses, int(moved.sum()))
    if parent.shown and parent.difference.value < 0:
        return False
    return gate is None or margin_finding(gate, _to_anchor(moved)) == "passed"


def _to_anchor(moved: Counts) -> PairedCounts:
    by_anchor = moved.sum(axis=1)
    wins, losses = float(by_anchor[0, 1]), float(by_anchor[1, 0])
    return PairedCounts(wins, losses, float(moved.sum()))


def lines(design: Design, rows: int, change: float, *, changing: float, lives: int) -> Lines:
    """Many lines of 50 rounds, from one seed."""
    rng = np.random.default_rng(0)
    found = [life(design, rows, change, changing=changing, rng=rng) for _ in range(lives)]
    return Lines(
        falls=np.array([fall for fall, _ in found]),
        kept=sum(kept for _, kept in found) / (ROUNDS * lives),
    )


def gates() -> Iterator[Design]:
    """Both gates, all rows judging every round."""
    yield Design("plain", None)
    yield Design("anchored", AnchoredGate())


def reuse() -> Iterator[Design]:
    """Ways against the choice of champions by the same rows."""
    yield Design("all rows, every round", AnchoredGate())
    yield Design("the same, half the error", AnchoredGate(error=0.025))
    yield Design("the same, a fifth of the error", AnchoredGate(error=0.01))
    yield Design("two halves in turn", AnchoredGate(), folds=2)
    yield Design("five fifths in turn", AnchoredGate(), folds=5)
    yield Design("four of five fifths in turn", AnchoredGate(), folds=5, judging=4)
    yield Design("a tenth sealed, opened in every 10th", AnchoredGate(sealed_share=0.1))
    yield Design(
        "a tenth sealed, opened in every 2nd", AnchoredGate(sealed_share=0.1, sealed_every=2)
    )
    yield Design(
        "a fifth sealed, opened in every 2nd", AnchoredGate(sealed_share=0.2, sealed_every=2)
    )
    sealed = AnchoredGate(sealed_share=0.1)
    yield Design("a tenth sealed, two halves in turn", sealed, folds=2)
    yield Design("a tenth sealed, four of five fifths in turn", sealed, folds=5, judging=4)
    yield Design("a tenth sealed, half the error", AnchoredGate(sealed_share=0.1, error=0.025))


def power(rows: int, change: float, discordant: float, *, verdicts: int = 4000) -> float:
    """The chance that one verdict shows the margin, on this many rows.

    Args:
        rows: held-out rows.
        change: the true difference to the anchor.
        discordant: the share of rows on which only one of the two models is right.
        verdicts: number of simulated ones.
    """
    gate, rng = AnchoredGate(), np.random.default_rng(0)
    shares = [(discordant + change) / 2, (discordant - change) / 2, 1 - discordant]
    drawn = rng.multinomial(rows, shares, size=verdicts)
    shown = [
        is_shown_above(PairedCounts(float(wins), float(losses), rows), gate.margin, gate.level)
        for wins, losses, _ in drawn
    ]
    return float(np.mean(shown))


def print_power(sizes: Sequence[int]) -> None:
    """Print a row for each number of held-out rows."""
    cases = ((0.0, 0.1), (0.01, 0.1), (0.0, DISCORDANT), (0.01, DISCORDANT), (-0.03, DISCORDANT))
    print("| rows | " + " | ".join(f"{c:+.2f}, {d:.2f} differ" for c, d in cases) + " |")
    print("|---|" + "---|" * len(cases))
    for rows in sizes:
        found = " | ".join(f"{power(rows, change, differ):.3f}" for change, differ in cases)
        print(f"| {rows} | {found} |", flush=True)


def main() -> None:
    """Print a row for each gate, number of held-out rows and true change."""
    settings = AnchoredGate()
    enough = rows_needed(settings.margin, settings.level, discordant=DISCORDANT, power=0.9)
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rows", type=int, nargs="*", default=[100, 300, 1000, enough])
    parser.add_argument("--lives", type=int, default=2000)
    parser.add_argument("--changes", type=float, nargs="*", default=CHANGES)
    parser.add_argument("--changing", type=float, default=0.1)
    parser.add_argument("--reuse", action="store_true")
    parser.add_argument("--power", action="store_true")
    options = parser.parse_args()
    if options.power:
        return print_power([100, 300, 500, 1000, 2000, 3000, 5000, enough])
    print("| gate | rows | true change | median fall | 95 % of falls | beyond margin | kept |")
    print("|---|---|---|---|---|---|---|")
    for design in reuse() if options.reuse else gates():
        for rows in options.rows:
            for change in options.changes:
                found = lines(design, rows, change, changing=options.changing, lives=options.lives)
                print(
                    f"| {design.name} | {rows} | {change:+.3f} | {np.median(found.falls):.3f} "
                    f"| {np.quantile(found.falls, 0.95):.3f} | {found.beyond(settings):.3f} "
                    f"| {found.kept:.3f} |",
                    flush=True,
                )
    return None


if __name__ == "__main__":
    main()
