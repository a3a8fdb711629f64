"""Formats of Open-Assistant (Köpf et al. 2023): whole trees, or one node per row."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from alignment.data.formats.base import (
    BaseFormat,
    Columns,
    Kind,
    Parsed,
    RowFormat,
    is_text,
    mostly,
    set_aside,
)
from alignment.data.formats.rows import ROLES, RawRow, Turns, text
from alignment.data.row import Reason, Record, Rejected
from alignment.records import Message

_MAX_DEPTH = 200
"""Turns of the longest path that is followed; also ends cycles of parents."""


class OpenAssistantTrees(RowFormat):
    """A prompt, the replies to it, the replies to those, and so on; assistant replies are ranked.

    Wherever two or more replies to one turn are ranked, the best and the worst make a pair. Its
    prompt is the path down to that turn.
    """

    expects: ClassVar[str] = "prompt: {text, role, replies: [...]}"
    gives: ClassVar[Kind] = "pairs"
    name: Literal["open_assistant"] = "open_assistant"
    take: Literal["best_worst", "all_pairs"] = Field(
        default="best_worst",
        description="`best_worst`: one pair per turn. `all_pairs`: every two ranked replies.",
    )

    def detects(self, columns: Columns) -> str | None:
        """By prompts that contain replies."""
        return "column prompt holds trees" if mostly(columns, "prompt", _is_tree) else None

    def parse(self, row: RawRow) -> Iterator[Record]:
        """The pairs of one tree.

        Raises:
            Rejected: `no_contrast` if no turn has two ranked replies.
        """
        pairs = list(self._pairs(row))
        if not pairs:
            raise Rejected(Reason.no_contrast, "no turn of the tree has two ranked replies")
        yield from pairs

    def _pairs(self, row: RawRow) -> Iterator[Record]:
        for path, replies in _branches(row.fields.get("prompt"), ()):
            ranked = sorted(
                (node for node in replies if isinstance(node.get("rank"), int)),
                key=lambda node: int(node["rank"]),
            )
            ends = ((0, len(ranked) - 1),)
            all_pairs = [(i, j) for i in range(len(ranked)) for j in range(i + 1, len(ranked))]
            for i, j in all_pairs if self.take == "all_pairs" else ends[: len(ranked) > 1]:
                better, other = ranked[i], ranked[j]
                strength = (other["rank"] - better["rank"]) / max(1, len(replies) - 1)
                yield row.pair(
                    path,
                    chosen=(_message_of(better),),
                    rejected=(_message_of(other),),
                    strength=min(1.0, strength),
                )


class OpenAssistantNodes(BaseFormat):
    """One message per row, with its parent's id; each path from root to leaf is a chat."""

    expects: ClassVar[str] = "text, role, parent_message_id, and user_message_id or message_id"
    gives: ClassVar[Kind] = "conversations"
    note: ClassVar[str] = "a chat is listed at the row of its last turn; its other rows are merged"
    name: Literal["open_assistant_nodes"] = "open_assistant_nodes"

    def detects(self, columns: Columns) -> str | None:
        """By texts with a parent id."""
        found = "parent_message_id" in columns and mostly(columns, "text", is_text)
        return "columns text, role, parent_message_id" if found else None

    def records(self, rows: Iterable[RawRow]) -> Iterator[Parsed]:
        """The chats. The whole table is held in memory, since a parent may be in any row."""
        nodes: dict[str, RawRow] = {}
        parents: set[str] = set()
        for row in rows:
            name = _id(row)
            if name in nodes:
                yield set_aside(
                    row, Reason.duplicate, f"message {name[:40]} is also in an earlier row"
                )
                continue
            nodes[name] = row
            parents.add(str(row.fields.get("parent_message_id")))
        for name, row in nodes.items():
            if name in parents:
                yield set_aside(row, Reason.merged, "a turn of a longer chat")
                continue
            try:
                yield row, row.conversation(_path_to(row, nodes))
            except Rejected as rejected:
                yield set_aside(row, rejected.reason, rejected.detail)


def _is_tree(value: object) -> bool:
    return isinstance(value, dict) and "replies" in value


def _id(row: RawRow) -> str:
    found = row.fields.get("user_message_id") or row.fields.get("message_id")
    return str(found or f"row {row.row}")


def _path_to(row: RawRow, nodes: Mapping[str, RawRow]) -> Turns:
    path = [row]
    while parent := path[-1].fields.get("parent_message_id"):
        if str(parent) not in nodes or len(path) > _MAX_DEPTH:
            raise Rejected(Reason.malformed, f"its parent, message {str(parent)[:40]}, is missing")
        path.append(nodes[str(parent)])
    return tuple(_message_of(node.fields) for node in reversed(path))


def _branches(tree: object, before: Turns) -> Iterator[tuple[Turns, list[dict[str, Any]]]]:
    """(path, replies) of every user turn, breadth first."""
    waiting: list[tuple[Any, Turns]] = [(tree, before)]
    while waiting:
        node, path = waiting.pop(0)
        path = (*path, _message_of(node))
        replies = node.get("replies") or []
        if not isinstance(replies, list) or len(path) > _MAX_DEPTH:
            raise Rejected(
                Reason.malformed, "the replies in a tree are not a list, or nested too deeply"
            )
        if path[-1].role == "user" and all(isinstance(reply, dict) for reply in replies):
            yield path, replies
        waiting += [(reply, path) for reply in replies]


def _message_of(node: object) -> Message:
    fields: dict[str, Any] = node if isinstance(node, dict) else defaultdict(lambda: None)
    role = ROLES.get(str(fields.get("role")))
    if role is None:
        raise Rejected(Reason.malformed, "a message of a tree has no known role")
    return Message(role=role, content=text(fields.get("text"), where="text of a tree's message"))
