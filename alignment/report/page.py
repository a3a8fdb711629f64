"""The report of a run: one self-contained HTML file, and a summary in Markdown.

No scripts, no network, no font files. The texts come from models and untrusted data, so the
template escapes all of them and the page's policy forbids loading anything. The same report gives
the same bytes. Not here: reading the store (`assemble.py`).
"""

import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import Field

from alignment.evaluate import evaluators
from alignment.evaluate.metrics import is_preferred
from alignment.evaluate.verdict import Verdict
from alignment.pipeline.steps import STEPS, MissingAdapter, made_by
from alignment.records import (
    DataRef,
    EvalReport,
    Frozen,
    Generation,
    PairScore,
    PreferencePair,
    StageRecord,
)
from alignment.report import compare, examples, metric, tables
from alignment.report.table import escape_markdown

_LONGEST_TEXT = 1500
_LONGEST_CONFIG = 100_000
_SAMPLE_PROMPTS = 4
_SAMPLE_STEPS = 6
_MARKDOWN_MODELS = 16
_MARKDOWN_SENTENCES = 8
_LONGEST_LINE = 400


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
        generations, pairs: rows that the evaluations were computed from, by model label.
        pair_texts: the held-out pairs themselves, joined to `pairs` by id.
        histories: rows that the trainer logged, by step ("sft", "dpo-1").
        samples: replies during training, by step.
        records: every stage, in the order of the run.
        verdicts: the gate's verdict on each round, in order.
        data: the prepared sets, by name.
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
    pair_texts: tuple[PreferencePair, ...] = ()
    histories: dict[str, tuple[dict[str, object], ...]] = Field(default_factory=dict)
    samples: dict[str, tuple[Sample, ...]] = Field(default_factory=dict)
    records: tuple[StageRecord, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
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
        """The verdict in one sentence, and before it a model that stands in for a missing one."""
        missing = [note for r in self.records if made_by(r, MissingAdapter) for note in r.notes]
        stand_in = [f"{note[:1].upper()}{note[1:]}." for note in missing]
        return " ".join([*stand_in, compare.headline(self.comparisons)])

    @property
    def devices(self) -> str:
        """What the models ran on: device, driver and torch's build, as in the manifests."""
        return "; ".join(dict.fromkeys(filter(None, map(_device_of, self.records))))

    @property
    def comparisons(self) -> tuple[compare.Comparison, ...]:
        """The final model compared with the others."""
        if self.final_model is None:
            return ()
        return compare.compare(self.final_model, generations=self.generations, pairs=self.pairs)


class Tile(NamedTuple):
    """One large number at the top: the final model's value, next to the first model's."""

    label: str
    value: str
    interval: str
    before: str


def render(report: RunReport) -> str:
    """The page as one HTML document; write it as UTF-8."""
    from alignment.report import pictures

    final, pairs = report.final_model or "", report.final_pairs
    comparisons = report.comparisons
    by_task = tables.task_metric(report.evaluations)
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            report=report,
            final=final,
            headline=report.headline,
            claims=compare.claims(comparisons),
            tiles=_tiles(report.evaluations, final),
            evaluation=tables.evaluation_table(report.evaluations),
            meanings=_meanings(report.evaluations),
            paired=compare.paired_table(comparisons),
            result_pictures=pictures.result_pictures(
                report.evaluations, final=final, generations=report.generations, pairs=pairs
            ),
            tasks=tables.task_table(report.evaluations, by_task),
            sources=tables.source_table(report.evaluations, by_task),
            task_pictures=pictures.task_picture(report.evaluations, by_task),
            side_by_side=examples.side_by_side(report.generations, final),
            changes=examples.CHANGES,
            wrong=examples.wrong_pairs(pairs, report.pair_texts),
            wrong_count=sum(not is_preferred(pair) for pair in pairs),
            pairs=pairs,
            training_pictures=list(pictures.training_pictures(report.histories)),
            samples={step: _by_prompt(rows) for step, rows in report.samples.items() if rows},
            gate=tables.gate_table(report.verdicts),
            data=tables.data_table(report.data),
            handovers=tables.handover_table(report.records),
            stages=tables.stage_table(report.records, report.timings),
            config=clip(report.config, _LONGEST_CONFIG),
        )
    )


