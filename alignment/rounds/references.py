"""The references by which a user names an artifact, and the keys that they stand for."""

import difflib

from alignment.errors import UsageError
from alignment.records.manifest import StageRecord
from alignment.records.refs import ModelRef
from alignment.rounds.line import RoundLine, all_lines
from alignment.store.runs import RunEntry, called, names_of_keys, of_run, runs_in, unfinished_runs
from alignment.store.store import Store

CHAMPION_WORDS = ("champion", "head")


def find_one(store: Store, reference: str) -> StageRecord:
    """The one record that a reference stands for, see `resolve`.

    Raises:
        UsageError: no artifact matches, or several do.
    """
    keys = resolve(store, reference)
    if not keys:
        _refuse_what_is_no_artifact(store, reference)
        raise UsageError(
            f"nothing called {reference!r} in {store.root}.{_near(store, reference)} "
            f"`sft-dpo show --store {store.root}` lists all artifacts and lines."
        )
    records = [record for key in keys if (record := store.find(key)) is not None]
    if len(records) > 1:
        runs = names_of_keys(store)
        listed = "\n".join(
            f"  {record.key}  {record.started}  {runs.get(record.key, '')}".rstrip()
            for record in records
        )
        raise UsageError(
            f"{reference!r} matches {len(records)} artifacts; use a key, or RUN/{reference} with a "
            f"run of `sft-dpo runs`:\n{listed}"
        )
    return records[0]


def find_model(store: Store, reference: str) -> StageRecord:
    """The model that a reference stands for; of a training, such as RUN/sft, the one made from it.

    What is neither is returned as it is.

    Raises:
        UsageError: no artifact matches, or several do.
    """
    record = find_one(store, reference)
    if record.output_as(ModelRef) is None:
        made = (one for one in store.records() if one.parents.get("adapter") == record.key)
        return next((one for one in made if one.output_as(ModelRef)), record)
    return record


def _refuse_what_is_no_artifact(store: Store, reference: str) -> None:
    """Say what a word means that names something, but no artifact."""
    if reference.partition(":")[0] in CHAMPION_WORDS:
        raise UsageError(f"no line of rounds in {store.root} has a champion of that name yet")
    name, _, part = reference.partition("/")
    for run in called(store, name):
        _refuse_open_round(store, run, part)
        models = [step.removeprefix("evaluate-") for step in run.steps if "evaluate-" in step]
        listed = ", ".join(f"{name}/{model}" for model in models)
        what = f"has no {part!r}" if part else "is a run"
        raise UsageError(f"{name} {what}; name a model or a step of it: {listed}")
    for begun in unfinished_runs(store):
        if name == begun.name or (name and begun.reference.startswith(name)):
            raise UsageError(
                f"{begun.reference} has not finished, and has no report, verdict or models by name "
                f"yet. To go on: {begun.command}   (what runs, or where it stopped: sft-dpo status)"
            )


def _refuse_open_round(store: Store, run: RunEntry, part: str) -> None:
    number = open_round(store, run)
    if number is not None and part == f"round-{number}":
        raise UsageError(
            f"round {number} of {run.name} has not finished. To go on: {continuing(run)}"
        )


def open_round(store: Store, run: RunEntry) -> int | None:
    """The round that has begun and not ended on the line that a run continues."""
    opened = RoundLine(store=store, name=run.line).state().open if run.line else None
    return opened.number if opened else None


def continuing(run: RunEntry) -> str:
    """The command that finishes the open round of a run's line."""
    return run.command.replace("sft-dpo run ", "sft-dpo round ", 1)


def _near(store: Store, reference: str) -> str:
    """What may have been meant, as a sentence; empty if nothing is close."""
    run, slash, part = reference.partition("/")
    known = {*(entry.name for entry in runs_in(store)), *(one.name for one in store.records())}
    near = difflib.get_close_matches(run, known, n=1)
    return f" Did you mean {near[0]}{slash}{part}?" if near else ""


def line_in(store: Store, name: str | None = None) -> RoundLine:
    """The line with this name; without a name, the only line of the store.

    Raises:
        UsageError: the store has several lines, and none was named.
    """
    lines = list(all_lines(store))
    if name is None and len(lines) > 1:
        listed = ", ".join(line.name for line in lines)
        raise UsageError(
            f"{store.root} has {len(lines)} lines of rounds ({listed}). Choose one with --line, or "
            "as champion:LINE."
        )
    if name is None and lines:
        return lines[0]
    return RoundLine(store=store, name=name or "main")


def resolve(store: Store, reference: str) -> list[str]:
    """The keys that match a reference: a key, a step's name, or the beginning of a key.

    Names take precedence: "sft" is the step, although the control's key begins with "sft", too.
    "champion" is the champion of the only line of the store, "champion:LINE" that of one of
    several; "head" is accepted for "champion". "practice/round-3" is a model of a run, see
    `of_run`, or of a round on the run's line. A label, such as "round 4", is a model of a line.

    Returns:
        All matches, newest first for a name; empty if nothing matches.
    """
    word, _, line = reference.partition(":")
    if word in CHAMPION_WORDS:
        champion = line_in(store, line or None).state().champion
        return [champion.model] if champion else []
    if "/" in reference:
        key = of_run(store, reference) or _of_round(store, reference)
        return [key] if key else []
    keys = store.list_keys()
    if reference in keys:
        return [reference]
    if named := [record.key for record in store.records() if record.name == reference]:
        return named[::-1]
    if labelled := [key for key in _labelled(store, reference) if key in keys]:
        return labelled
    return [key for key in keys if key.startswith(reference)]


def _of_round(store: Store, reference: str) -> str | None:
    """The model of a round from an inbox, by a run that continues its line: RUN/round-4."""
    run, _, part = reference.partition("/")
    for entry in called(store, run):
        history = RoundLine(store=store, name=entry.line).state().history if entry.line else ()
        for _, closed in reversed(history):
            if closed.head.label.replace(" ", "-") == part:
                return closed.head.model
    return None


def _labelled(store: Store, label: str) -> list[str]:
    """The models of all lines that are called this in tables and messages."""
    known = (
        one
        for line in all_lines(store)
        for state in (line.state(),)
        for one in (*state.champions, *(closed.head for _, closed in state.history))
    )
    return list(dict.fromkeys(one.model for one in known if one.label == label))
