"""The chat template: whether replies can be located, what is trained, and the stop token."""

import datetime
from collections.abc import Iterator, Sequence

from transformers import PreTrainedTokenizerBase

from alignment.doctor.finding import Example, Finding, Piece, graded, percent, share
from alignment.doctor.sets import PreparedSet
from alignment.errors import ModelError
from alignment.models.chat_template import format_of
from alignment.models.encoding import Encoded
from alignment.report.table import Table

READABLE = 300
"""Rows up to this many tokens are short enough to read in full."""
CUT_WARN, CUT_FAIL = 0.02, 0.2
"""Limits on the share of replies whose stop token is truncated."""
LITTLE = 0.1
"""Below this share of trained tokens, most of the time goes into prompts."""


def check_template(
    tokenizer: PreTrainedTokenizerBase, *, date: datetime.date | None = None
) -> Finding:
    """Whether the template marks where a reply begins and ends; training is impossible without.

    Args:
        tokenizer: the run's tokenizer.
        date: what a template that says today's date always says, if this is one.
    """
    try:
        found = format_of(tokenizer)
    except ModelError as error:
        problem, _, remedy = str(error).rpartition("; ")
        return Finding(
            check="template",
            verdict="fail",
            headline=f"{problem}.",
            remedy=f"{remedy[:1].upper()}{remedy[1:]}.",
        )
    opening, closing = found.opening, str(tokenizer.decode([found.stop]))
    shared = tokenizer.pad_token == closing
    padding = ", which is also the padding token: targets are located by position" if shared else ""
    return Finding(
        check="template",
        verdict="ok",
        headline=f"A reply opens with {opening!r} and closes with {closing!r}{padding}."
        + (
            ""
            if closing == tokenizer.eos_token
            else f" Answers and exports also end at the tokenizer's own {tokenizer.eos_token!r}."
        )
        + (f" It says the date, in this run always {date} (template.date)." if date else ""),
        figures={"padding_is_stop": float(shared)},
    )


def check_prefix(sets: Sequence[PreparedSet]) -> Finding:
    """Whether the replies follow the whole generation prompt, as when the model is asked."""
    rows = [(set_, at, chat) for set_ in sets for at, chat in _chats(set_)]
    broken = [(set_, at) for set_, at, chat in rows if not chat.asked]
    return Finding(
        check="prompt prefix",
        verdict="warn" if broken else "ok",
        headline=f"In {len(broken):,} of {len(rows):,} chats the generation prompt opens a thought "
        "that the reply lacks: the model is trained on another prompt than it is given."
        if broken
        else f"Every reply follows the whole generation prompt, in all {len(rows):,} chats."
        if rows
        else "No rows to train on.",
        figures={"chats": len(rows), "broken": len(broken)},
        examples=tuple(
            Example(place=f"{set_.name} · row {set_.train[at].id}") for set_, at in broken[:3]
        ),
        remedy="Set template: {name: trl}, which renders thoughts alike in prompts and replies, or "
        "use a template without thoughts.",
    )


def check_stop(sets: Sequence[PreparedSet], *, stop: int) -> Finding:
    """Whether the stop token is a target in every reply, after truncation to the run's limit."""
    missing: list[tuple[PreparedSet, str]] = []
    replies = 0
    for set_ in sets:
        for at, chat in _chats(set_):
            replies += 1
            if not _ends_in_stop(chat, stop, set_.whole):
                missing.append((set_, set_.train[at].id))
    part = share(len(missing), replies)
    in_sft = any(set_.chats for set_, _ in missing)
    verdict = "fail" if in_sft else graded(part, warn=CUT_WARN, fail=CUT_FAIL)
    return Finding(
        check="stop token",
        verdict=verdict,
        headline=f"The stop token is trained in all {replies:,} replies."
        if not missing
        else f"{len(missing):,} of {replies:,} replies ({percent(part)}) are trained without "
        "their stop token.",
        figures={"replies": replies, "without_stop": len(missing), "share": part},
        examples=tuple(Example(place=f"{set_.name} · row {row}") for set_, row in missing[:3]),
        remedy="Raise max_length so that replies are not truncated, or remove long rows.",
    )


def check_supervised(sets: Sequence[PreparedSet], tokenizer: PreTrainedTokenizerBase) -> Finding:
    """The share of tokens that are targets, with one rendered row per set, targets marked."""
    rows, shares = [], {}
    for set_ in sets:
        tokens = sum(min(len(chat.ids), set_.whole) for _, chat in _chats(set_))
        trained = sum(chat.trained(set_.whole) for _, chat in _chats(set_))
        if tokens:
            shares[set_.name] = share(trained, tokens)
            rows.append((set_.name, f"{tokens:,}", f"{trained:,}", percent(shares[set_.name])))
    least = min(shares, key=shares.__getitem__, default="")
    little = bool(least) and shares[least] < LITTLE
    return Finding(
        check="supervised tokens",
        verdict="warn" if little else "ok",
        headline=f"{percent(shares[least])} of the tokens of {least} are trained, "
        + ("the least of any set." if len(shares) > 1 else "the rest is context.")
        if least
        else "No rows to train on.",
        figures=shares,
        tables=(
            Table.of("Tokens in total and trained", ("Set", "Tokens", "Trained", "Share"), rows),
        ),
        examples=tuple(rendered(set_, tokenizer) for set_ in sets if set_.chats or set_.pairs),
        remedy=_longer_replies(sets, least),
    )


def _longer_replies(sets: Sequence[PreparedSet], least: str) -> str:
    """What to do about a set of long prompts; only pairs have a limit of prompts alone."""
    limited = any(set_.name == least and set_.prompt for set_ in sets)
    shorter = "shorten them with max_prompt_length, or " if limited else ""
    return f"Most of the time goes into prompts: {shorter}use rows with longer replies."


def rendered(set_: PreparedSet, tokenizer: PreTrainedTokenizerBase) -> Example:
    """The first short row of a set as training sees it; for a pair, the chosen chat."""
    rows = [(at, chat) for at, chat in _chats(set_)][:: 1 if set_.chats else 2]
    at, chat = next((row for row in rows if len(row[1].ids) <= READABLE), rows[0])
    words = "conversation" if set_.chats else "chosen chat of pair"
    return Example(
        place=f"{set_.name} · {words} {set_.train[at].id}",
        note=f"{min(len(chat.ids), set_.whole):,} tokens, {chat.trained(set_.whole):,} trained",
        pieces=tuple(_pieces(chat, tokenizer, limit=set_.whole)),
    )


def _pieces(chat: Encoded, tokenizer: PreTrainedTokenizerBase, *, limit: int) -> Iterator[Piece]:
    at = 0
    for start, end in (*chat.spans, (len(chat.ids), len(chat.ids))):
        for low, high, trained in ((at, start, False), (start, end, True)):
            ids = list(chat.ids[low : min(high, limit)])
            if ids:
                yield Piece(text=str(tokenizer.decode(ids)), trained=trained)
        at = end


def _chats(set_: PreparedSet) -> Iterator[tuple[int, Encoded]]:
    """Every chat that training sees, with the index of its row in the set."""
    yield from enumerate(set_.chats)
    for at, pair in enumerate(set_.pairs):
        yield at, pair.chosen
        yield at, pair.rejected


def _ends_in_stop(chat: Encoded, stop: int, limit: int) -> bool:
    """Whether every reply still has its stop token among the targets after truncation."""
    return bool(chat.spans) and all(
        stop in chat.ids[start : min(end, limit)] for start, end in chat.spans
    )
