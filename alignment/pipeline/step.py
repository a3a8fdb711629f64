"""What a stage is as a value: its fields, its key, what it is given and what it leaves.

A step names its parents by key, so it is small JSON that can travel to another process, and its
own key follows from its fields alone: `plan` knows every key before anything has run.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple

from alignment.data.formats import chosen_conversation
from alignment.records import (
    Conversation,
    DataRef,
    Frozen,
    Json,
    ModelRef,
    PreferencePair,
    Quantisation,
    digest_of,
)
from alignment.store.jsonl import read_rows
from alignment.store.progress import Progress
from alignment.store.store import Store, Workspace

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Key = Annotated[str, "key"]
"""The key of a parent step. A field of this type is listed in `Step.parent_fields`."""


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


@dataclass(frozen=True)
class Outcome:
    """What a step leaves: an output of the kind it produces, metrics, and notes for people."""

    output: Frozen
    metrics: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Parent(NamedTuple):
    """One parent of a step.

    Attributes:
        field: the field of the step that names it.
        role: its name in the manifest: the field; "data 1", "data 2" for several; for sets that
            the step knows by name, that name.
        key: of its artifact.
    """

    field: str
    role: str
    key: str


class Step(Frozen, ABC):
    """One stage with everything that decides its result.

    Attributes:
        stage: the kind of step; the key begins with it.
        name: how people call it: "sft", "dpo-2", "evaluate-round-1".
        seed: of whatever is random in it.
        version: raised when the same settings give another result.
        title: what the step does, as a scheduler and a progress bar call it.
        produces: the kind of record that the step leaves for others.
        parent_fields: the fields that hold keys of other steps.
        headline: the metrics that are shown where there is room for two or three.
        in_child: whether it runs in a process of its own, whose memory is returned.
        needs_gpu: whether it takes the GPU, which one process at a time may.
        nominal_seconds: on the practice run on two cores; a forecast uses only their ratio.
        notes_matter: whether a report begins with the step's notes.
    """

    stage: str
    name: str
    seed: int = 0
    version: ClassVar[int] = 1
    title: ClassVar[str]
    produces: ClassVar[type[Frozen]]
    parent_fields: ClassVar[tuple[str, ...]] = ()
    headline: ClassVar[tuple[str, ...]] = ()
    in_child: ClassVar[bool] = True
    needs_gpu: ClassVar[bool] = False
    nominal_seconds: ClassVar[float]
    notes_matter: ClassVar[bool] = False

    @property
    def key(self) -> str:
        """The name of this step's artifact: stage, and a digest of all that decides it."""
        content = [self.stage, self.version, self.model_dump(mode="json")]
        return f"{self.stage}-{digest_of(content)[:24]}"

    @property
    def parents(self) -> tuple[Parent, ...]:
        """Every step that must be built before this one."""
        return tuple(
            parent
            for field in self.parent_fields
            for parent in _parents(field, getattr(self, field))
        )

    @property
    def roles(self) -> dict[str, str]:
        """Role to key of every parent, as the manifest has them."""
        return {parent.role: parent.key for parent in self.parents}

    @property
    def settings(self) -> Json:
        """The step's own configuration, without its parents."""
        return self.model_dump(mode="json", exclude={"stage", "name", "seed", *self.parent_fields})

    def library_arguments(self, quantisation: Quantisation | None) -> dict[str, dict[str, Any]]:
        """The step's values under the argument names of the libraries that it calls."""
        del quantisation  # of the base model; most steps call no library with it
        return {}

    @abstractmethod
    def build(self, context: Context) -> Outcome:
        """Build the artifact's files in the workspace and say what came out."""


def _parents(field: str, value: str | Sequence[str] | Mapping[str, str] | None) -> Iterator[Parent]:
    if isinstance(value, str):
        yield Parent(field, field, value)
    elif isinstance(value, Mapping):
        yield from (Parent(field, name, key) for name, key in value.items())
    elif value is not None:
        yield from (Parent(field, f"{field} {i}", key) for i, key in enumerate(value, start=1))


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
            found += map(chosen_conversation, rows_of(store, [ref], role, PreferencePair))
    return found
