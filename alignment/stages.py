"""The stages of the chain as values: what each takes, and how it is built from that.

A step names its parents by key, so it is small JSON that can travel to another process, and its
own key follows from its fields alone: `plan` knows every key before anything has run. A step's
`build` opens its parents, calls one pure function and returns what the next steps take.
Not here: the order of the steps (`chain.py`), processes and locks (`launch.py`).
"""

import contextlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field, TypeAdapter

from alignment.data.prepare import (
    ConversationSetConfig,
    Lengths,
    PairSetConfig,
    prepare_conversations,
    prepare_pairs,
)
from alignment.data.sieve import Prepared, read_rows
from alignment.data.split import PromptKeys
from alignment.data.verifiers import VerifiablePrompt
from alignment.errors import DataError
from alignment.evaluate.suite import (
    DISTRIBUTIONS,
    PAIRS,
    EvaluationConfig,
    Yardstick,
    evaluate,
    questions,
)
from alignment.models.merge import Merge
from alignment.models.sources import ModelSource
from alignment.progress import Progress
from alignment.records import (
    AdapterRef,
    Conversation,
    DataRef,
    Frozen,
    Json,
    ModelRef,
    PairScore,
    PreferencePair,
    Quantisation,
    digest_of,
)
from alignment.store import Store, Workspace
from alignment.train.dpo import DpoConfig, train_dpo
from alignment.train.sft import SftConfig, TrainingSummary, train_sft

Key = Annotated[str, "key"]
"""The key of a parent step."""


@dataclass(frozen=True)
class Context:
    """What a step is given to build itself."""

    store: Store
    workspace: Workspace
    progress: Progress


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


class OpenBase(Step):
    """Make a base model available and describe it. A hub model stays in the hub's cache."""

    stage: Literal["base"] = "base"
    source: ModelSource
    quantisation: Quantisation | None
    digest: str

    def build(self, context: Context) -> Outcome:
        """Fetch, convert if need be, check, describe."""
        from alignment.models.sources import describe

        context.progress.update("fetching", 0, 1)
        folder, uri, revision = self.source.fetch(context.workspace.out)
        base, tokenizer = describe(folder, uri, revision)
        if uri.startswith("out:"):
            inside = f"store:{self.key}/{uri[4:]}"
            base = base.model_copy(update={"uri": inside})
            tokenizer = tokenizer.model_copy(update={"uri": inside})
        ref = ModelRef(base=base, tokenizer=tokenizer, quantisation=self.quantisation)
        return Outcome(output=_json(ref), notes=(f"base model {uri} {revision or ''}".strip(),))


class PrepareConversations(Step):
    """Read, clean and split the conversations of SFT."""

    stage: Literal["conversations"] = "conversations"
    in_child: ClassVar[bool] = False
    config: ConversationSetConfig
    max_length: int
    digest: str
    base: Key
    earlier: dict[str, Key] = Field(default_factory=dict)

    def build(self, context: Context) -> Outcome:
        """Write train, held-out and quarantined rows."""
        with _naming(self):
            prepared = prepare_conversations(
                self.config,
                max_length=self.max_length,
                tokenizer=_tokenizer(context.store, self.base),
                earlier=_used(context.store, self.earlier),
                seed=self.seed,
                out=context.workspace.out,
            )
        return _prepared(self, prepared)


class PreparePairs(Step):
    """Read, clean and split the preference pairs of one round, or of the evaluation."""

    stage: Literal["pairs"] = "pairs"
    in_child: ClassVar[bool] = False
    config: PairSetConfig
    lengths: Lengths
    digest: str
    base: Key
    earlier: dict[str, Key] = Field(default_factory=dict)

    def build(self, context: Context) -> Outcome:
        """Write train, held-out and quarantined rows, and prompts with verifiers."""
        with _naming(self):
            prepared = prepare_pairs(
                self.config,
                lengths=self.lengths,
                tokenizer=_tokenizer(context.store, self.base),
                earlier=_used(context.store, self.earlier),
                seed=self.seed,
                out=context.workspace.out,
            )
        return _prepared(self, prepared)


class UseAdapter(Step):
    """Take an SFT adapter that was trained elsewhere."""

    stage: Literal["adapter"] = "adapter"
    in_child: ClassVar[bool] = False
    path: Path
    digest: str
    policy: Key

    def build(self, context: Context) -> Outcome:
        """Check the adapter and copy it into the store."""
        import shutil

        from alignment.models.load import ADAPTER_CONFIG, ADAPTER_WEIGHTS, describe_adapter

        folder = context.workspace.out / "adapter"
        folder.mkdir(exist_ok=True)
        for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
            shutil.copy(self.path / name, folder / name)
        policy = _model(context.store, self.policy)
        uri = f"store:{self.key}/adapter"
        ref = describe_adapter(folder, uri=uri, stage=self.name, trained_on=policy.ref_hash)
        return Outcome(output=_json(ref), notes=(f"adapter taken from {self.path}",))


