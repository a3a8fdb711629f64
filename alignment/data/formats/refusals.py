"""What a refusal says: which format is nearest, and the words that would read the file.

Words are given for the command line and for a config. Not here: when a file is refused.
"""

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from itertools import pairwise

from alignment.data.formats.base import (
    BaseFormat,
    Columns,
    Kind,
    is_chat,
    is_number,
    is_text,
    is_turns,
    mostly,
)
from alignment.data.formats.messages import is_exchange, is_message
from alignment.data.formats.verdicts import LABELS, SCORES, VERDICTS, is_thumb, thumb, word
from alignment.errors import DataError

_SHOWN = 20
_JUDGEMENT = re.compile(
    r"(?:^|[_\-. ])(?:labels?|scores?|ratings?|rewards?|grades?|ranks?|ranking|preference|preferred"
    r"|winner|verdict|votes?|upvotes|downvotes|thumbs?|liked?|feedback|judge?ments?|quality"
    r"|helpful(?:ness)?|correct(?:ness)?|coherence|harmless(?:ness)?|harmful|accepted|acceptable"
    r"|safe|unsafe|safety|toxic|toxicity"
    r"|better|best|worse|chosen|rejected|good|bad)(?:$|[_\-. ])",
    re.IGNORECASE,
)

_WORSE = re.compile(
    r"(?:^|[_\-. ])(?:ranks?|ranking|harmful|unsafe|toxic|toxicity|rejected|downvotes|worse|bad)"
    r"(?:$|[_\-. ])",
    re.IGNORECASE,
)
"""Judgements that are better the lower they are."""


def unknown(where: str, columns: Columns, known: Sequence[BaseFormat]) -> str:
    """The error for columns that match no known format."""
    options = ", ".join(dict.fromkeys(one.name for one in known))
    return (
        f"{where}: columns {_listed(columns)} match no known format. {_nearest(columns, known)}"
        "Name the format with --format NAME, or rename columns with --column THEIRS=OURS; in a "
        "config, format: {name: NAME} and columns: {theirs: ours}. "
        f"Known formats: {options}; what each expects: sft-dpo data --formats"
    )


def several(where: str, columns: Columns, found: Sequence[BaseFormat]) -> str:
    """The error for columns that match several formats."""
    names = list(dict.fromkeys(one.name for one in found))
    each = " or ".join(f"--format {name}" for name in names)
    prompts = [getattr(one, "prompt", "") for one in found]
    if len(names) == 1 and all(prompts):
        each = " or ".join(f"--format {names[0]},prompt={name}" for name in dict.fromkeys(prompts))
    return (
        f"{where}: columns {_listed(columns)} match several formats: {' and '.join(names)}. "
        f"Name the format, {each}; in a config, format: {{name: {names[0]}}}"
    )


def check_nothing_lost(where: str, columns: Columns, unread: Iterable[str], gives: Kind) -> None:
    """Refuse to leave out a column that holds chats, or that judges replies to be imitated.

    Args:
        where: the source's name, for the error message.
        columns: the columns of the first rows.
        unread: names of the columns that the detected format does not read.
        gives: what that format gives.

    Raises:
        DataError: there is such a column; says the word that reads it, and the one that does not.
    """
    left = [name for name in columns if name in set(unread)]
    chats = [name for name in left if mostly(columns, name, _is_talk)]
    if chats:
        raise DataError(_lost_chat(where, chats[0][:40]))
    replies = [name for name in left if gives == "prompts" and _is_judged(columns, name)]
    if len(replies) == 2:
        raise DataError(_lost_pair(where, *replies))
    judges = [name for name in left if gives == "conversations" and _judges(columns, name)]
    if judges:
        raise DataError(_lost_judgement(where, columns, judges))


def _judges(columns: Columns, name: str) -> bool:
    """Whether a column seems to say how good a reply is."""
    if not _JUDGEMENT.search(name):
        return False
    if _WORSE.search(name) and all(thumb(one) is False for one in columns[name]):
        return False  # nothing is amiss with any reply
    return mostly(
        columns, name, lambda one: is_number(one) or is_thumb(one) or word(one) in VERDICTS
    )


def _is_judged(columns: Columns, name: str) -> bool:
    """Whether a column seems to hold replies that its name judges."""
    return bool(_JUDGEMENT.search(name)) and mostly(columns, name, is_turns)


def _is_talk(value: object) -> bool:
    return (
        is_chat(value)
        and isinstance(value, list)
        and (is_message(value[0]) or is_exchange(value[0]))
    )


