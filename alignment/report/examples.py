"""Rows worth reading: replies side by side, pairs that changed most, pairs that are still wrong.

A fixed rule selects them, so that there is no cherry-picking: first where models disagree, losses
and gains alternating, then the others; task types take turns. Ties are broken by id.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Literal, NamedTuple

from alignment.evaluate.metrics import is_preferred
from alignment.records.evaluation import Generation, PairScore
from alignment.records.text import PreferencePair

Change = Literal["lost", "gained", "never", "always", "unverified"]
CHANGES: dict[Change, str] = {
    "lost": "lost: another model passes",
    "gained": "gained: another model fails",
    "never": "no model passes",
    "always": "every model passes",
    "unverified": "no verifier",
}


class SideBySide(NamedTuple):
    """One prompt with every model's reply, in the order of the models."""

    prompt: Generation
    change: Change
    replies: dict[str, Generation]


class WrongPair(NamedTuple):
    """A held-out pair whose rejected reply is still likelier, and its text if known."""

    score: PairScore
    text: PreferencePair | None


class ChangedPair(NamedTuple):
    """A held-out pair under two models, and its text if known.

    Attributes:
        change: by how much the margin between chosen and rejected reply rose, in nats.
    """

    before: PairScore
    after: PairScore
    change: float
    text: PreferencePair | None


class ChangedPairs(NamedTuple):
    """The pairs that changed most between two models, each list with the largest change first."""

    improved: list[ChangedPair]
    regressed: list[ChangedPair]


def side_by_side(
    generations: Mapping[str, Sequence[Generation]], final: str, *, limit: int = 24
) -> list[SideBySide]:
    """At most `limit` prompts that `final` answered, about a quarter of them without a change."""
    by_model = {label: {row.id: row for row in rows} for label, rows in generations.items()}
    groups: dict[Change, list[SideBySide]] = {change: [] for change in CHANGES}
    for row_id, prompt in sorted(by_model.get(final, {}).items()):
        replies = {label: rows[row_id] for label, rows in by_model.items() if row_id in rows}
        change = _change(replies, final)
        groups[change].append(SideBySide(prompt, change, replies))
    mixed = {change: _task_types_in_turn(rows) for change, rows in groups.items()}
    changed = _in_turn([mixed["lost"], mixed["gained"]])
    same = _in_turn([mixed["never"], mixed["always"], mixed["unverified"]])
    room = max(limit - len(same), limit * 3 // 4)
    shown = changed[:room]
    return [*shown, *same[: limit - len(shown)]]


def changed_pairs(
    before: Iterable[PairScore],
    after: Iterable[PairScore],
    texts: Iterable[PreferencePair],
    *,
    limit: int = 3,
) -> ChangedPairs:
    """The pairs whose margin rose and fell most from one model to the other."""
    earlier, by_id = {score.id: score for score in before}, {text.id: text for text in texts}
    changed = [
        ChangedPair(earlier[score.id], score, _rise(earlier[score.id], score), by_id.get(score.id))
        for score in after
        if score.id in earlier
    ]
    changed.sort(key=lambda pair: (-abs(pair.change), pair.after.id))
    return ChangedPairs(
        improved=[pair for pair in changed if pair.change > 0][:limit],
        regressed=[pair for pair in changed if pair.change < 0][:limit],
    )


def _rise(before: PairScore, after: PairScore) -> float:
    return (after.chosen - after.rejected) - (before.chosen - before.rejected)


def wrong_pairs(
    scores: Iterable[PairScore], texts: Iterable[PreferencePair], *, limit: int = 10
) -> list[WrongPair]:
    """The pairs where the model is furthest on the wrong side, worst first."""
    by_id = {text.id: text for text in texts}
    wrong = [score for score in scores if not is_preferred(score)]
    wrong.sort(key=lambda score: (score.chosen - score.rejected, score.id))
    return [WrongPair(score, by_id.get(score.id)) for score in wrong[:limit]]


def _change(replies: Mapping[str, Generation], final: str) -> Change:
    passed = replies[final].passed
    if passed is None:
        return "unverified"
    others = {reply.passed for label, reply in replies.items() if label != final}
    if passed:
        return "gained" if False in others else "always"
    return "lost" if True in others else "never"


def _task_types_in_turn(rows: Iterable[SideBySide]) -> list[SideBySide]:
    by_task: defaultdict[str, list[SideBySide]] = defaultdict(list)
    for row in rows:
        by_task[row.prompt.task_type].append(row)
    return _in_turn([by_task[task] for task in sorted(by_task)])


def _in_turn(lists: Sequence[Sequence[SideBySide]]) -> list[SideBySide]:
    return [row for turn in zip_longest(*lists) for row in turn if row is not None]
