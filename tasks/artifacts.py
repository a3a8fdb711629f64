"""The Prefect artifacts on a run page: a card per step, a row per adapter, a progress bar.

They are copies for people: no code reads them back, and if the server rejects one, the run only
logs a warning. The source of truth is the manifest in the store.
"""

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote
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
from alignment.records.manifest import StageRecord
from alignment.records.refs import AdapterRef
from alignment.report.assemble import ReportFiles
from alignment.report.metric import show_any, show_seconds
from alignment.report.table import Table, escape_markdown
from alignment.store.progress import Mark
from alignment.store.store import Store

REPORTS = "SFT_DPO_REPORTS"
"""Variable with the address at which a worker serves the reports below its folder."""
BAR_SECONDS = 5.0
"""Minimum seconds between two updates of a bar, since each is a call to the server."""


def slug(text: str) -> str:
    """The text as an artifact key, which Prefect limits to lower-case letters, digits, dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def headline(record: StageRecord) -> str:
    """The headline metrics of a step on one line, or its notes if it has none."""
    numbers = headline_of(record).items()
    shown = " · ".join(f"{_readable(name)} {show_any(value)}" for name, value in numbers)
    return shown or "; ".join(record.notes)


def describe(mark: Mark) -> str:
    """'training 12 of 300, loss .693'."""
    total = f" of {mark.total}" if mark.total else ""
    numbers = "".join(f", {_readable(name)} {show_any(n)}" for name, n in mark.shown.items())
    return f"{mark.phase} {mark.done}{total}{numbers}"


def card(record: StageRecord, folder: Path) -> str:
    """The step as Markdown: its notes, metrics, location and parents."""
    numbers = [[_readable(name), show_any(value)] for name, value in record.metrics.items()]
    parents = [[f"from {role}", key] for role, key in record.parents.items()]
    size = sum(file.size for file in record.files) / 1e6
    facts = [
        ["key", record.key],
        ["folder", str(folder)],
        ["files", f"{len(record.files)}, {size:,.1f} MB"],
        ["built", f"{record.started} in {show_seconds(record.seconds)}"],
        ["code", record.code.revision],
        *([["device", record.hardware["device"]]] if "device" in record.hardware else []),
        *parents,
    ]
    parts = [
        f"# {escape_markdown(record.name)}",
        *(f"- {escape_markdown(note)}" for note in record.notes),
        Table.of("Metrics", ["", "Value"], numbers).to_markdown() if numbers else "",
        Table.of("Origin", ["", ""], facts, align="ll").to_markdown(),
    ]
    return "\n\n".join(part for part in parts if part)


def adapter_row(record: StageRecord, ref: AdapterRef, store: Store) -> dict[str, str | float]:
    """One adapter as a row: kind, location, digest, the model it was trained on, metrics."""
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
        record: the record of the step.
        store: the store that holds its artifact.
        prefix: prefix of the Prefect keys, the name of the run's config.
        how: "built" or "reused".
    """
    key, description = (
        slug(f"{prefix}-{record.name}"),
        f"{how}: {escape_markdown(headline(record))}",
    )
    with best_effort():
        folder = store.folder(record.key).absolute()
        create_markdown_artifact(card(record, folder), key=key, description=description)
    if adapter := record.output_as(AdapterRef):
        with best_effort():
            row = adapter_row(record, adapter, store)
            create_table_artifact([row], key=f"{key}-adapter", description=description)


def publish_report(prefix: str, files: ReportFiles) -> None:
    """Put the result on the run page: the verdict, the table, and a link to the full report.

    Called by a flow and not by a task, so that these are artifacts of the run itself.
    """
    description = escape_markdown(files.headline)
    with best_effort():
        key = slug(f"{prefix}-report")
        create_markdown_artifact(files.markdown, key=key, description=description)
        table = files.table
        rows = [dict(zip(table.columns, (c.plain for c in row), strict=True)) for row in table.rows]
        create_table_artifact(rows, key=slug(f"{prefix}-models"), description=description)
        where = f"{description}\n\nOn the worker's disk: `{files.html}`"
        create_link_artifact(
            link_to(files.html),
            link_text=files.html.name,
            key=slug(f"{prefix}-page"),
            description=where,
        )


def link_to(page: Path) -> str:
    """Where a browser finds a report: at the worker's server, or else on its disk."""
    server, below = os.environ.get(REPORTS), page.absolute()
    if server and below.is_relative_to(Path.cwd()):
        return f"{server}/{quote(below.relative_to(Path.cwd()).as_posix())}"
    return below.as_uri()


def publish_notes(prefix: str, notes: tuple[str, ...]) -> None:
    """Put the files that a round does not use on the run page, and why."""
    if notes:
        listed = "\n".join(f"- {escape_markdown(note)}" for note in notes)
        with best_effort():
            create_markdown_artifact(
                f"# Not used\n\n{listed}",
                key=slug(f"{prefix}-inbox"),
                description=f"{len(notes)} files in the inbox are not used",
            )


class ProgressBar:
    """A progress artifact, created at the first mark and updated at most every 5 s."""

    def __init__(self, name: str, *, prefix: str) -> None:
        self._key = slug(f"{prefix}-{name}-progress")
        self._artifact: UUID | None = None
        self._updated = 0.0

    def update(self, mark: Mark) -> None:
        """Update the bar, unless the last update was too recent."""
        if time.monotonic() - self._updated >= BAR_SECONDS:
            self._updated = time.monotonic()
            self._show(100 * mark.done / mark.total if mark.total else 0.0, describe(mark))

    def finish(self, text: str) -> None:
        """Fill the bar, if it was created."""
        if self._artifact is not None:
            self._show(100.0, text)

    def _show(self, percent: float, text: str) -> None:
        with best_effort():
            if self._artifact is None:
                created = create_progress_artifact(percent, self._key, text)
                assert isinstance(created, UUID)  # a coroutine only inside an event loop
                self._artifact = created
            else:
                update_progress_artifact(self._artifact, percent, text)


@contextmanager
def best_effort() -> Iterator[None]:
    """Log a failure to show something as a warning instead of raising it."""
    try:
        yield
    except Exception as error:
        get_run_logger().warning("could not show this step's artifact: %r", error)


def _readable(name: str) -> str:
    return escape_markdown(re.sub("^eval_", "held-out ", name).replace("_", " "))