def to_markdown(report: RunReport) -> str:
    """The verdict, the table and the notes in at most 60 lines."""
    comparisons = report.comparisons
    claims = [claim.claim for claim in compare.claims(comparisons)][:_MARKDOWN_SENTENCES]
    reports = report.evaluations
    if len(reports) > _MARKDOWN_MODELS:
        reports = (*reports[:2], *reports[2 - _MARKDOWN_MODELS :])
    parts = [
        f"# {_one_line(report.title)}",
        f"**{_one_line(report.headline)}**",
        _bullets(claims),
        tables.evaluation_table(reports).to_markdown() if reports else "",
        _bullets(report.notes[:_MARKDOWN_SENTENCES]),
        f"Ran on {_one_line(report.devices)}." if report.devices else "",
        f"{_one_line(report.created)} · {_one_line(report.command)}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def clip(text: str, longest: int = _LONGEST_TEXT) -> str:
    """The text, or its beginning and the number of characters left out."""
    if len(text) <= longest:
        return text
    return f"{text[:longest]}… (+{len(text) - longest:,} characters)"


def readable(value: object) -> object:
    """Replaces characters that HTML or UTF-8 cannot represent by '�'; only in strings."""
    if not isinstance(value, str) or value.isprintable() or hasattr(value, "__html__"):
        return value
    return "".join(
        "�" if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t" else c for c in value
    )


def environment(*folders: Path) -> Environment:
    """An environment for the templates of these folders and this one; it escapes all values."""
    environment = Environment(
        loader=FileSystemLoader([*folders, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=readable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["clip"] = clip
    environment.filters["nats"] = lambda number: metric.show(number, digits=1)
    return environment


def _tiles(reports: Sequence[EvalReport], final: str) -> list[Tile]:
    """Decisive metrics of the final model, with the first model's values if it is another model."""
    by_model = {report.model: report.overall for report in reports}
    numbers = by_model.get(final, {})
    first = reports[0].model if reports and reports[0].model != final else None
    before = by_model[first] if first is not None else {}
    return [
        Tile(
            label=shown.label,
            value=metric.show_value(shown.name, numbers[shown.name].value),
            interval=metric.show_interval(shown.name, numbers[shown.name]),
            before=f"{first} {metric.show_value(shown.name, before[shown.name].value)}"
            if shown.name in before
            else "",
        )
        for shown in evaluators.EVALUATORS
        if shown.column and shown.decides and shown.name in numbers
    ]


def _meanings(reports: Sequence[EvalReport]) -> dict[str, str]:
    return {evaluator.label: evaluator.meaning for evaluator in evaluators.columns(reports)}


def _by_prompt(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    """The first few prompts, each with a few evenly spaced replies including first and last."""
    prompts: dict[str, list[Sample]] = {}
    for sample in sorted(samples, key=lambda sample: sample.step):
        prompts.setdefault(sample.prompt, []).append(sample)
    chosen = list(prompts.items())[:_SAMPLE_PROMPTS]
    return {prompt: _evenly_spaced(replies, _SAMPLE_STEPS) for prompt, replies in chosen}


def _evenly_spaced(samples: list[Sample], most: int) -> list[Sample]:
    """At most `most` evenly spaced samples, including the first and the last."""
    if len(samples) <= most:
        return samples
    return [samples[round(i * (len(samples) - 1) / (most - 1))] for i in range(most)]


def _device_of(record: StageRecord) -> str:
    kind, found = STEPS.get(record.stage), record.hardware
    if kind is None or not kind.needs_gpu or "device" not in found:
        return ""
    torch = record.libraries.get("torch", "")
    return f"{found['device']}, driver {found['driver']}, torch {torch} ({found['torch_build']})"


def _bullets(sentences: Sequence[str]) -> str:
    return "\n".join(f"- {_one_line(sentence)}" for sentence in sentences)


def _one_line(text: str) -> str:
    return escape_markdown(clip(text, _LONGEST_LINE))
