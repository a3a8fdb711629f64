"""Row lengths in the model's own tokens, and what the run's length limits do to them."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence

from alignment.data.row import Reason
from alignment.doctor.finding import Finding, Histogram, graded, percent, share
from alignment.doctor.sets import PreparedSet
from alignment.doctor.tokens import EncodedPair
from alignment.report.table import Table

TOO_LONG = (Reason.too_long, Reason.prompt_too_long)
WARN, FAIL = 0.02, 0.2
"""Limits on the share of rows that are truncated or dropped for their length."""
SHORTER = (256, 512, 1024, 2048)
"""Shorter limits to try, in tokens."""
BINS = 32


def check_lengths(sets: Sequence[PreparedSet]) -> Finding:
    """Token counts of every set, and the share that the length limits truncate or drop."""
    rows, affected = [], {}
    for set_ in sets:
        wholes = _wholes(set_)
        lost = set_.count(*TOO_LONG)
        if not wholes and not lost:
            continue
        beyond = sum(length > set_.whole for length in wholes)
        kept = len(set_.train)
        # `beyond` is counted on the tokenized sample, `lost` on all rows.
        estimate = share(beyond, len(wholes)) * kept
        affected[set_.name] = share(estimate + lost, kept + lost)
        p50, p95, longest = (quantile(wholes, q) for q in (0.5, 0.95, 1.0))
        rows.append(
            (
                set_.name,
                f"{p50:,}",
                f"{p95:,}",
                f"{longest:,}",
                f"{set_.whole:,}" + (f" / {set_.prompt:,}" if set_.prompt else ""),
                f"{round(estimate):,}",
                f"{lost:,}",
            )
        )
    where = max(affected, key=affected.__getitem__, default="")
    part = affected.get(where, 0.0)
    has_prompts = any(set_.name == where and set_.prompt is not None for set_ in sets)
    limits = "max_length (and max_prompt_length)" if has_prompts else "max_length"
    verdict = graded(part, warn=WARN, fail=FAIL)
    columns = ("Set", "Median", "95 %", "Longest kept", "Limit / prompt", "Truncated", "Dropped")
    return Finding(
        check="lengths",
        verdict=verdict,
        headline=f"The length limits truncate or drop {percent(part)} of {where}, more than of any "
        "other set."
        if part
        else "Every row fits the run's length limits.",
        figures=affected,
        tables=(Table.of("Tokens per row under the chat template", columns, rows),),
        charts=tuple(_histogram(set_) for set_ in sets if _wholes(set_)),
        remedy=f"Raise {limits}, or use shorter rows. A truncated reply ends in the middle, "
        "without its stop token.",
    )


def check_trimmed(sets: Sequence[PreparedSet]) -> Finding:
    """Pairs that become equal or lose a reply at the run's length limits, and at shorter ones."""
    rounds = [set_ for set_ in sets if set_.prompt is not None]
    lost = sum(set_.count(*TOO_LONG) for set_ in rounds)
    total = lost + sum(len(set_.train) for set_ in rounds)
    part = share(lost, total)
    verdict = graded(part, warn=WARN, fail=FAIL)
    limits = sorted({limit for limit in SHORTER for s in sets if s.pairs and limit < s.whole})
    headline = (
        f"{lost:,} of {total:,} pairs ({percent(part)}) were dropped: they exceed the length "
        "limits, or truncation would make the replies equal or remove one."
        if lost
        else "No pair becomes equal or loses a reply at the run's length limits."
    )
    if not total:
        headline = "No preference pairs in this run."
    return Finding(
        check="trimmed pairs",
        verdict=verdict,
        headline=headline,
        figures={"left_out": lost, "share": part}
        | {f"useless_at_{limit}": _useless_share(sets, limit) for limit in limits},
        tables=(_what_if(sets, limits),) if limits else (),
        remedy="Raise max_length and max_prompt_length until these pairs differ within the limits.",
    )


def useless(pair: EncodedPair, limit: int) -> bool:
    """Whether truncation to `limit` tokens makes both chats equal, or removes all of a reply.

    A trainer that truncates on the right trains on such pairs silently: equal chats give a loss of
    ln 2 and no gradient.
    """
    if pair.chosen.spans[0][0] >= limit or pair.rejected.spans[0][0] >= limit:
        return True
    return pair.chosen.ids[:limit] == pair.rejected.ids[:limit]


def quantile(lengths: Sequence[int], q: float) -> int:
    """The smallest length that a share `q` of the rows does not exceed; 0 if there are none."""
    ordered = sorted(lengths)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else 0


def _what_if(sets: Sequence[PreparedSet], limits: Sequence[int]) -> Table:
    rows = [
        (
            set_.name,
            *(
                percent(share(sum(useless(pair, limit) for pair in set_.pairs), len(set_.pairs)))
                if limit < set_.whole
                else ""
                for limit in limits
            ),
        )
        for set_ in sets
        if set_.pairs
    ]
    note = (
        "Share of the kept pairs that would become equal or lose a reply if they were truncated on "
        "the right to that many tokens."
    )
    return Table.of("Effect of shorter limits", ("Set", *map(str, limits)), rows, note=note)


def _useless_share(sets: Sequence[PreparedSet], limit: int) -> float:
    pairs = [pair for set_ in sets if limit < set_.whole for pair in set_.pairs]
    return share(sum(useless(pair, limit) for pair in pairs), len(pairs))


def _wholes(set_: PreparedSet) -> list[int]:
    return [len(chat.ids) for chat in set_.chats] or [pair.whole for pair in set_.pairs]


def _histogram(set_: PreparedSet) -> Histogram:
    series: dict[str, Sequence[int]] = {"whole row": _wholes(set_)}
    marks = {"max_length": float(set_.whole)}
    if set_.pairs:
        series = {
            "prompt": [pair.prompt for pair in set_.pairs],
            "prompt and longer reply": series["whole row"],
        }
        marks["max_prompt_length"] = float(set_.prompt or set_.whole)
    top = max(max(lengths) for lengths in series.values())
    # A limit far to the right of every row would squeeze the rows into the first bin.
    marks = {name: at for name, at in marks.items() if at <= 2 * top}
    edges = [round(max(top, *marks.values(), 1) * n / BINS, 3) for n in range(BINS + 1)]
    return Histogram(
        title=set_.name,
        unit="tokens",
        edges=tuple(edges),
        counts={name: counted(lengths, edges) for name, lengths in series.items()},
        marks=marks,
    )


def counted(values: Iterable[float], edges: Sequence[float]) -> tuple[int, ...]:
    """Number of values in each bin; the last bin includes its upper edge."""
    counts = [0] * (len(edges) - 1)
    for value in values:
        counts[min(max(bisect_right(edges, value) - 1, 0), len(counts) - 1)] += 1
    return tuple(counts)
