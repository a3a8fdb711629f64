"""What a stage is as a value: its fields, its key, what it is given and what it leaves.

A step names its parents by key, so it is small JSON that can travel to another process, and its
own key follows from its fields alone: `plan` knows every key before anything has run.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, get_args

from pydantic import Field

from alignment.records import (
    Conversation,
    DataRef,
    Frozen,
    Json,
    ModelRef,
    PreferencePair,
    digest_of,
)
from alignment.store.jsonl import read_rows
from alignment.store.progress import Progress
from alignment.store.store import Store, Workspace

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Key = Annotated[str, "key"]
"""The key of a parent step."""


@dataclass(frozen=True)
class Context:
    """What a step is given to build itself.

    Attributes:
        tokenizer: the base model's, for a data step that is built before the model's weights are
            there; None: the one of the `base` artifact.
    """

    store: Store
    workspace: Workspace
    progress: Progress
    tokenizer: "PreTrainedTokenizerBase | None" = None


class Outcome(Frozen):
    """What a step leaves for the steps after it, and for people."""

    output: Json
    metrics: dict[str, float] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Step(Frozen, ABC):
    """One stage with everything that decides its result.

    Attributes:
        stage: the kind of step; the key begins with it.
        name: how people call it: "sft", "dpo-2", "evaluate round 1".
        seed: of whatever is random in it.
    """

    stage: str
    name: str
    seed: int = 0
    version: ClassVar[int] = 1
    in_child: ClassVar[bool] = True

    @property
    def key(self) -> str:
        """The name of this step's artifact: stage, and a digest of all that decides it."""
        content = [self.stage, self.version, self.model_dump(mode="json")]
        return f"{self.stage}-{digest_of(content)[:24]}"

    @property
    def parents(self) -> dict[str, str]:
        """Role to key of every parent."""
        found: dict[str, str] = {}
        for role, field in type(self).model_fields.items():
            if "key" not in (*field.metadata, *_nested_metadata(field.annotation)):
                continue
            value = getattr(self, role)
            if isinstance(value, str):
                found[role] = value
            elif isinstance(value, dict):
                found.update(value)
            elif value is not None:
                found.update({f"{role} {i}": key for i, key in enumerate(value, start=1)})
        return found

    @property
    def settings(self) -> Json:
        """The step's own configuration, without its parents."""
        skip = {"stage", "name", "seed", *self.parents}
        dumped = self.model_dump(mode="json")
        return {k: v for k, v in dumped.items() if k not in skip}

    @abstractmethod
    def build(self, context: Context) -> Outcome:
        """Build the artifact's files in the workspace and say what came out."""


# --- what steps read of their parents -----------------------------------------------------------


def model_of(store: Store, key: str) -> ModelRef:
    """The model that a step made, after its files were verified."""
    return ModelRef.model_validate(store.open(key).output)


def data_of(store: Store, key: str) -> DataRef:
    """The set that a step prepared, after its files were verified."""
    return DataRef.model_validate(store.open(key).output)


def rows_of(store: Store, sets: Iterable[DataRef], role: str, kind: type[Any]) -> Iterable[Any]:
    """The rows of one role (train, held_out, prompts) of several sets, one after the other."""
    for ref in sets:
        uri = getattr(ref, role)
        if uri is not None:
            yield from read_rows(store.path(uri), kind)


def conversations_of(store: Store, sets: Iterable[DataRef], role: str) -> list[Conversation]:
    """The same as chats to imitate; of a pair, its prompt with the chosen reply."""
    found: list[Conversation] = []
    for ref in sets:
        if ref.kind == "conversations":
            found += rows_of(store, [ref], role, Conversation)
        else:
            found += [
                Conversation.of(
                    (*pair.prompt, *pair.chosen), task_type=pair.task_type, source=pair.source
                )
                for pair in rows_of(store, [ref], role, PreferencePair)
            ]
    return found


def as_json(value: Frozen) -> Json:
    """A record as plain JSON."""
    dumped: Json = json.loads(value.model_dump_json())
    return dumped


def _nested_metadata(annotation: Any) -> set[object]:
    """Marks like "key" anywhere inside an annotation: `Key | None`, `tuple[Key, ...]`."""
    found = set(getattr(annotation, "__metadata__", ()))
    for part in get_args(annotation):
        found |= {mark for mark in _nested_metadata(part) if isinstance(mark, str)}
    return {mark for mark in found if isinstance(mark, str)}
