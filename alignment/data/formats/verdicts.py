"""What words and numbers say about replies: which of two is better, or that one is liked.

A value is understood by its meaning, whatever the file kind made of it: true, "true", 1, 1.0 and
"1" are the same. Not here: which column holds it, and what 0 means beside 1 (`judged.py`).
"""

import re
from collections.abc import Iterable

FIRST, SECOND, TIE = 1, 2, 0

VERDICTS: dict[str, tuple[int, float]] = {
    "1": (FIRST, 1.0),
    "2": (SECOND, 1.0),
    "0": (TIE, 0.0),
    "a": (FIRST, 1.0),
    "b": (SECOND, 1.0),
    "[[a]]": (FIRST, 1.0),
    "[[b]]": (SECOND, 1.0),
    "[[c]]": (TIE, 0.0),
    "left": (FIRST, 1.0),
    "right": (SECOND, 1.0),
    "first": (FIRST, 1.0),
    "second": (SECOND, 1.0),
    "model_a": (FIRST, 1.0),
    "model_b": (SECOND, 1.0),
    "model_1": (FIRST, 1.0),
    "model_2": (SECOND, 1.0),
    "a-is-better": (FIRST, 1.0),
    "b-is-better": (SECOND, 1.0),
    "a-is-slightly-better": (FIRST, 0.5),
    "b-is-slightly-better": (SECOND, 0.5),
    "a>b": (FIRST, 1.0),
    "b>a": (SECOND, 1.0),
    "a>>b": (FIRST, 1.0),
    "b>>a": (SECOND, 1.0),
    "a=b": (TIE, 0.0),
    "tie": (TIE, 0.0),
    "tie (bothbad)": (TIE, 0.0),
    "both_bad": (TIE, 0.0),
}
"""Verdicts in common use: the better reply, and the strength of the preference."""

LABELS = ("label", "labels", "kto_tag", "kto_label", "liked", "thumbs", "thumbs_up", "is_liked")
"""Columns that say of one reply whether it is liked."""
SCORES = ("score", "rating", "reward", "overall_score")
"""Columns with the score of one reply: the higher, the better."""
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")
_LIKED = {
    *("1", "+1", "true", "yes", "good", "up", "like", "liked"),
    *("thumbs_up", "thumbsup", "chosen", "desirable", "\N{THUMBS UP SIGN}"),
}
_DISLIKED = {
    *("0", "-1", "false", "no", "bad", "down", "dislike", "disliked"),
    *("thumbs_down", "thumbsdown", "rejected", "undesirable", "\N{THUMBS DOWN SIGN}"),
}


def word(value: object) -> str:
    """A verdict in lower case; a whole number, however it is written, without its decimals."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    found = str(value).strip().lower()
    return found[:-2] if found.endswith(".0") and found[:-2].lstrip("-").isdigit() else found


def scale(words: Iterable[str], allowed: Iterable[str]) -> list[str]:
    """The numbers among some verdicts, if they are a scale: if there are others than allowed."""
    numbers = sorted({one for one in words if _NUMBER.fullmatch(one)}, key=float)
    return numbers if {*numbers} - {*allowed} else []


def thumb(value: object) -> bool | None:
    """Whether a label likes its reply; None if it says neither."""
    found = word(value)
    return True if found in _LIKED else False if found in _DISLIKED else None


def is_thumb(value: object) -> bool:
    """Whether a value is a label that likes a reply, or does not."""
    return thumb(value) is not None
