"""Everything that the report of a run shows. Not here: how it is shown (`page.py`)."""

from pydantic import Field

from alignment.evaluate.evaluator import ScoredRows
from alignment.evaluate.verdict import Verdict
from alignment.pipeline.steps import STEPS, EvaluateModel, MissingAdapter, made_by
from alignment.records.base import Frozen
from alignment.records.evaluation import EvalReport, Generation, PairScore, TaskScore
from alignment.records.manifest import StageRecord
from alignment.records.refs import DataRef
from alignment.records.text import PreferencePair
from alignment.report import compare
from alignment.report.cost import Spent, cost_of
from alignment.report.differences import (
    ModelDifferences,
    differences_of,
    noise_floor,
    relatives,
)
from alignment.report.next_steps import next_commands
from alignment.report.numbers import Numbers, StepNumbers
from alignment.report.own_answers import OwnRound
from alignment.report.trail import Trail


class Sample(Frozen):
    """One reply generated during training, after `step` optimiser steps."""

    step: int
    prompt: str
    reply: str


class RunReport(Frozen):
    """Everything that the page shows.

    Attributes:
        created: date and time, formatted for readers.
        command: the command that made the run.
        config: the resolved configuration, as YAML.
        notes: sentences about the whole run that a reader must not miss.
        final: label of the model that the run produces; None: the last round.
        evaluations: one per model, in the order of the chain.
        generations, pairs, tasks: rows that the evaluations were computed from, by model label.
        pair_texts: the held-out pairs themselves, joined to `pairs` by id.
        histories: rows that the trainer logged, by step ("sft", "dpo-1").
        samples: replies during training, by step.
        records: every stage, in the order of the run.
        verdicts: the gate's verdict on each round, in order.
        data: the prepared sets, by name.
        own: the rounds on the model's own answers, in order.
        trail: the rounds against the anchor; None without a verdict.
        models: key of each model, by its label.
        store: path of the store.
        timings: seconds that this run spent, by step; steps without an entry were reused. None:
            unknown.
    """

    title: str
    created: str
    command: str
    config: str = ""
    notes: tuple[str, ...] = ()
    final: str | None = None
    evaluations: tuple[EvalReport, ...] = ()
    generations: dict[str, tuple[Generation, ...]] = Field(default_factory=dict)
    pairs: dict[str, tuple[PairScore, ...]] = Field(default_factory=dict)
    tasks: dict[str, tuple[TaskScore, ...]] = Field(default_factory=dict)
    pair_texts: tuple[PreferencePair, ...] = ()
    histories: dict[str, tuple[dict[str, object], ...]] = Field(default_factory=dict)
    samples: dict[str, tuple[Sample, ...]] = Field(default_factory=dict)
    records: tuple[StageRecord, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    own: tuple[OwnRound, ...] = ()
    trail: Trail | None = None
    models: dict[str, str] = Field(default_factory=dict)
    store: str = ""
    data: dict[str, DataRef] = Field(default_factory=dict)
    timings: dict[str, float] | None = None

    @property
    def final_model(self) -> str | None:
        """`final`, or what `compare.final_model` picks from the labels if it is None."""
        labels = [report.model for report in self.evaluations]
        return self.final or compare.final_model(labels or [*self.generations, *self.pairs])

    @property
    def final_pairs(self) -> tuple[PairScore, ...]:
        """The pair scores of the final model."""
        return self.pairs.get(self.final_model or "", ())

    @property
    def headline(self) -> str:
        """The verdict in a sentence or two; before it, what a reader has to know to read it."""
        missing = [note for r in self.records if made_by(r, MissingAdapter) for note in r.notes]
        stand_in = [f"{note[:1].upper()}{note[1:]}." for note in missing]
        return " ".join([*stand_in, *self._stopped(), compare.headline(self.comparisons)])

    def _stopped(self) -> tuple[str, ...]:
        """That the gate did not keep the round that the report is about."""
        last = self.verdicts[-1] if self.verdicts else None
        if last is None or last.kept or last.candidate != self.final_model:
            return ()
        return (f"{last.candidate[:1].upper()}{last.candidate[1:]} {last.outcome}.",)

    @property
    def devices(self) -> str:
        """What the models ran on: device, driver and torch's build, as in the manifests."""
        return "; ".join(dict.fromkeys(filter(None, map(_device_of, self.records))))

    @property
    def comparisons(self) -> tuple[compare.Comparison, ...]:
        """The final model compared with the others."""
        if self.final_model is None:
            return ()
        return compare.compare(
            self.final_model,
            generations=self.generations,
            pairs=self.pairs,
            noise=noise_floor(self.evaluations, self.final_model),
        )

    @property
    def differences(self) -> tuple[ModelDifferences, ...]:
        """The final model minus its parent, its anchor, SFT and the base, in every metric."""
        final, labels = self.final_model, list(dict.fromkeys((*self.generations, *self.pairs)))
        if final not in labels:
            return ()
        rows = {
            label: ScoredRows(
                pairs=self.pairs.get(label, ()),
                generations=self.generations.get(label, ()),
                tasks=self.tasks.get(label, ()),
            )
            for label in labels
        }
        anchor = self.trail.anchor if self.trail else None
        others = relatives(final, labels, self.verdicts, anchor)
        return tuple(differences_of(final, others, rows))

    @property
    def reference_model(self) -> str | None:
        """The model that pairs are compared with: the anchor, else the first other model."""
        others = [label for label in self.pairs if label != self.final_model]
        anchor = self.trail.anchor if self.trail else None
        return anchor if anchor in others else next(iter(others), None)

    @property
    def commands(self) -> tuple[str, ...]:
        """What to do next with the final model."""
        key = self.models.get(self.final_model or "")
        return next_commands(key, self.store) if key else ()

    @property
    def cost(self) -> tuple[Spent, ...]:
        """What the run's steps spent."""
        return cost_of(self.records, {**self._trained_tokens(), **self._evaluated_tokens()})

    def _trained_tokens(self) -> dict[str, int]:
        found = {}
        for record in self.records:
            counts = [row.get("num_tokens") for row in self.histories.get(record.name, ())]
            numbers = [count for count in counts if isinstance(count, int | float)]
            if numbers:
                found[record.key] = round(max(numbers))
        return found

    def _evaluated_tokens(self) -> dict[str, int]:
        found = {}
        for record in self.records:
            if evaluated := made_by(record, EvaluateModel) and record.output_as(EvalReport):
                replies = self.generations.get(evaluated.model, ())
                scored = self.pairs.get(evaluated.model, ())
                found[record.key] = sum(reply.tokens for reply in replies) + sum(
                    pair.chosen_tokens + pair.rejected_tokens for pair in scored
                )
        return found

    @property
    def numbers(self) -> Numbers:
        """Every number of the page: what its tables and figures are made from."""
        return Numbers(
            title=self.title,
            created=self.created,
            command=self.command,
            headline=self.headline,
            notes=self.notes,
            final=self.final_model,
            models=self.models,
            trail=self.trail,
            verdicts=self.verdicts,
            outcomes={verdict.candidate: verdict.word for verdict in self.verdicts},
            evaluations=self.evaluations,
            comparisons=self.comparisons,
            differences=self.differences,
            data=self.data,
            own=tuple(round_.counts for round_ in self.own),
            cost=self.cost,
            steps=tuple(
                StepNumbers(
                    name=record.name,
                    key=record.key,
                    seconds=record.seconds,
                    this_run=None if self.timings is None else self.timings.get(record.name),
                    metrics=record.metrics,
                )
                for record in self.records
            ),
            next=self.commands,
        )


def _device_of(record: StageRecord) -> str:
    kind, found = STEPS.get(record.stage), record.hardware
    if kind is None or not kind.needs_gpu or "device" not in found:
        return ""
    torch = record.libraries.get("torch", "")
    return f"{found['device']}, driver {found['driver']}, torch {torch} ({found['torch_build']})"