class TrainSft(Step):
    """Train an SFT adapter. Pairs among the data are imitated: prompt and chosen reply."""

    stage: Literal["sft"] = "sft"
    config: SftConfig
    policy: Key
    data: tuple[Key, ...]

    def build(self, context: Context) -> Outcome:
        """Train and write the adapter."""
        from alignment.models.load import open_model

        policy = _model(context.store, self.policy)
        sets = [_data(context.store, key) for key in self.data]
        summary = train_sft(
            self.config,
            policy=open_model(policy, context.store, dtype=_dtype(bf16=self.config.bf16)),
            conversations=_conversations(context.store, sets, "train"),
            held_out=_conversations(context.store, sets, "held_out"),
            seed=self.seed,
            workspace=context.workspace,
            progress=context.progress,
        )
        return _trained(self, context, policy, summary)


class TrainDpo(Step):
    """Train the adapter of one DPO round."""

    stage: Literal["dpo"] = "dpo"
    config: DpoConfig
    policy: Key
    data: Key

    def build(self, context: Context) -> Outcome:
        """Train and write the adapter."""
        from alignment.models.load import open_model

        policy = _model(context.store, self.policy)
        data = _data(context.store, self.data)
        summary = train_dpo(
            self.config,
            policy=open_model(policy, context.store, dtype=_dtype(bf16=self.config.bf16)),
            pairs=list(read_rows(context.store.path(data.train), PreferencePair)),
            held_out=list(read_rows(context.store.path(data.held_out), PreferencePair)),
            seed=self.seed,
            workspace=context.workspace,
            progress=context.progress,
        )
        return _trained(self, context, policy, summary)


class MergeAdapter(Step):
    """Hand a trained model over as one folder; without an adapter, the model as it is.

    `probe` is the data whose held-out rows the hand-over is measured on.
    """

    stage: Literal["merge"] = "merge"
    config: Merge
    policy: Key
    adapter: Key | None
    probe: tuple[Key, ...]
    probe_dtype: Literal["float32", "bfloat16"]

    def build(self, context: Context) -> Outcome:
        """Merge, measure what was lost, describe."""
        from alignment.evaluate.fidelity import hand_over

        policy = _model(context.store, self.policy)
        if self.adapter is None:
            note = "no SFT adapter: the base model takes its place"
            return Outcome(output=_json(policy), notes=(note,))
        adapter = AdapterRef.model_validate(context.store.open(self.adapter).output)
        sets = [_data(context.store, key) for key in self.probe]
        merged = hand_over(
            policy.push(adapter),
            self.config,
            store=context.store,
            probes=_conversations(context.store, sets, "held_out")
            or _conversations(context.store, sets, "train"),
            probe_dtype=self.probe_dtype,
            folder=context.workspace.out / "model",
            uri=f"store:{self.key}/model",
            progress=context.progress,
        )
        made = merged.materialised
        assert made is not None
        metrics = {"kept_share": made.kept_share, **made.probe}
        return Outcome(output=_json(merged), metrics=metrics, notes=_merge_notes(made.kept_share))


class EvaluateModel(Step):
    """Measure one model on the held-out rows of every data set."""

    stage: Literal["evaluate"] = "evaluate"
    config: EvaluationConfig
    label: str
    model: Key
    data: tuple[Key, ...]
    base: Key | None
    parent: Key | None

    def build(self, context: Context) -> Outcome:
        """Score pairs, answer prompts, summarise."""
        from alignment.models.load import open_model

        store = context.store
        sets = [_data(store, key) for key in self.data]
        pairs = list(_unique(_rows(store, sets, "held_out", PreferencePair)))[: self.config.pairs]
        verifiable = _unique(_rows(store, sets, "prompts", VerifiablePrompt))
        report = evaluate(
            self.config,
            label=self.label,
            model=open_model(
                _model(store, self.model), store, dtype=self.config.dtype, quantised=False
            ),
            pairs=pairs,
            asked=questions(verifiable, pairs, limit=self.config.prompts),
            yardstick=self._yardstick(store),
            seed=self.seed,
            out=context.workspace.out,
            progress=context.progress,
        )
        placed = report.model_copy(
            update={
                "generations": f"store:{self.key}/{report.generations}",
                "pairs": f"store:{self.key}/{report.pairs}",
            }
        )
        metrics = {name: estimate.value for name, estimate in report.overall.items()}
        return Outcome(output=_json(placed), metrics=metrics)

    def _yardstick(self, store: Store) -> Yardstick | None:
        if self.base is None or self.parent is None:
            return None
        base, parent = store.open(self.base), store.open(self.parent)
        return Yardstick(
            base=list(read_rows(store.folder(base.key) / PAIRS, PairScore)),
            distributions=store.folder(base.key) / DISTRIBUTIONS,
            parent=list(read_rows(store.folder(parent.key) / PAIRS, PairScore)),
        )


