"""Formats of Open-Assistant (Köpf et al. 2023): whole trees, or their nodes one a row."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from alignment.data.formats.base import (
    BaseFormat,
    Columns,
    Kind,
    Made,
    RowFormat,
    is_text,
    mostly,
    set_aside,
)
from alignment.data.formats.rows import ROLES, RawRow, Turns, text
from alignment.data.row import Reason, Record, Rejected
from alignment.records import Message

_DEEPEST = 200


class OpenAssistantTrees(RowFormat):
    """A prompt with replies to it, replies to those, and a rank on each reply of an assistant.

    Where two or more replies to one turn are ranked, the best and the worst are a pair: its
    prompt is the path down to them.
    """

    wants: ClassVar[str] = "prompt: {text, role, replies: [...]}"
    gives: ClassVar[Kind] = "pairs"
    name: Literal["open_assistant"] = "open_assistant"
    take: Literal["best_worst", "all_pairs"] = Field(
        default="best_worst",
        description="best_worst: one pair a turn; all_pairs: every two ranked replies",
    )

    def detects(self, columns: Columns) -> str | None:
        """By prompts with replies."""
        return "column prompt holds trees" if mostly(columns, "prompt", _is_tree) else None

    def parse(self, row: RawRow) -> Iterator[Record]:
        """The pairs of one tree.

        Raises:
            Rejected: `no_contrast` when nowhere in it two replies are ranked.
        """
        pairs = list(self._pairs(row))
        if not pairs:
            raise Rejected(Reason.no_contrast, "nowhere in the tree are two replies ranked")
        yield from pairs

    def _pairs(self, row: RawRow) -> Iterator[Record]:
        for path, replies in _branches(row.fields.get("prompt"), ()):
            ranked = sorted(
                (node for node in replies if isinstance(node.get("rank"), int)),
                key=lambda node: int(node["rank"]),
            )
            ends = ((0, len(ranked) - 1),)
            every = [(i, j) for i in range(len(ranked)) for j in range(i + 1, len(ranked))]
            for i, j in every if self.take == "all_pairs" else ends[: len(ranked) > 1]:
                better, other = ranked[i], ranked[j]
                strength = (other["rank"] - better["rank"]) / max(1, len(replies) - 1)
                yield row.pair(
                    path,
                    chosen=(_said(better),),
                    rejected=(_said(other),),
                    strength=min(1.0, strength),
                )


class OpenAssistantNodes(BaseFormat):
    """Messages one a row, each naming the one before it; every path to a last reply is a chat."""

    wants: ClassVar[str] = "text, role, parent_message_id, and user_message_id or message_id"
    gives: ClassVar[Kind] = "conversations"
    note: ClassVar[str] = "a chat stands at the row of its last turn; the others are merged into it"
    name: Literal["open_assistant_nodes"] = "open_assistant_nodes"

    def detects(self, columns: Columns) -> str | None:
        """By texts that name a parent."""
        found = "parent_message_id" in columns and mostly(columns, "text", is_text)
        return "columns text, role, parent_message_id" if found else None

    def records(self, rows: Iterable[RawRow]) -> Iterator[Made]:
        """The chats. The whole table is held in memory: a parent may stand anywhere."""
        nodes: dict[str, RawRow] = {}
        parents: set[str] = set()
        for row in rows:
            name = _id(row)
            if name in nodes:
                yield set_aside(row, Reason.duplicate, f"message {name[:40]} was there before")
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
        if str(parent) not in nodes or len(path) > _DEEPEST:
            raise Rejected(Reason.malformed, f"message {str(parent)[:40]} before it is missing")
        path.append(nodes[str(parent)])
    return tuple(_said(node.fields) for node in reversed(path))


def _branches(tree: object, before: Turns) -> Iterator[tuple[Turns, list[dict[str, Any]]]]:
    """(path, replies) of every turn of a user, from the top down."""
    waiting: list[tuple[Any, Turns]] = [(tree, before)]
    while waiting:
        node, path = waiting.pop(0)
        path = (*path, _said(node))
        replies = node.get("replies") or []
        if not isinstance(replies, list) or len(path) > _DEEPEST:
            raise Rejected(Reason.malformed, "replies of a tree are no list, or too deep")
        if path[-1].role == "user" and all(isinstance(reply, dict) for reply in replies):
            yield path, replies
        waiting += [(reply, path) for reply in replies]


def _said(node: object) -> Message:
    fields: dict[str, Any] = node if isinstance(node, dict) else defaultdict(lambda: None)
    role = ROLES.get(str(fields.get("role")))
    if role is None:
        raise Rejected(Reason.malformed, "a message of a tree has no known role")
    return Message(role=role, content=text(fields.get("text"), where="text of a tree's message"))
