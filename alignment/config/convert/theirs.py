"""A configuration of another trainer, read key by key, so that none is overlooked.

Whoever converts takes each key that it understands. What nobody took is named at the end.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from alignment.errors import UsageError

Values = dict[str, Any]
"""Our values by dotted key."""


class Theirs:
    """The keys of one file, what became of them, and what is to be said about them."""

    def __init__(self, keys: Mapping[str, Any], *, tool: str) -> None:
        self.tool = tool
        self.notes: list[str] = []
        self._left = {key: value for key, value in keys.items() if value is not None}

    def take(self, key: str, default: Any = None) -> Any:
        """The value of a key, which then counts as understood."""
        return self._left.pop(key, default)

    def flag(self, key: str, *, default: bool = False) -> bool:
        """Whether a switch is on."""
        return bool(self.take(key, default))

    def has(self, *keys: str) -> bool:
        """Whether the file has one of these keys, not yet taken."""
        return any(key in self._left for key in keys)

    def note(self, key: str, value: Any, why: str) -> None:
        """Name a key that has no equal, or not quite, with the reason."""
        self.notes.append(f"{key}: {_shown(value)}: {why}")

    def say(self, key: str, why: str) -> None:
        """Take a key, and name it where the file has it."""
        if self.has(key):
            self.note(key, self.take(key), why)

    def refuse(self, key: str, why: str, *, unless: tuple[Any, ...] = (False, "", "none")) -> None:
        """Take a key that nothing here could honour.

        Raises:
            UsageError: it is there, and says more than that it is off.
        """
        value = self.take(key, "")
        if value not in unless:
            raise UsageError(f"{self.tool}'s {key}: {_shown(value)} cannot be converted: {why}")

    def refuse_changes(self, keys: Iterable[str]) -> None:
        """Take keys that change what is trained.

        Raises:
            UsageError: one of them is there, and not off.
        """
        for key in keys:
            self.refuse(key, "it would train another model", unless=(False, 0, "", []))

    def name_the_rest(self) -> None:
        """Name every key that nobody took."""
        for key, value in sorted(self._left.items()):
            self.note(key, value, "no equal here")
        self._left = {}


def _shown(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
