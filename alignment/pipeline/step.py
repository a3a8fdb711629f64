"""A stage as a value: its settings, its key, its inputs and its outcome.

A step names its parents by key, so it is small JSON that can be sent to another process. Its own
key follows from its fields alone: `plan` knows every key before anything runs.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple

from alignment.data.formats import chosen_conversation
from alignment.records.base import Frozen, Json, digest_of
from alignment.records.refs import DataRef, ModelRef, Quantisation
from alignment.records.text import Conversation, PreferencePair
from alignment.store.jsonl import read_rows
from alignment.store.progress import Progress
from alignment.store.store import Store
from alignment.store.workspace import Workspace

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Key = Annotated[str, "key"]
"""The key of a parent step. A field of this type is listed in `Step.parent_fields`."""


@dataclass(frozen=True)
class Context:
    """What a step needs to build its artifact.

    Attributes:
        tokenizer: the base model's tokenizer, for data steps that run before its weights are
            fetched (the doctor); None: use the tokenizer of the `base` artifact.
    """

    store: Store
    workspace: Workspace
    progress: Progress
    tokenizer: "PreTrainedTokenizerBase | None" = None


@dataclass(frozen=True)
class Outcome:
    """The result of a step: the output for later steps, and metrics and notes for people."""

    output: Frozen
    metrics: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Parent(NamedTuple):
    """One parent of a step.

    Attributes:
        field: the field of the step that names it.
        role: its name in the manifest: the field name; "data 1", "data 2" for several keys; for a
            mapping of sets, the name of the set.
        key: the key of its artifact.
    """

    field: str
    role: str
    key: str


class Step(Frozen, ABC):
    """One stage, with everything that decides its result.

    Attributes:
        stage: the kind of step; keys begin with it.
        name: the readable name: "sft", "dpo-2", "evaluate-round-1".
        seed: random seed of the step.
        version: incremented when the code changes the result for the same settings.
        title: what the step does, as shown by the scheduler.
        produces: type of the record in `StageRecord.output`.
        parent_fields: the fields that hold keys of other steps.
        headline: the two or three metrics to show when space is short.
        in_child: whether it runs in its own process, so that its memory is freed at the end.
        needs_gpu: whether it uses the GPU, which only one process may use at a time.
        shares: whether several devices can share out its rows.
        nominal_seconds: duration in the practice run on two cores; forecasts only use the ratios.
        notes_matter: whether the report shows the step's notes at the top.
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
    shares: ClassVar[bool] = False
    nominal_seconds: ClassVar[float]
    notes_matter: ClassVar[bool] = False

    @property
    def key(self) -> str:
        """The address of the artifact: the stage and a digest of everything that decides it."""
        content = [self.stage, self.version, self.model_dump(mode="json")]
        return f"{self.stage}-{digest_of(content)[:24]}"

    @property
    def parents(self) -> tuple[Parent, ...]:
        """All steps that must be built before this one."""
        return tuple(
            parent
            for field in self.parent_fields
            for parent in _parents(field, getattr(self, field))
        )

    @property
    def roles(self) -> dict[str, str]:
        """Key of every parent by role, as written to the manifest."""
        return {parent.role: parent.key for parent in self.parents}

    @property
    def foreseen(self) -> tuple[str, ...]:
        """What a reader of the plan must know and cannot see from the settings, as sentences."""
        return ()

    @property
    def settings(self) -> Json:
        """The step's own configuration, without its parents."""
        return self.model_dump(mode="json", exclude={"stage", "name", "seed", *self.parent_fields})

    def library_arguments(self, quantisation: Quantisation | None) -> dict[str, dict[str, Any]]:
        """The step's values under the argument names of the libraries that it calls.

        Args:
            quantisation: that of the base model.
        """
        del quantisation  # only training steps and the base need it
        return {}

    @abstractmethod
    def build(self, context: Context) -> Outcome:
        """Write the artifact's files into the workspace and return the outcome."""


def _parents(field: str, value: str | Sequence[str] | Mapping[str, str] | None) -> Iterator[Parent]:
    if isinstance(value, str):
        yield Parent(field, field, value)
    elif isinstance(value, Mapping):
        yield from (Parent(field, name, key) for name, key in value.items())
    elif value is not None:
        yield from (Parent(field, f"{field} {i}", key) for i, key in enumerate(value, start=1))


# --- reading the output of parents --------------------------------------------------------------


def model_of(store: Store, key: str) -> ModelRef:
    """The model that a step produced; its files are verified first."""
    return ModelRef.model_validate(store.open(key).output)


def data_of(store: Store, key: str) -> DataRef:
    """The data set that a step prepared; its files are verified first."""
    return DataRef.model_validate(store.open(key).output)


def rows_of(store: Store, sets: Iterable[DataRef], role: str, kind: type[Any]) -> Iterable[Any]:
    """The rows with one role (train, held_out, prompts) in several sets, set by set."""
    for ref in sets:
        uri = getattr(ref, role)
        if uri is not None:
            yield from read_rows(store.path(uri), kind)


def conversations_of(store: Store, sets: Iterable[DataRef], role: str) -> list[Conversation]:
    """Like `rows_of`, as conversations; a pair becomes its prompt with the chosen reply."""
    found: list[Conversation] = []
    for ref in sets:
        if ref.kind == "conversations":
            found += rows_of(store, [ref], role, Conversation)
        else:
            found += map(chosen_conversation, rows_of(store, [ref], role, PreferencePair))
    return found
