"""What someone who adds an evaluator gets from its one class, registered in `EVALUATORS`.

The class below is known to these tests only. Two real models are evaluated; where its metric turns
up after that is the claim of each test.
"""

import json
from typing import Literal

import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer

from alignment.evaluate import evaluators
from alignment.evaluate.evaluator import Evaluator, RowValue, ScoredRows
from alignment.evaluate.gate import judge
from alignment.evaluate.judged import JudgedModel
from alignment.evaluate.settings import EvaluationConfig, PlainGate
from alignment.evaluate.suite import DISTRIBUTIONS, BaselineScores, eval_prompts, evaluate
from alignment.evaluate.verdict import Check
from alignment.records.evaluation import EvalReport, Generation, PairScore
from alignment.report import plots, tables
from alignment.report.markdown import to_markdown
from alignment.report.page import render
from alignment.report.run_report import RunReport
from alignment.store.jsonl import read_rows
from alignment.store.progress import Progress


class ReplyCharacters(Evaluator):
    """The length of the replies in characters."""

    name: Literal["reply_characters"] = "reply_characters"
    needs = "generations"
    meaning = "Mean characters of a greedy reply."
    digits = 2
    better = "lower"
    plotted = True
    by_task = True
    compared = True
    gate = "guard"

    def measure(self, rows):
        """Characters."""
        for row in rows.generations:
            yield RowValue(row, len(row.reply))

    def guard(self, limits, now, before):
        """They may not double."""
        del limits
        words = f"replies went from {before.value:g} to {now.value:g} characters"
        finding = "passed" if now.value <= 2 * before.value else "failed"
        return Check(name=self.name, finding=finding, words=words)


@pytest.fixture
def new_run(monkeypatch, tmp_path, open_tiny, tiny_ref, make_adapter, pairs):
    """The tiny model and the same with an adapter, evaluated while the new evaluator is known."""
    known = (*evaluators.EVALUATORS, ReplyCharacters())
    monkeypatch.setattr(evaluators, "EVALUATORS", known)
    adapted = tiny_ref.push(make_adapter("a", seed=1, scale=1.0))
    reports: dict[str, EvalReport] = {}
    scores: dict[str, tuple[PairScore, ...]] = {}
    replies: dict[str, tuple[Generation, ...]] = {}
    for label, ref in (("base", tiny_ref), ("round 1", adapted)):
        out = tmp_path / f"evaluate-{label}"
        out.mkdir()
        reports[label] = evaluate(
            EvaluationConfig(dtype="float32", max_new_tokens=6, max_length=256),
            label=label,
            model=open_tiny(ref),
            pairs=pairs,
            prompts=eval_prompts([], pairs, limit=4),
            baseline=BaselineScores(
                base=scores["base"],
                distributions=tmp_path / "evaluate-base" / DISTRIBUTIONS,
                parent=scores["base"],
            )
            if scores
            else None,
            seed=0,
            out=out,
            progress=Progress(),
        )
        scores[label] = tuple(read_rows(out / reports[label].pairs, PairScore))
        replies[label] = tuple(read_rows(out / reports[label].generations, Generation))
    return RunReport(
        title="new",
        created="today",
        command="sft-dpo run",
        evaluations=tuple(reports.values()),
        generations=replies,
        pairs=scores,
    )


def test_new_metric_is_in_the_stored_report_by_its_arithmetic(new_run):
    for report in new_run.evaluations:
        assert EvalReport.model_validate_json(report.model_dump_json()) == report
        stored = json.loads(report.model_dump_json())["overall"]["reply_characters"]
        characters = [len(row.reply) for row in new_run.generations[report.model]]
        assert stored["value"] == pytest.approx(sum(characters) / 4)
        assert stored["n"] == 4


def test_new_metric_has_its_column_and_its_breakdown_in_its_own_digits(new_run):
    overall = [report.overall["reply_characters"] for report in new_run.evaluations]
    table = tables.evaluation_table(new_run.evaluations)
    assert table.columns[-1] == "Reply characters"
    assert evaluators.headline_metrics()[-1] == "reply_characters"
    assert [row[-1].text for row in table.rows] == [f"{found.value:.2f}" for found in overall]
    by_task = tables.task_table(new_run.evaluations, "reply_characters")
    by_source = tables.source_table(new_run.evaluations, "reply_characters")
    assert by_task.title == "Reply characters by task type"
    assert [row[1].text for row in by_source.rows] == [table.rows[0][-1].text]
    assert len(by_task.rows) > 1


def test_new_metric_is_plotted_with_its_label_and_values(new_run):
    axes = plots.model_estimates(new_run.evaluations, "reply_characters").axes[0]
    (series,) = axes.containers
    assert isinstance(series, ErrorbarContainer)
    overall = [report.overall["reply_characters"] for report in new_run.evaluations]
    assert np.asarray(series.lines[0].get_xdata()).tolist() == [found.value for found in overall]
    assert axes.get_xlabel() == "reply characters"
    heat_map = plots.task_heat_map(new_run.evaluations, "reply_characters").axes[0]
    by_task = tables.task_table(new_run.evaluations, "reply_characters")
    written = {text.get_text() for text in heat_map.texts}
    assert written == {cell.text for row in by_task.rows for cell in row[1:]}


def test_new_metric_is_on_the_page_as_tile_column_plot_and_sentence(new_run):
    page, markdown = render(new_run), to_markdown(new_run)
    assert "<dt>Reply characters, round 1</dt>" in page
    assert "<dt>Reply characters</dt><dd>Mean characters of a greedy reply.</dd>" in page
    assert "Reply characters with 95 % intervals." in page
    (claim,) = [c for c in new_run.comparisons if c.metric == "reply_characters"]
    assert claim.verdict in ("better", "worse", "not shown")
    assert claim.words in page
    assert claim.words in markdown


@pytest.mark.parametrize(("before", "passed"), [(0.4, False), (0.6, True)])
def test_new_metric_guards_the_gate(new_run, before, passed):
    """A champion whose replies have this share of the candidate's characters."""
    base = new_run.evaluations[0]
    own = base.overall["reply_characters"]
    shorter = own.model_copy(update={"value": before * own.value})
    champion = base.model_copy(update={"overall": {"reply_characters": shorter}})
    rows = ScoredRows(pairs=new_run.pairs["base"], generations=new_run.generations["base"])
    verdict = judge(
        PlainGate(), candidate=JudgedModel.of(base, rows), champion=JudgedModel.of(champion, rows)
    )
    (check,) = [check for check in verdict.checks if check.name == "reply_characters"]
    assert check.passed is verdict.kept is passed
