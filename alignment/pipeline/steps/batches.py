"""The data steps of a round from an inbox: copy a batch, then turn batches into training pairs."""

import shutil
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Literal

from pydantic import Field

from alignment.data.build.replay import add_replay
from alignment.data.build.settings import Lengths, PairSetConfig
from alignment.data.formats import Format
from alignment.data.read import files
from alignment.data.read.sources import FileSource
from alignment.errors import DataError
from alignment.pipeline.step import Context, Key, Outcome, Step, data_of
from alignment.pipeline.steps.data import (
    prefix_errors,
    prepared_outcome,
    tokenizer_of,
    used_prompts,
)
from alignment.records.refs import BatchFile, DataRef
from alignment.records.text import PreferencePair
from alignment.store.durable import failpoint_span, remove
from alignment.store.jsonl import read_rows
from alignment.store.store import MANIFEST, Store


class TakeBatch(Step):
    """Copy one batch into the store, so that rounds can be retrained after it leaves the inbox.

    The key depends on the content only: the file's path is not part of the step's JSON.
    """

    stage: Literal["batch"] = "batch"
    title = "take batch"
    produces = BatchFile
    in_child = False
    nominal_seconds = 1.0
    digest: str
    file: str = Field(exclude=True)

    @classmethod
    def of(cls, digest: str, file: str) -> "TakeBatch":
        """The step for a file in the inbox."""
        return cls(name=f"batch-{digest[:12]}", digest=digest, file=file)

    def build(self, context: Context) -> Outcome:
        """Copy the file and check that its content has not changed since it was listed."""
        out = context.workspace.out
        for leftover in out.iterdir():  # of an attempt that was killed
            remove("batch.clear", leftover)
        copy = out / _stored_name(self.file)
        with failpoint_span("batch.copy"), files.data_errors(self.file):
            files.with_retries(self.file, lambda: _copy(self.file, copy))
        if files.sha256(str(copy)) != self.digest:
            raise DataError(
                f"{self.file} changed while it was copied; the next round will read it again."
            )
        size = float(copy.stat().st_size)
        return Outcome(output=BatchFile(file=copy.name), metrics={"bytes": size})


def _stored_name(file: str) -> str:
    """The name of its copy: its own, unless that is the name of the manifest."""
    name = PurePath(file).name
    return f"batch-{name}" if name == MANIFEST else name


def _copy(file: str, to: Path) -> None:
    with files.opened(file) as source, to.open("wb") as target:
        shutil.copyfileobj(source, target)


class PrepareBatches(Step):
    """Filter the pairs of some batches against everything that the champion has seen.

    Attributes:
        earlier: all sets in the champion's lineage and in its evaluation, by name.
        trained: those of `earlier` that DPO rounds were trained on.
    """

    stage: Literal["intake"] = "intake"
    title = "prepare batches"
    produces = DataRef
    parent_fields = ("batches", "base", "earlier", "trained")
    headline = ("new", "kept", "quarantined")
    in_child = False
    nominal_seconds = 4.0
    batches: tuple[Key, ...]
    format: Format
    task_type: str
    replay_share: float
    lengths: Lengths
    base: Key
    earlier: dict[str, Key]
    trained: dict[str, Key]

    def build(self, context: Context) -> Outcome:
        """Write the rows to train on, including replayed ones, and the quarantined rows."""
        from alignment.data.build.prepare import prepare_pairs

        store, out = context.store, context.workspace.out
        sets = {name: data_of(store, key) for name, key in self.trained.items()}
        trained = {
            name: list(read_rows(store.path(ref.train), PreferencePair))
            for name, ref in sets.items()
        }
        with prefix_errors(self):
            prepared = prepare_pairs(
                self._set(store),
                lengths=self.lengths,
                tokenizer=tokenizer_of(context, self.base),
                earlier=used_prompts(store, self.earlier),
                trained=trained,
                seed=self.seed,
                out=out,
            )
        new = prepared.ref.kept
        prepared = add_replay(
            prepared, trained, share=self.replay_share, salt=str(self.seed), out=out
        )
        outcome = prepared_outcome(self, prepared)
        return replace(outcome, metrics={**outcome.metrics, "new": float(new)})

    def _set(self, store: Store) -> PairSetConfig:
        return PairSetConfig(
            sources=tuple(
                FileSource(
                    path=str(batch_file(store, key)), format=self.format, task_type=self.task_type
                )
                for key in self.batches
            ),
            held_out_share=0.0,
            max_malformed_share=1.0,
            min_rows=0,
        )


def batch_file(store: Store, key: str) -> Path:
    """The stored copy of a batch, after verification."""
    batch = BatchFile.model_validate(store.open(key).output)
    return store.path(f"store:{key}/{batch.file}")