AnyStep = Annotated[
    OpenBase
    | PrepareConversations
    | PreparePairs
    | UseAdapter
    | TrainSft
    | TrainDpo
    | MergeAdapter
    | EvaluateModel,
    Field(discriminator="stage"),
]


def read_step(text: str) -> Step:
    """The step of a JSON text that `Step.model_dump_json` wrote."""
    step: Step = TypeAdapter(AnyStep).validate_json(text)
    return step


def _nested_metadata(annotation: Any) -> set[object]:
    """Marks like "key" anywhere inside an annotation: `Key | None`, `tuple[Key, ...]`."""
    found = set(getattr(annotation, "__metadata__", ()))
    for part in get_args(annotation):
        found |= {mark for mark in _nested_metadata(part) if isinstance(mark, str)}
    return {mark for mark in found if isinstance(mark, str)}


def _json(value: Frozen) -> Json:
    dumped: Json = json.loads(value.model_dump_json())
    return dumped


def _model(store: Store, key: str) -> ModelRef:
    return ModelRef.model_validate(store.open(key).output)


def _data(store: Store, key: str) -> DataRef:
    return DataRef.model_validate(store.open(key).output)


def _tokenizer(store: Store, base: str) -> Any:
    from alignment.models.load import open_tokenizer

    return open_tokenizer(_model(store, base), store)


def _used(store: Store, earlier: dict[str, str]) -> dict[str, PromptKeys]:
    return {
        name: PromptKeys.read(store.folder(store.open(key).key) / "prompt_keys.json")
        for name, key in earlier.items()
    }


@contextlib.contextmanager
def _naming(step: Step) -> Iterator[None]:
    """Say which of several sets a complaint about data is about."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{step.name}: {error}") from error


def _dtype(*, bf16: bool) -> str:
    return "bfloat16" if bf16 else "float32"


def _prepared(step: Step, prepared: Prepared) -> Outcome:
    ref = prepared.ref
    files = {
        role: f"store:{step.key}/{getattr(ref, role)}"
        for role in ("train", "held_out", "prompts", "quarantine")
        if getattr(ref, role) is not None
    }
    metrics = {"kept": ref.kept, "held_out": ref.held, "quarantined": sum(ref.quarantined.values())}
    return Outcome(
        output=_json(ref.model_copy(update=files)),
        metrics={name: float(count) for name, count in metrics.items()},
        notes=prepared.report.notes,
    )


def _rows(store: Store, sets: Iterable[DataRef], role: str, kind: type[Any]) -> Iterable[Any]:
    for ref in sets:
        uri = getattr(ref, role)
        if uri is not None:
            yield from read_rows(store.path(uri), kind)


def _unique(rows: Iterable[Any]) -> Iterable[Any]:
    return {row.id: row for row in rows}.values()


def _conversations(store: Store, sets: Iterable[DataRef], role: str) -> list[Conversation]:
    found: list[Conversation] = []
    for ref in sets:
        if ref.kind == "conversations":
            found += _rows(store, [ref], role, Conversation)
        else:
            found += [
                Conversation.of(
                    (*pair.prompt, *pair.chosen), task_type=pair.task_type, source=pair.source
                )
                for pair in _rows(store, [ref], role, PreferencePair)
            ]
    return found


def _trained(step: Step, context: Context, policy: ModelRef, summary: TrainingSummary) -> Outcome:
    from alignment.models.load import describe_adapter

    ref = describe_adapter(
        context.workspace.out / "adapter",
        uri=f"store:{step.key}/adapter",
        stage=step.name,
        trained_on=policy.ref_hash,
    )
    share = 100 * summary.trainable / summary.parameters
    metrics = {"steps": float(summary.steps), "loss": summary.loss, **summary.evaluation}
    note = f"{summary.trainable:,} of {summary.parameters:,} parameters trained ({share:.2f} %)"
    return Outcome(output=_json(ref), metrics=metrics, notes=(note,))


def _merge_notes(kept_share: float) -> tuple[str, ...]:
    if kept_share >= 0.95:
        return ()
    return (
        f"the merge kept {kept_share:.2f} of the training's change: write it in fp32 with "
        "compose.dtype=float32",
    )
