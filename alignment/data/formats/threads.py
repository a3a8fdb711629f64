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
    is_number,
    is_text,
    mostly,
    number,
    set_aside,
)
from alignment.data.formats.messages import ROLES, Turns, is_blank, text
from alignment.data.formats.rows import RawRow
from alignment.data.row import Reason, Record, Rejected, turns
from alignment.records.text import Message

_MAX_DEPTH = 200
"""Turns of the longest path that is followed; also ends cycles of parents."""


class OpenAssistantTrees(RowFormat):
    """A prompt, the replies to it, the replies to those, and so on; assistant replies are ranked.

    Wherever two or more replies to one turn are ranked, the best and the worst make a pair. Its
    prompt is the path down to that turn.
    """

    expects: ClassVar[str] = "prompt: {text, role, replies: [...]}"
    reads: ClassVar[str] = "wherever two replies to one turn are ranked, the best and the worst"
    columns: ClassVar[tuple[str, ...]] = ("prompt", "replies", "rank")
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
        used = {message.content for pair in pairs for message in turns(pair)}
        if any(path[-1].content not in used for path, _ in _nodes(row.get("prompt"), row)):
            row.left.add("prompt[]")
        yield from pairs

    def _pairs(self, row: RawRow) -> Iterator[Record]:
        for path, replies in _branches(row.get("prompt"), row):
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

    expects: ClassVar[str] = (
        "text, role, parent_message_id or parent_id, and user_message_id or message_id"
    )
    reads: ClassVar[str] = "each path from the first turn to a last one"
    columns: ClassVar[tuple[str, ...]] = ("text", "role", "parent_message_id")
    gives: ClassVar[Kind] = "conversations"
    note: ClassVar[str] = "a chat is listed at the row of its last turn; its other rows are merged"
    name: Literal["open_assistant_nodes"] = "open_assistant_nodes"

    def detects(self, columns: Columns) -> str | None:
        """By texts with a parent id, if no replies are ranked."""
        parent = _parent_column(columns)
        found = parent and not mostly(columns, "rank", is_number)
        return f"columns text, role, {parent}" if found else None

    def records(self, rows: Iterable[RawRow]) -> Iterator[Parsed]:
        """The chats. The whole table is held in memory, since a parent may be in any row."""
        nodes: dict[str, RawRow] = {}
        yield from _collect(rows, nodes)
        parents = {_parent(row) for row in nodes.values()}
        for name, row in nodes.items():
            if name in parents:
                yield set_aside(row, Reason.merged, "a turn of a longer chat")
                continue
            try:
                yield row, row.conversation(_path_to(row, nodes))
            except Rejected as rejected:
                yield set_aside(row, rejected.reason, rejected.detail)


class OpenAssistantRankedNodes(BaseFormat):
    """One message per row, with its parent's id, where replies to one turn are ranked.

    The best and the worst ranked reply to a turn make a pair, listed at the row of the best.
    """

    expects: ClassVar[str] = (
        "text, role, rank, parent_id or parent_message_id, and message_id or user_message_id"
    )
    reads: ClassVar[str] = "wherever two replies to one turn are ranked, the best and the worst"
    columns: ClassVar[tuple[str, ...]] = ("text", "role", "rank", "parent_id")
    gives: ClassVar[Kind] = "pairs"
    note: ClassVar[str] = "a pair is listed at the row of its better reply; other rows are merged"
    name: Literal["open_assistant_ranked_nodes"] = "open_assistant_ranked_nodes"

    def detects(self, columns: Columns) -> str | None:
        """By texts with a parent id, of which some are ranked."""
        parent = _parent_column(columns)
        found = parent and columns.get("rank") and mostly(columns, "rank", is_number)
        return f"columns text, role, rank, {parent}" if found else None

    def records(self, rows: Iterable[RawRow]) -> Iterator[Parsed]:
        """The pairs. The whole table is held in memory, since a parent may be in any row."""
        nodes: dict[str, RawRow] = {}
        yield from _collect(rows, nodes)
        ranked: dict[str, list[RawRow]] = defaultdict(list)
        for row in nodes.values():
            if _parent(row) and is_number(row.get("rank")):
                ranked[_parent(row)].append(row)
        pairs: dict[int, tuple[RawRow, int]] = {}
        for replies in ranked.values():
            replies.sort(key=_rank)
            if _rank(replies[0]) < _rank(replies[-1]):
                pairs[id(replies[0])] = (replies[-1], len(replies))
        for row in nodes.values():
            if id(row) in pairs:
                yield self._pair(row, *pairs[id(row)], nodes)
            else:
                yield set_aside(row, Reason.merged, "a turn before a pair, or an unused reply")

    def _pair(self, best: RawRow, worst: RawRow, count: int, nodes: Mapping[str, RawRow]) -> Parsed:
        try:
            *path, chosen = _path_to(best, nodes)
            strength = (_rank(worst) - _rank(best)) / max(1, count - 1)
            return best, best.pair(
                tuple(path),
                chosen=(chosen,),
                rejected=(_node_message(worst),),
                strength=min(1.0, strength),
            )
        except Rejected as rejected:
            return set_aside(best, rejected.reason, rejected.detail)


