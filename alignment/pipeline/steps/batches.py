"""The steps of a round from an inbox: a batch is copied in; batches become pairs to train on."""

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
from alignment.pipeline.steps.data import naming, prepared_outcome, tokenizer_of, used_prompts
from alignment.records import BatchFile, DataRef, PreferencePair
from alignment.store.durable import failpoint_span, remove
from alignment.store.jsonl import read_rows
from alignment.store.store import Store


class TakeBatch(Step):
    """Copy one batch into the store, so that it can be trained on again when the inbox is empty.

    Its key is that of its content. Where it lay is no part of that, nor of the step's JSON.
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
        """The step for a file of the inbox."""
        return cls(name=f"batch-{digest[:12]}", digest=digest, file=file)

    def build(self, context: Context) -> Outcome:
        """Copy the bytes and check that they are the ones that were looked at."""
        out = context.workspace.out
        for left in out.iterdir():  # by an attempt that was killed
            remove("batch.clear", left)
        copy = out / PurePath(self.file).name
        with failpoint_span("batch.copy"), files.reading(self.file):
            files.patiently(self.file, lambda: _copy(self.file, copy))
        if files.sha256(str(copy)) != self.digest:
            raise DataError(f"{self.file} changed while it was copied; it is taken next time.")
        size = float(copy.stat().st_size)
        return Outcome(output=BatchFile(file=copy.name), metrics={"bytes": size})


def _copy(file: str, to: Path) -> None:
    with files.opened(file) as source, to.open("wb") as target:
        shutil.copyfileobj(source, target)


class PrepareBatches(Step):
    """Clean the pairs of some batches, against everything that the champion has seen.

    Attributes:
        earlier: all sets of the champion's lineage and those it was measured on, by name.
        trained: of these the pairs that a round was trained on.
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
        """Write the rows to train on, old ones to repeat among them, and the quarantined ones."""
        from alignment.data.build.prepare import prepare_pairs

        store, out = context.store, context.workspace.out
        sets = {name: data_of(store, key) for name, key in self.trained.items()}
        trained = {
            name: list(read_rows(store.path(ref.train), PreferencePair))
            for name, ref in sets.items()
        }
        with naming(self):
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
    """The copy of a batch, verified."""
    batch = BatchFile.model_validate(store.open(key).output)
    return store.path(f"store:{key}/{batch.file}")
