"""Lengths in the model's own tokens: how long rows are, and what the run's limits do to them."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence

from alignment.data.row import Reason
from alignment.doctor.finding import Finding, Histogram, graded, percent, share
from alignment.doctor.inputs import PreparedSet
from alignment.doctor.tokens import EncodedPair
from alignment.report.table import Table

TOO_LONG = (Reason.too_long, Reason.prompt_too_long)
WARN, FAIL = 0.02, 0.2
"""Share of rows that the limits cut or leave out."""
SHORTER = (256, 512, 1024, 2048)
"""Limits below the run's that are tried as well."""
BINS = 32


def check_lengths(sets: Sequence[PreparedSet]) -> Finding:
    """Token counts of every set, and how much of it the run's lengths cut or leave out."""
    rows, touched = [], {}
    for set_ in sets:
        wholes = _wholes(set_)
        lost = set_.count(*TOO_LONG)
        if not wholes and not lost:
            continue
        beyond = sum(length > set_.whole for length in wholes)
        kept = len(set_.train)
        # `beyond` was counted on the rows looked at, `lost` on all of them.
        estimate = share(beyond, len(wholes)) * kept
        touched[set_.name] = share(estimate + lost, kept + lost)
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
    where = max(touched, key=touched.__getitem__, default="")
    part = touched.get(where, 0.0)
    verdict = graded(part, warn=WARN, fail=FAIL)
    columns = ("Set", "Median", "95 %", "Longest kept", "Limit / prompt", "Cut", "Left out")
    return Finding(
        check="lengths",
        verdict=verdict,
        headline=f"The limits cut or leave out {percent(part)} of {where}, more than of any other "
        "set."
        if part
        else "Every row fits the run's lengths.",
        figures=touched,
        tables=(Table.of("Tokens per row under the chat template", columns, rows),),
        charts=tuple(_histogram(set_) for set_ in sets if _wholes(set_)),
        remedy="Raise max_length (and max_prompt_length), or take shorter rows: a cut reply ends "
        "in the middle, without its stop token.",
    )


def check_trimmed(sets: Sequence[PreparedSet]) -> Finding:
    """Pairs that become equal or lose a reply at the run's lengths, and at shorter ones."""
    rounds = [set_ for set_ in sets if set_.prompt is not None]
    gone = sum(set_.count(*TOO_LONG) for set_ in rounds)
    total = gone + sum(len(set_.train) for set_ in rounds)
    part = share(gone, total)
    verdict = graded(part, warn=WARN, fail=FAIL)
    limits = sorted({limit for limit in SHORTER for s in sets if s.pairs and limit < s.whole})
    headline = (
        f"{gone:,} of {total:,} pairs ({percent(part)}) do not fit the run's lengths, or would be "
        "equal or without a reply; they are left out."
        if gone
        else "No pair becomes equal or loses a reply at the run's lengths."
    )
    if not total:
        headline = "No preference pairs in this run."
    return Finding(
        check="trimmed pairs",
        verdict=verdict,
        headline=headline,
        figures={"left_out": gone, "share": part}
        | {f"useless_at_{limit}": _useless_share(sets, limit) for limit in limits},
        tables=(_what_if(sets, limits),) if limits else (),
        remedy="Raise max_length and max_prompt_length until these pairs differ within them.",
    )


def useless(pair: EncodedPair, limit: int) -> bool:
    """Whether a cut to `limit` tokens makes both chats equal, or leaves nothing of a reply.

    This is what a trainer that cuts from the right trains on without a word: equal chats give a
    loss of ln 2 and no gradient.
    """
    if pair.chosen.spans[0][0] >= limit or pair.rejected.spans[0][0] >= limit:
        return True
    return pair.chosen.ids[:limit] == pair.rejected.ids[:limit]


def quantile(lengths: Sequence[int], q: float) -> int:
    """The smallest length that a share `q` of the rows does not exceed; 0 without rows."""
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
        "Share of the pairs kept that would be equal, or have no reply left, if they were cut from "
        "the right at that many tokens."
    )
    return Table.of("What shorter limits would do", ("Set", *map(str, limits)), rows, note=note)


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
            "prompt": [len(pair.prompt) for pair in set_.pairs],
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
    """How many values lie in each bin; the last bin holds its upper edge too."""
    counts = [0] * (len(edges) - 1)
    for value in values:
        counts[min(max(bisect_right(edges, value) - 1, 0), len(counts) - 1)] += 1
    return tuple(counts)
