"""The steps of a round on the model's own answers: prompts, answers, labels, pairs.

    prompts -> answers of the model -> labels -> pairs

The prompts are a data step like any other, so that no later set uses them again; a round from an
inbox finds them in its batches. The other three belong to their round, as they need the model that
it starts from. Answers and labels are journals: an attempt that was killed goes on after the last
line.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PositiveInt, SerializerFunctionWrapHandler, model_serializer

from alignment.answers.answer import Answer
from alignment.answers.interpreter import check_vllm, engine_obstacle
from alignment.answers.settings import AnyEngine, Drawing, OwnEngine, Vllm
from alignment.candidates.budget import check_before_answers
from alignment.candidates.judge import label_by_judge
from alignment.candidates.label import (
    check_own_verifiers,
    label_by_origin,
    label_by_verifier,
    try_label,
)
from alignment.candidates.pairing import pair_answers
from alignment.candidates.records import ROWS, AnswerLabel, CandidatePrompt, JudgeCall
from alignment.candidates.settings import (
    DeltaLabel,
    JudgeLabel,
    Label,
    Pairing,
    RewardLabel,
    VerifierLabel,
)
from alignment.data.build.report import PROMPT_KEYS, QUARANTINE
from alignment.data.build.settings import Lengths
from alignment.data.formats import Format
from alignment.data.read.sources import FileSource, Source
from alignment.data.split import PromptKeys, prompt_key
from alignment.errors import DataError, ModelError
from alignment.pipeline.step import Context, Key, Outcome, Step, model_of
from alignment.pipeline.steps.agreement import CALLS, UNPAID
from alignment.pipeline.steps.batches import batch_file
from alignment.pipeline.steps.data import (
    prefix_errors,
    prepared_outcome,
    tokenizer_of,
    used_prompts,
)
from alignment.records.base import digest_of
from alignment.records.refs import DataRef, RowsRef
from alignment.store.durable import write
from alignment.store.journal import Journal
from alignment.store.jsonl import RowT, as_line, read_rows
from alignment.store.store import Store

if TYPE_CHECKING:
    from alignment.candidates.prompts import ChosenPrompts


class ChoosePrompts(Step):
    """Choose the prompts of a round on own answers; those of `earlier` sets are excluded.

    `label` is tried first, for so many `samples`, and `engine`: a mistake in them is told before
    anything is answered. They are not part of the key, so that other labels need no other answers.
    """

    stage: Literal["prompts"] = "prompts"
    title = "choose prompts"
    produces = RowsRef
    parent_fields = ("base", "earlier")
    headline = ("prompts", "quarantined")
    in_child = False
    nominal_seconds = 2.0
    sources: tuple[Source, ...]
    max_prompts: int | None
    max_tokens: int
    digest: str
    base: Key
    earlier: dict[str, Key] = Field(default_factory=dict)
    label: Label = Field(default=VerifierLabel(), exclude=True)
    samples: int = Field(default=2, exclude=True)
    engine: AnyEngine = Field(default=OwnEngine(), exclude=True)

    def build(self, context: Context) -> Outcome:
        """Write the prompts, and the rows that are not used, with their reasons."""
        found = _chosen(self, context, self.sources, limit=self.max_prompts)
        with prefix_errors(self):
            if digest_of([source.digest() for source in self.sources]) != self.digest:
                raise DataError("a source was changed while it was read; run the command again.")
            if not found.kept:
                raise DataError(found.why_none())
        return _prompts(self, context, found)


class ChooseBatchPrompts(Step):
    """Choose the prompts of a round from an inbox; those that the champion has seen are excluded.

    Attributes:
        earlier: all sets in the champion's lineage and in its evaluation, by name.
        label, samples, engine: tried first, as in `ChoosePrompts`.
    """

    stage: Literal["intake-prompts"] = "intake-prompts"
    title = "choose prompts of batches"
    produces = RowsRef
    parent_fields = ("batches", "base", "earlier")
    headline = ("prompts", "quarantined")
    in_child = False
    nominal_seconds = 2.0
    batches: tuple[Key, ...]
    format: Format
    task_type: str
    max_tokens: int
    base: Key
    earlier: dict[str, Key]
    label: Label = Field(default=VerifierLabel(), exclude=True)
    samples: int = Field(default=2, exclude=True)
    engine: AnyEngine = Field(default=OwnEngine(), exclude=True)

    def build(self, context: Context) -> Outcome:
        """Write the prompts, of which there may be none, and the rows that are not used."""
        sources = [self._source(context.store, key) for key in self.batches]
        return _prompts(self, context, _chosen(self, context, sources, limit=None))

    def _source(self, store: Store, key: str) -> FileSource:
        path = str(batch_file(store, key))
        return FileSource(path=path, format=self.format, task_type=self.task_type)


def _chosen(
    step: ChoosePrompts | ChooseBatchPrompts,
    context: Context,
    sources: Sequence[Source],
    *,
    limit: int | None,
) -> "ChosenPrompts":
    """The prompts in these sources that the model may answer; first the step's label is tried."""
    from alignment.candidates.prompts import choose_prompts

    try_label(step.label)
    if isinstance(step.engine, Vllm):
        check_vllm(step.engine.python)
    with prefix_errors(step):
        found = choose_prompts(
            sources,
            tokenizer=tokenizer_of(context, step.base),
            earlier=used_prompts(context.store, step.earlier),
            max_tokens=step.max_tokens,
            limit=limit,
            salt=str(step.seed),
        )
    check_own_verifiers(step.label, found.kept)
    if isinstance(step.label, JudgeLabel):
        check_before_answers(step.label, found.kept, samples=step.samples)
    return found


