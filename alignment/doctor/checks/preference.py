"""What the pairs teach beyond their content: contradictions, ties, and a preference for length."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from alignment.data.row import Reason
from alignment.doctor.checks.lengths import BINS, counted
from alignment.doctor.finding import (
    Example,
    Finding,
    Histogram,
    Piece,
    graded,
    percent,
    share,
)
from alignment.doctor.sets import PreparedSet
from alignment.doctor.tokens import EncodedPair
from alignment.evaluate.intervals import proportion
from alignment.records.text import Message, PreferencePair
from alignment.report.table import Table

CONFLICTS_WARN, CONFLICTS_FAIL = 0.02, 0.2
TIES_WARN, TIES_FAIL = 0.1, 0.5
BIASED, ONLY_LENGTH = 0.6, 0.9
"""Shares of pairs that "pick the longer" gets right: above the first it warns, from the second on
the pairs teach little else. Mirrored below one half, for "pick the shorter"."""

ABOUT_PAIRS = ("trimmed pairs", "conflicts", "ties", "length bias")
"""Checks that say nothing where no pairs are trained on, or not yet."""


def about_pairs(finding: Finding, sets: Sequence[PreparedSet]) -> Finding:
    """A finding about pairs is neither good nor bad where there are none."""
    if finding.check not in ABOUT_PAIRS or any(s.prompt and (s.train or s.dropped) for s in sets):
        return finding
    return Finding(
        check=finding.check,
        verdict="skip",
        headline="Not checked: before the run there are no pairs to train on.",
    )


def check_conflicts(sets: Sequence[PreparedSet]) -> Finding:
    """Prompts for which the same text is both chosen and rejected."""
    pairs = [pair for set_ in sets for pair in set_.train if isinstance(pair, PreferencePair)]
    chosen, rejected = defaultdict(set), defaultdict(set)
    for pair in pairs:
        chosen[_text(pair.prompt)].add(_text(pair.chosen))
        rejected[_text(pair.prompt)].add(_text(pair.rejected))
    both = [
        pair
        for pair in pairs
        if chosen[_text(pair.prompt)] & rejected[_text(pair.prompt)]
    ]  # fmt: skip
    removed = sum(set_.count(Reason.conflicting_label) for set_ in sets)
    part = share(removed, removed + len(pairs))
    verdict = graded(part, warn=CONFLICTS_WARN, fail=CONFLICTS_FAIL)
    return Finding(
        check="conflicts",
        verdict=verdict,
        headline=f"{removed:,} pairs contradict another and were dropped ({percent(part)}); in "
        f"{len(both):,} more, one text is both chosen and rejected for the same prompt.",
        figures={"left_out": removed, "share": part, "both_ways": len(both)},
        examples=tuple(
            Example(
                place=f"pair {pair.id} ({pair.source})",
                note="chosen here, rejected elsewhere",
                pieces=(Piece(text=pair.prompt[-1].content),),
            )
            for pair in both[:3]
        ),
        remedy="Raters disagree: merge their votes per prompt before you build pairs.",
    )


def check_ties(sets: Sequence[PreparedSet]) -> Finding:
    """Pairs whose scores prefer neither reply, or the rejected one."""
    pairs = [pair for set_ in sets for pair in set_.train if isinstance(pair, PreferencePair)]
    ties = sum(set_.count(Reason.tie) for set_ in sets)
    inverted = sum(set_.count(Reason.score_inverted) for set_ in sets)
    strengths = [pair.strength for pair in pairs if pair.strength is not None]
    parts = {s.name: _tied(s) for s in sets if s.prompt is not None}
    where = max(parts, key=parts.__getitem__, default="")
    part = parts.get(where, 0.0)
    verdict = graded(part, warn=TIES_WARN, fail=TIES_FAIL)
    weak = share(sum(strength <= 0.05 for strength in strengths), len(strengths))
    if not strengths and not ties:
        headline = "The pairs have no scores, so ties cannot be detected."
    else:
        headline = (
            f"{ties:,} ties and {inverted:,} inverted scores were dropped ({percent(part)} of "
            f"{where}); {percent(weak)} of the kept pairs differ by a twentieth of the scale or "
            "less."
        )
    return Finding(
        check="ties",
        verdict=verdict,
        headline=headline,
        figures={"ties": ties, "inverted": inverted, "share": part, "weak_share": weak},
        remedy="These rows need no action, but a source with this many ties is a weak signal: "
        "prefer one whose raters had to choose.",
    )


def _tied(set_: PreparedSet) -> float:
    tied = set_.count(Reason.tie, Reason.score_inverted)
    return share(tied, tied + len(set_.train) + len(set_.held_out))


def check_length_bias(sets: Sequence[PreparedSet]) -> Finding:
    """How well length alone predicts the chosen reply: the accuracy of "pick the longer"."""
    by_source: defaultdict[str, list[EncodedPair]] = defaultdict(list)
    for set_ in sets:
        for row, pair in zip(set_.train, set_.pairs, strict=False):
            by_source[f"{set_.name} · {row.source}"].append(pair)
    everything = [pair for pairs in by_source.values() for pair in pairs]
    if not everything:
        return Finding(
            check="length bias", verdict="ok", headline="No preference pairs in this run."
        )
    accuracy = pick_the_longer(everything)
    interval = proportion(round(accuracy * len(everything)), len(everything))
    predictable = max(accuracy, 1 - accuracy)
    biased = interval.low > BIASED or interval.high < 1 - BIASED
    verdict = "ok" if not biased else graded(predictable, warn=0, fail=ONLY_LENGTH)
    unequal = [p for p in everything if p.replies[0] != p.replies[1]]
    longer = share(sum(p.replies[0] > p.replies[1] for p in unequal), len(unequal))
    won = f"The longer reply won in {percent(longer)} of the pairs that differ in length"
    if not unequal:
        won = "The replies of every pair are equally long"
    return Finding(
        check="length bias",
        verdict=verdict,
        headline=f"{won}; picking the longer is right in {percent(accuracy)} "
        f"[{percent(interval.low)}, {percent(interval.high)}].",
        figures={"longer_won": longer, "pick_the_longer": accuracy, "pairs": len(everything)},
        tables=(_by_source(by_source),),
        charts=(_differences(everything),),
        remedy="A model can gain much by "
        + ("longer" if accuracy > 0.5 else "shorter")
        + " replies alone. Balance the pairs by length, use a loss that normalises by length, and "
        "watch the reply tokens in the report.",
    )


def pick_the_longer(pairs: Sequence[EncodedPair]) -> float:
    """Share of pairs whose chosen reply has more tokens; pairs of equal length count half."""
    points = (1.0 if c > r else 0.5 if c == r else 0.0 for c, r in (p.replies for p in pairs))
    return share(sum(points), len(pairs))


def _by_source(groups: dict[str, list[EncodedPair]]) -> Table:
    rows = []
    for name, pairs in groups.items():
        mean = [share(sum(p.replies[side] for p in pairs), len(pairs)) for side in (0, 1)]
        rows.append(
            (
                name,
                f"{len(pairs):,}",
                percent(pick_the_longer(pairs)),
                f"{mean[0]:.0f}",
                f"{mean[1]:.0f}",
            )
        )
    columns = ("Set and source", "Pairs", "Pick the longer", "Chosen tokens", "Rejected tokens")
    return Table.of("Length by source", columns, rows)


def _differences(pairs: Sequence[EncodedPair]) -> Histogram:
    differences = [pair.replies[0] - pair.replies[1] for pair in pairs]
    reach = max(sorted(map(abs, differences))[int(0.98 * (len(differences) - 1))], 1)
    edges = [round(reach * (2 * n / BINS - 1), 3) for n in range(BINS + 1)]
    return Histogram(
        title="Chosen minus rejected reply",
        unit="tokens; the outermost bars include everything beyond",
        edges=tuple(edges),
        counts={"pairs": counted(differences, edges)},
        marks={"equal": 0.0},
    )


def _text(messages: Iterable[Message]) -> str:
    return "\n".join(" ".join(message.content.split()) for message in messages)