_PARENTS = ("parent_message_id", "parent_id")


def _collect(rows: Iterable[RawRow], nodes: dict[str, RawRow]) -> Iterator[Parsed]:
    """Fill `nodes` by message id; yields deleted rows, and those whose id an earlier row has."""
    for row in rows:
        name = _id(row)
        if row.get("deleted") is True:
            yield set_aside(row, Reason.untrained, "the message is marked as deleted")
        elif name in nodes:
            yield set_aside(row, Reason.duplicate, f"message {name[:40]} is also in an earlier row")
        else:
            nodes[name] = row


def _parent_column(columns: Columns) -> str:
    """The column of the parent's id, if the rows are messages."""
    texts = mostly(columns, "text", is_text) and mostly(columns, "role", is_text)
    return next((name for name in _PARENTS if name in columns), "") if texts else ""


def _parent(row: RawRow) -> str:
    found = next((value for name in _PARENTS if (value := row.get(name))), None)
    return "" if found is None else str(found)


def _rank(row: RawRow) -> float:
    return number(row.get("rank"), what="rank")


def _is_tree(value: object) -> bool:
    return isinstance(value, dict) and "replies" in value


def _id(row: RawRow) -> str:
    found = row.get("user_message_id") or row.get("message_id")
    return str(found or f"row {row.row}")


def _path_to(row: RawRow, nodes: Mapping[str, RawRow]) -> Turns:
    path = [row]
    while parent := _parent(path[-1]):
        if parent not in nodes or len(path) > _MAX_DEPTH:
            raise Rejected(Reason.malformed, f"its parent, message {parent[:40]}, is missing")
        path.append(nodes[parent])
    return tuple(_node_message(node) for node in reversed(path))


def _node_message(row: RawRow) -> Message:
    return _message_of({name: row.get(name) for name in ("role", "text")})


def _branches(tree: object, row: RawRow) -> Iterator[tuple[Turns, list[dict[str, Any]]]]:
    """(path, replies) of every user turn, breadth first."""
    for path, replies in _nodes(tree, row):
        if path[-1].role == "user" and all(isinstance(reply, dict) for reply in replies):
            yield path, replies


def _nodes(tree: object, row: RawRow) -> Iterator[tuple[Turns, list[Any]]]:
    """(path, replies) of every turn, breadth first; notes the fields that are not read."""
    waiting: list[tuple[Any, Turns]] = [(tree, ())]
    while waiting:
        node, path = waiting.pop(0)
        path = (*path, _message_of(node))
        row.left.update(
            f"prompt[].{key}"
            for key, value in node.items()
            if key not in _NODE_FIELDS and not is_blank(value)
        )
        replies = node.get("replies") or []
        if not isinstance(replies, list) or len(path) > _MAX_DEPTH:
            raise Rejected(
                Reason.malformed, "the replies in a tree are not a list, or nested too deeply"
            )
        replies = [reply for reply in replies if not _is_deleted(reply)]
        yield path, replies
        waiting += [(reply, path) for reply in replies]


_NODE_FIELDS = ("text", "role", "replies", "rank", "deleted")


def _is_deleted(node: object) -> bool:
    return isinstance(node, dict) and node.get("deleted") is True


def _message_of(node: object) -> Message:
    fields: dict[str, Any] = node if isinstance(node, dict) else defaultdict(lambda: None)
    role = ROLES.get(str(fields.get("role")))
    if role is None:
        raise Rejected(Reason.malformed, "a message of a tree has no known role")
    return Message(role=role, content=text(fields.get("text"), where="text of a tree's message"))
