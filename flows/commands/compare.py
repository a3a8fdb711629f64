"""`sft-dpo compare`: two runs, or two models of runs, on the rows that both were measured on."""

import json
import re
from pathlib import Path

from alignment.errors import UsageError
from alignment.evaluate.verdict import GateResult
from alignment.records.evaluation import EvalReport
from alignment.records.manifest import StageRecord
from alignment.report.compare import final_model
from alignment.report.two_runs import (
    Side,
    TwoRuns,
    changes_table,
    compare_two,
    metrics_table,
    paired_table,
    render,
    rows_in_words,
)
from alignment.rounds.references import find_one
from alignment.store.activity import announced
from alignment.store.durable import ensure_folder, replace
from alignment.store.errors import storage_errors
from alignment.store.runs import RunEntry, called, runs_in
from alignment.store.store import Store
from flows.printing import say
from flows.stores import existing_store

REPLIES = 3
"""Prompts that are printed; the page has more."""
LONGEST_REPLY = 200


def compare_runs(first: str, second: str, folder: Path, *, as_json: bool) -> None:
    """Print what differs and write the page.

    Raises:
        UsageError: a reference is unknown, or no evaluation of its model is in the store.
    """
    store = existing_store(folder)
    with announced(store, f"sft-dpo compare {first} {second}"):
        found = compare_two(store, *_labelled(_side(store, first), _side(store, second)))
        page = _written(store, found)
    if as_json:
        print(json.dumps({**found.numbers(), "page": str(page)}, indent=2))
        return
    _print(found)
    say(f"page: {page}")


def _side(store: Store, reference: str) -> Side:
    """A run's final model, or the model that a reference means."""
    entry = next(iter(called(store, reference)), None)
    if entry is not None and store.find(reference) is None:
        evaluation = store.open(entry.steps[_final_evaluation(store, entry)])
    else:
        record = find_one(store, reference)
        evaluation = _evaluation_of(store, record)
        entry = _run_with(store, evaluation.key, reference)
    model = EvalReport.model_validate(evaluation.output).model
    return Side(
        label=f"{entry.reference} {model}" if entry else f"{reference} ({model})",
        run=entry.reference if entry else "",
        model=evaluation.parents["model"],
        evaluation=evaluation.key,
        config=entry.config if entry else None,
        command=entry.command if entry else "",
    )


def _labelled(first: Side, second: Side) -> tuple[Side, Side]:
    """The sides, without the ids of their runs where the names alone tell them apart."""
    names = [side.run.rpartition("-")[0] for side in (first, second)]
    if first.run != second.run and names[0] == names[1]:
        return first, second
    a, b = (
        side.model_copy(update={"label": side.label.replace(side.run, name, 1)})
        for side, name in zip((first, second), names, strict=True)
    )
    return a, b


def _final_evaluation(store: Store, entry: RunEntry) -> str:
    """The name of the step that evaluated the model a run hands on."""
    gates = [name for name in entry.steps if re.fullmatch(r"gate-\d+", name)]
    if gates:
        verdict = GateResult.model_validate(store.open(entry.steps[gates[-1]]).output).verdict
        return _step_of(verdict.candidate if verdict.kept else verdict.champion)
    steps = (name for name in entry.steps if name.startswith("evaluate-"))
    labels = [name.removeprefix("evaluate-").replace("-", " ") for name in steps]
    return _step_of(final_model(labels) or "base")


def _step_of(label: str) -> str:
    return f"evaluate-{label.replace(' ', '-')}"


def _evaluation_of(store: Store, record: StageRecord) -> StageRecord:
    if record.output_as(EvalReport):
        return record
    records = store.records()
    made = {other.key for other in records if other.parents.get("adapter") == record.key}
    for other in reversed(records):
        if other.parents.get("model") in {record.key, *made} and other.output_as(EvalReport):
            return other
    raise UsageError(
        f"{record.name!r} ({record.key}) was not evaluated, so there is nothing to compare. Name a "
        "model that was, such as RUN/round-1: sft-dpo runs"
    )


def _run_with(store: Store, evaluation: str, reference: str) -> RunEntry | None:
    """The run that a reference names, if it names one, else the newest with this evaluation."""
    name = reference.partition("/")[0]
    having = [entry for entry in runs_in(store) if evaluation in entry.steps.values()]
    named = [entry for entry in having if entry.reference.startswith(name)]
    return next(iter([*named, *having, *called(store, name)]), None)


def _written(store: Store, found: TwoRuns) -> Path:
    name = re.sub(r"[^a-z0-9]+", "-", f"{found.first.label} {found.second.label}".lower())
    page = store.root / "reports" / f"compare-{name.strip('-')[:120]}.html"
    with storage_errors(store.root):
        ensure_folder(page.parent)
        replace("compare.page", page, render(found))
    return page


def _print(found: TwoRuns) -> None:
    say(found.headline)
    say()
    tables = (changes_table(found), metrics_table(found), paired_table(found))
    for table in tables:
        if table.rows:
            say(table.to_text())
            say()
    say(rows_in_words(found))
    for row in found.differing[:REPLIES]:
        say(f"\n> {_line(row.prompt.prompt)}")
        for label, reply in row.replies.items():
            say(f"{label}: {_line(reply.reply)}")


def _line(text: str) -> str:
    """A text on one line, as far as it fits."""
    one = " ".join(text.split()) or "(empty)"
    return one if len(one) <= LONGEST_REPLY else f"{one[:LONGEST_REPLY]}..."
