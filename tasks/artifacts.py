"""What a run page shows of a step: a card, a row for each adapter, a bar while it is built.

These are copies for people: no code reads them back, and a server that does not take one costs a
line in the log, never the run. The truth is the manifest in the store.
"""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.logging import get_run_logger

from alignment.pipeline.steps import headline_of
from alignment.records import AdapterRef, StageRecord
from alignment.report.metric import show_any, show_seconds
from alignment.report.table import Table, escape_markdown
from alignment.store.progress import Mark
from alignment.store.store import Store

BAR_SECONDS = 5.0
"""Each move of a bar is one call to the server, so there is none sooner after the last."""


def slug(text: str) -> str:
    """The text as Prefect wants an artifact's key: small letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def headline(record: StageRecord) -> str:
    """The step's two or three numbers, or what it has to say, on one line."""
    numbers = headline_of(record).items()
    shown = " · ".join(f"{_words(name)} {show_any(value)}" for name, value in numbers)
    return shown or "; ".join(record.notes)


def describe(mark: Mark) -> str:
    """'training 12 of 300, loss .693'."""
    total = f" of {mark.total}" if mark.total else ""
    numbers = "".join(f", {_words(name)} {show_any(n)}" for name, n in mark.numbers.items())
    return f"{mark.phase} {mark.done}{total}{numbers}"


def card(record: StageRecord, folder: Path) -> str:
    """Markdown: what the step says, what it measured, where it lies and what it came from."""
    numbers = [[_words(name), show_any(value)] for name, value in record.metrics.items()]
    parents = [[f"from {role}", key] for role, key in record.parents.items()]
    size = sum(file.size for file in record.files) / 1e6
    facts = [
        ["key", record.key],
        ["folder", str(folder)],
        ["files", f"{len(record.files)}, {size:,.1f} MB"],
        ["built", f"{record.started} in {show_seconds(record.seconds)}"],
        ["code", record.code.revision],
        *parents,
    ]
    parts = [
        f"# {escape_markdown(record.name)}",
        *(f"- {escape_markdown(note)}" for note in record.notes),
        Table.of("Measured", ["", "Value"], numbers).to_markdown() if numbers else "",
        Table.of("Where from", ["", ""], facts, align="ll").to_markdown(),
    ]
    return "\n\n".join(part for part in parts if part)


def adapter_row(record: StageRecord, ref: AdapterRef, store: Store) -> dict[str, str | float]:
    """One adapter as a row: what and where it is, its digest, what it was trained on, metrics."""
    return {
        "kind": record.stage,
        "key": record.key,
        "path": str(store.path(ref.uri).absolute()),
        "sha256": ref.sha256,
        "r": ref.r,
        "alpha": ref.alpha,
        "trained_on": record.parents.get("policy", ""),
        **record.metrics,
    }


def publish(record: StageRecord, store: Store, *, prefix: str, how: str) -> None:
    """Put a finished step on the run page.

    Args:
        record: of the step.
        store: which holds it.
        prefix: begins the artifacts' keys: the name of the run's config.
        how: "built" or "reused".
    """
    key, said = slug(f"{prefix}-{record.name}"), f"{how}: {escape_markdown(headline(record))}"
    with best_effort():
        folder = store.folder(record.key).absolute()
        create_markdown_artifact(card(record, folder), key=key, description=said)
    if adapter := record.output_as(AdapterRef):
        with best_effort():
            row = adapter_row(record, adapter, store)
            create_table_artifact([row], key=f"{key}-adapter", description=said)


def publish_report(prefix: str, *, headline: str, markdown: str, table: Table, page: Path) -> None:
    """Put the run's result on the run page: the verdict, the table, the way to the whole report."""
    said = escape_markdown(headline)
    with best_effort():
        create_markdown_artifact(markdown, key=slug(f"{prefix}-report"), description=said)
        rows = [dict(zip(table.columns, (c.plain for c in row), strict=True)) for row in table.rows]
        create_table_artifact(rows, key=slug(f"{prefix}-models"), description=said)
        uri, where = page.absolute().as_uri(), f"{said}\n\nOn the worker's disk: `{page}`"
        create_link_artifact(
            uri, link_text=page.name, key=slug(f"{prefix}-page"), description=where
        )


class ProgressBar:
    """A progress artifact that exists from the first mark on and moves at most every 5 s."""

    def __init__(self, name: str, *, prefix: str) -> None:
        self._key = slug(f"{prefix}-{name}-progress")
        self._artifact: UUID | None = None
        self._moved = 0.0

    def update(self, mark: Mark) -> None:
        """Move the bar, unless it has just moved."""
        if time.monotonic() - self._moved >= BAR_SECONDS:
            self._moved = time.monotonic()
            self._show(100 * mark.done / mark.total if mark.total else 0.0, describe(mark))

    def finish(self, said: str) -> None:
        """Fill the bar, where there is one."""
        if self._artifact is not None:
            self._show(100.0, said)

    def _show(self, percent: float, said: str) -> None:
        with best_effort():
            if self._artifact is None:
                created = create_progress_artifact(percent, self._key, said)
                assert isinstance(created, UUID)  # a coroutine only inside an event loop
                self._artifact = created
            else:
                update_progress_artifact(self._artifact, percent, said)


@contextmanager
def best_effort() -> Iterator[None]:
    """Turn a failure to show something into one line of the log."""
    try:
        yield
    except Exception as error:
        get_run_logger().warning("could not show this step's artifact: %r", error)


def _words(name: str) -> str:
    return escape_markdown(re.sub("^eval_", "held-out ", name).replace("_", " "))