def _lost_chat(where: str, name: str) -> str:
    return (
        f"{where}: column {name} holds chats, which the detected format does not read. If they are "
        "what to train on, rename the other columns or name a format with --format; to go on "
        f"without them, --column {name}= (in a config, columns: {{{name}: ''}})"
    )


def _lost_pair(where: str, first: str, second: str) -> str:
    first, second = first[:40], second[:40]
    return (
        f"{where}: {first} and {second} seem to be a better and a worse reply, and the detected "
        f"format reads only the prompt. Say which: --column {first}=chosen --column "
        f"{second}=rejected, or --column {second}=chosen --column {first}=rejected; --column "
        f"{first}= --column {second}= reads the prompt alone (in a config, columns: {{{first}: "
        f"chosen, {second}: rejected}})"
    )


def _lost_judgement(where: str, columns: Columns, names: Sequence[str]) -> str:
    shown = [name[:40] for name in names]
    left_out = " ".join(f"--column {name}=" for name in shown)
    each = ", ".join(f"{name}: ''" for name in shown)
    if _WORSE.search(names[0]):  # read as a label or a score, it would swap every pair
        return (
            f"{where}: {', '.join(shown)} seem to judge the replies, and the detected format would "
            f"imitate all of them. {left_out} imitates all (in a config, columns: {{{each}}}). For "
            "pairs, add a column score that is higher for the better reply, or a column label that "
            "is true for a good one"
        )
    two = all(is_thumb(value) for value in columns[names[0]])
    kind, ours, what = (
        ("unpaired", "label", "a liked and a disliked")
        if two
        else ("rated", "score", "the best and the worst")
    )
    words = f"--column {shown[0]}={ours}"
    config = f"columns: {{{shown[0]}: {ours}}}"
    if names[0] in (LABELS if two else SCORES):  # it has the name already
        words, config = f"--format {kind}", f"format: {{name: {kind}}}"
    return (
        f"{where}: {', '.join(shown)} seem to judge the replies, and the detected format would "
        f"imitate all of them. Say which: {words} makes pairs of {what} reply to a prompt; "
        f"{left_out} imitates all (in a config, {config} or columns: {{{each}}})"
    )


def _nearest(columns: Columns, known: Sequence[BaseFormat]) -> str:
    """The format that misses the fewest columns, and the words that would supply them.

    Of two replies, no format is named that would read only one.
    """
    if twins := _twins(columns):
        first, second = twins
        return (
            f"If {first} and {second} are replies to be compared, nearest is compared: --column "
            f"{first}=response_a --column {second}=response_b --column THEIRS=winner, where winner "
            f"is a, b or tie. If one is always the better: --column {first}=chosen --column "
            f"{second}=rejected, or --column {second}=chosen --column {first}=rejected. "
        )
    best = max(known, key=lambda one: _share(columns, one))
    missing = [name for name in best.columns if name not in columns]
    if not missing or _share(columns, best) < 0.5:
        return ""
    found = _close(columns, missing)
    words = " ".join(f"--column {found.get(name, 'THEIRS')}={name}" for name in missing)
    return f"Nearest is {best.name}, which misses {', '.join(missing)}: {words}. "


def _twins(columns: Columns) -> tuple[str, str] | None:
    """Two columns of texts that differ in their last character, in the order of these."""
    texts = sorted(name for name in columns if name and mostly(columns, name, is_turns))
    pairs = pairwise(texts)
    return next(
        ((a, b) for a, b in pairs if a[:-1] and a[:-1] == b[:-1] and len(a) == len(b)), None
    )


def _share(columns: Columns, known: BaseFormat) -> float:
    """The share of a format's columns that are here, those of nearly the same name by half."""
    missing = [name for name in known.columns if name not in columns]
    found = len(known.columns) - len(missing) + len(_close(columns, missing)) / 2
    return found / len(known.columns)


def _close(columns: Columns, wanted: Sequence[str]) -> dict[str, str]:
    """For each wanted column, one here whose name is nearly the same; each is used once."""
    plain = {
        re.sub(r"[-. ]", "_", name.lower()): name
        for name in columns
        if mostly(columns, name, _is_reply)
    }
    found = {}
    for name in wanted:
        for close in get_close_matches(name, plain, n=1, cutoff=0.85):
            found[name] = plain.pop(close)
    return found


def _is_reply(value: object) -> bool:
    """Whether it is one text, message or chat, not a list of several."""
    return is_text(value) or is_message(value) or is_chat(value)


def _listed(columns: Columns) -> str:
    return ", ".join(name[:40] for name in list(columns)[:_SHOWN]) or "(none)"
