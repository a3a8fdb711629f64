"""Texts of models, data and users as a page shows them: clipped, folded, representable in HTML."""

import re
import unicodedata

LONGEST = 1500
_BREAKS = re.compile(r"\n(?:[ \t]*\n){2,}")


def clip(text: str, longest: int = LONGEST) -> str:
    """The text, or its beginning and the number of characters left out."""
    if len(text) <= longest:
        return text
    return f"{text[:longest]}… (+{len(text) - longest:,} characters)"


def folded(text: str) -> str:
    """The text with three or more line breaks in a row written as their number."""
    if not text.strip():
        breaks = text.count("\n")
        return f"(nothing but {breaks} line breaks)" if breaks > 1 else "(empty)"
    return _BREAKS.sub(lambda found: f"\n(⏎ {found[0].count(chr(10))} times)\n", text)


def readable(value: object) -> object:
    """Replaces characters that HTML or UTF-8 cannot represent by '�'; only in strings."""
    if not isinstance(value, str) or value.isprintable() or hasattr(value, "__html__"):
        return value
    return "".join(
        "�" if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t" else c for c in value
    )
