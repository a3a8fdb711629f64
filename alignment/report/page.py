"""The report of a run as one self-contained HTML file.

No scripts, no network, no font files. The texts come from models and untrusted data, so the
template escapes all of them and the page's policy forbids loading anything. The same report gives
the same bytes. What needs no attention is folded. Not here: reading the store (`assemble.py`).
"""

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from alignment.evaluate import evaluators
from alignment.evaluate.metrics import is_preferred
from alignment.records.evaluation import EvalReport
from alignment.report import compare, examples, metric, tables
from alignment.report.cost import cost_table
from alignment.report.differences import difference_table, noise_floor
from alignment.report.gate_table import gate_table
from alignment.report.own_answers import own_table, shown_score
from alignment.report.run_report import RunReport, Sample
from alignment.report.text import clip, folded, readable
from alignment.report.tiles import anchor_tiles, metric_tiles

_LONGEST_CONFIG = 100_000
_SAMPLE_PROMPTS = 4
_SAMPLE_STEPS = 6


def render(report: RunReport) -> str:
    """The page as one HTML document; write it as UTF-8."""
    from alignment.report import pictures

    numbers = report.numbers
    final, pairs = report.final_model or "", report.final_pairs
    by_task = tables.task_metric(numbers.evaluations)
    reference = report.reference_model
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            report=report,
            final=final,
            headline=numbers.headline,
            claims=compare.claims(numbers.comparisons),
            anchor_tiles=list(anchor_tiles(numbers.trail, final)),
            anchor_pictures=list(pictures.anchor_picture(numbers.trail)),
            tiles=metric_tiles(numbers.evaluations, final),
            evaluation=tables.evaluation_table(numbers.evaluations),
            meanings=_meanings(numbers.evaluations),
            paired=compare.paired_table(numbers.comparisons),
            differences=difference_table(
                final, numbers.differences, noise_floor(numbers.evaluations, final)
            ),
            result_pictures=list(pictures.result_pictures(numbers.evaluations)),
            row_pictures=list(
                pictures.row_pictures(
                    numbers.evaluations,
                    final=final,
                    generations=report.generations,
                    pairs=report.pairs,
                )
            ),
            tasks=tables.task_table(numbers.evaluations, by_task),
            sources=tables.source_table(numbers.evaluations, by_task),
            task_pictures=list(pictures.task_picture(numbers.evaluations, by_task)),
            side_by_side=examples.side_by_side(report.generations, final),
            changes=examples.CHANGES,
            reference=reference,
            changed=examples.changed_pairs(
                report.pairs.get(reference or "", ()), pairs, report.pair_texts
            ),
            wrong=examples.wrong_pairs(pairs, report.pair_texts),
            wrong_count=sum(not is_preferred(pair) for pair in pairs),
            pairs=pairs,
            training_pictures=list(pictures.training_pictures(report.histories)),
            samples={step: _by_prompt(rows) for step, rows in report.samples.items() if rows},
            stopped=gate_table([verdict for verdict in numbers.verdicts if not verdict.kept]),
            kept=gate_table([verdict for verdict in numbers.verdicts if verdict.kept]),
            own=own_table(numbers.own),
            own_rounds=report.own,
            data=tables.data_table(numbers.data),
            cost=cost_table(numbers.cost),
            handovers=tables.handover_table(report.records),
            stages=tables.stage_table(report.records, report.timings),
            next=numbers.next,
            config=clip(report.config, _LONGEST_CONFIG),
        )
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
    environment.filters["folded"] = folded
    environment.filters["score"] = shown_score
    environment.filters["nats"] = lambda number: metric.show(number, digits=1)
    return environment


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