def _prompts(step: Step, context: Context, found: "ChosenPrompts") -> Outcome:
    """The outcome of a step that chose prompts."""
    out = context.workspace.out
    keys = tuple(sorted({prompt_key(prompt.prompt) for prompt in found.kept}))
    write("prompts.rows", out / ROWS, b"".join(map(as_line, found.kept)))
    write("prompts.quarantine", out / QUARANTINE, b"".join(map(as_line, found.dropped)))
    used = PromptKeys(kind="pairs", trained=keys, held_out=())
    write("prompts.keys", out / PROMPT_KEYS, used.model_dump_json())
    return Outcome(
        output=RowsRef(rows=f"store:{step.key}/{ROWS}", count=len(found.kept)),
        metrics={
            "prompts": float(len(found.kept)),
            "quarantined": float(len(found.dropped)),
        },
    )


class WriteAnswers(Step):
    """Answer prompts with a model, several times each."""

    stage: Literal["answers"] = "answers"
    title = "write answers"
    produces = RowsRef
    parent_fields = ("model", "prompts")
    headline = ("answers", "stopped", "tokens")
    needs_gpu = True
    shares = True
    nominal_seconds = 60.0
    sampling: Drawing
    dtype: Literal["bfloat16", "float32"]
    engine: AnyEngine = OwnEngine()
    batch: PositiveInt = 16
    model: Key
    prompts: Key

    @model_serializer(mode="wrap")
    def _without_default(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is usual, as manifests from before there was a choice do."""
        dumped: dict[str, Any] = serialise(self)
        if self.engine == OwnEngine():
            dumped.pop("engine", None)
        if self.batch == 16:
            dumped.pop("batch", None)
        return dumped

    @property
    def key(self) -> str:
        """As for any step; of how they are computed only if vLLM does, which draws others."""
        fields = self.model_dump(mode="json", exclude={"engine", "batch"})
        if isinstance(self.engine, Vllm):
            fields["engine"] = self.engine.name
        return f"{self.stage}-{digest_of([self.stage, self.version, fields])[:24]}"

    @property
    def foreseen(self) -> tuple[str, ...]:
        """That this machine has no vLLM where the config says, if so."""
        obstacle = engine_obstacle(self.engine)
        return (obstacle,) if obstacle else ()

    def build(self, context: Context) -> Outcome:
        """Write the answers that an earlier attempt has not written."""
        from alignment.candidates.write import write_answers

        store = context.store
        rows = write_answers(
            store,
            model_of(store, self.model),
            rows_in(store, self.prompts, CandidatePrompt),
            self.sampling.seeded(self.seed),
            context.workspace,
            context.progress,
            dtype=self.dtype,
            engine=self.engine,
            batch=self.batch,
        )
        count = len(rows)
        return Outcome(
            output=RowsRef(rows=f"store:{self.key}/{ROWS}", count=count),
            metrics={
                "answers": float(count),
                "stopped": sum(row.stopped for row in rows) / count,
                "tokens": sum(row.tokens for row in rows) / count,
            },
        )


class JoinAnswers(Step):
    """Put the answers of two models together; those of the second one are numbered after them."""

    stage: Literal["joined"] = "joined"
    title = "join answers"
    produces = RowsRef
    parent_fields = ("answers", "weak")
    headline = ("answers",)
    in_child = False
    nominal_seconds = 1.0
    samples: int
    answers: Key
    weak: Key

    def build(self, context: Context) -> Outcome:
        """Write all answers."""
        first, second = (rows_in(context.store, key, Answer) for key in (self.answers, self.weak))
        moved = [row.model_copy(update={"sample": row.sample + self.samples}) for row in second]
        rows = [*first, *moved]
        write("joined.rows", context.workspace.out / ROWS, b"".join(map(as_line, rows)))
        return Outcome(
            output=RowsRef(rows=f"store:{self.key}/{ROWS}", count=len(rows)),
            metrics={"answers": float(len(rows))},
        )


class LabelAnswers(Step):
    """Score answers, by a program or a judge."""

    stage: Literal["labels"] = "labels"
    title = "label answers"
    produces = RowsRef
    parent_fields = ("answers", "prompts")
    headline = ("score", "unlabelled")
    nominal_seconds = 10.0
    label: VerifierLabel | JudgeLabel | DeltaLabel = Field(discriminator="name")
    answers: Key
    prompts: Key

    @property
    def key(self) -> str:
        """As for any step, without how a judge is reached and paid: changing it repeats no call."""
        judged = isinstance(self.label, JudgeLabel)
        fields = self.model_dump(
            mode="json", exclude={"label": {*(UNPAID if judged else ()), "weak"}}
        )
        # 1 also showed a judge answers that can be in no pair, and compared with the first of all
        version = 2 if judged else self.version
        return f"{self.stage}-{digest_of([self.stage, version, fields])[:24]}"

    def build(self, context: Context) -> Outcome:
        """Write the labels that an earlier attempt has not written."""
        store, label, paid = context.store, self.label, dict[str, float]()
        journal = Journal(context.workspace.out / ROWS, AnswerLabel)
        prompts, answers = _to_label(store, self.prompts, self.answers)
        with prefix_errors(self):
            if isinstance(label, JudgeLabel):
                calls = Journal(context.workspace.out / CALLS, JudgeCall)
                label_by_judge(label, prompts, answers, calls, journal, context.progress)
                paid = _paid(calls)
            elif isinstance(label, DeltaLabel):
                label_by_origin(answers, journal)
            else:
                label_by_verifier(label, prompts, answers, journal, context.progress)
        return _labelled(self, journal.rows, **paid)


class RewardAnswers(Step):
    """Score answers with a reward model; `digest` identifies its files."""

    stage: Literal["rewards"] = "rewards"
    title = "score answers"
    produces = RowsRef
    parent_fields = ("answers", "prompts")
    headline = ("score",)
    needs_gpu = True
    shares = True
    nominal_seconds = 20.0
    label: RewardLabel
    digest: str
    answers: Key
    prompts: Key

    def build(self, context: Context) -> Outcome:
        """Write the labels that an earlier attempt has not written."""
        from alignment.candidates.reward import label_by_reward_model

        prompts, answers = _to_label(context.store, self.prompts, self.answers)
        folder, _, _ = self.label.model.fetch(context.workspace.out)
        if self.label.model.digest() != self.digest:
            raise ModelError(f"{folder} was changed since the run began; run the command again.")
        rows = label_by_reward_model(
            folder,
            prompts,
            answers,
            context.workspace,
            context.progress,
            batch=self.label.batch,
        )
        return _labelled(self, rows)


class PairAnswers(Step):
    """Make a round's pairs from labelled answers, filtered like those of any other source."""

    stage: Literal["own-pairs"] = "own-pairs"
    title = "pair answers"
    produces = DataRef
    parent_fields = ("labels", "answers", "prompts", "base", "earlier")
    headline = ("kept", "quarantined")
    in_child = False
    nominal_seconds = 4.0
    pairing: Pairing
    min_pairs: int
    lengths: Lengths
    labels: Key
    answers: Key
    prompts: Key
    base: Key
    earlier: dict[str, Key]

    def build(self, context: Context) -> Outcome:
        """Write the pairs, and what became of every answer."""
        from alignment.candidates.build import build_pairs

        store = context.store
        paired = pair_answers(
            rows_in(store, self.prompts, CandidatePrompt),
            rows_in(store, self.answers, Answer),
            rows_in(store, self.labels, AnswerLabel),
            self.pairing,
            seed=self.seed,
        )
        with prefix_errors(self):
            prepared = build_pairs(
                paired,
                name=self.name,
                min_pairs=self.min_pairs,
                lengths=self.lengths,
                tokenizer=tokenizer_of(context, self.base),
                earlier=used_prompts(store, self.earlier),
                seed=self.seed,
                out=context.workspace.out,
            )
        return prepared_outcome(self, prepared)


def rows_in(store: Store, key: str, kind: type[RowT]) -> list[RowT]:
    """The rows that a step of this file left; its files are verified first."""
    ref = RowsRef.model_validate(store.open(key).output)
    return list(read_rows(store.path(ref.rows), kind))


def _to_label(
    store: Store, prompts: str, answers: str
) -> tuple[dict[str, CandidatePrompt], list[Answer]]:
    """Prompts by id, and the answers to them, from the artifacts of these keys."""
    found = rows_in(store, prompts, CandidatePrompt)
    return {row.id: row for row in found}, rows_in(store, answers, Answer)


def _paid(calls: Journal[JudgeCall]) -> dict[str, float]:
    return {
        "calls": float(len(calls.rows)),
        "tokens": float(sum(row.tokens for row in calls.rows)),
        "cost": sum(row.cost for row in calls.rows),
    }


def _labelled(step: Step, rows: Sequence[AnswerLabel], **more: float) -> Outcome:
    scores = [row.score for row in rows if row.score is not None]
    return Outcome(
        output=RowsRef(rows=f"store:{step.key}/{ROWS}", count=len(rows)),
        metrics={
            "score": sum(scores) / max(len(scores), 1),
            "unlabelled": float(len(rows) - len(scores)),
            **more,
        },
    )
