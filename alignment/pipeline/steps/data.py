"""The data steps, which turn sources into prepared sets."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from alignment.data.build.report import SET_SIGNATURES, Prepared
from alignment.data.build.settings import ConversationSetConfig, Lengths, PairSetConfig
from alignment.data.split import PromptKeys
from alignment.errors import DataError
from alignment.pipeline.step import Context, Key, Outcome, Step, model_of
from alignment.records.refs import DataRef
from alignment.store.store import Store

COUNTS = ("kept", "held_out", "quarantined")
"""Metrics of a prepared set."""


class PrepareSet(Step):
    """Read, filter and split one set of rows; prompts of the `earlier` sets are excluded.

    `digest` identifies the content of the sources.
    """

    # 1 wrote no report.json; 2 read fewer columns and fewer shapes of files; 3 took every added
    # token for a control token; 4 trained on what its source marks as context or deleted
    version = 5
    produces = DataRef
    parent_fields = ("base", "earlier")
    headline = COUNTS
    in_child = False
    nominal_seconds = 4.0
    digest: str
    base: Key
    earlier: dict[str, Key] = Field(default_factory=dict)

    def _arguments(self, context: Context) -> dict[str, Any]:
        """The arguments that `prepare_conversations` and `prepare_pairs` share."""
        return {
            "tokenizer": tokenizer_of(context, self.base),
            "earlier": used_prompts(context.store, self.earlier),
            "earlier_signatures": _signatures(context.store, self.earlier),
            "seed": self.seed,
            "out": context.workspace.out,
            "on_progress": context.progress.update,
        }

    def _check_unchanged(self, config: ConversationSetConfig | PairSetConfig) -> None:
        """After reading, refuse sources that are no longer those of this step's key."""
        if config.digest() != self.digest:
            raise DataError(
                "a source was changed while the run was going on, so nothing was kept of what was "
                "read. Run the command again to use its present content."
            )


class PrepareConversations(PrepareSet):
    """Read, filter and split the conversations for SFT."""

    stage: Literal["conversations"] = "conversations"
    title = "prepare conversations"
    config: ConversationSetConfig
    max_length: int

    def build(self, context: Context) -> Outcome:
        """Write the training, held-out and quarantined rows."""
        from alignment.data.build.prepare import prepare_conversations

        with prefix_errors(self):
            prepared = prepare_conversations(
                self.config, max_length=self.max_length, **self._arguments(context)
            )
            self._check_unchanged(self.config)
        return prepared_outcome(self, prepared)


class PreparePairs(PrepareSet):
    """Read, filter and split the preference pairs of one round, or of the evaluation."""

    stage: Literal["pairs"] = "pairs"
    title = "prepare pairs"
    config: PairSetConfig
    lengths: Lengths

    def build(self, context: Context) -> Outcome:
        """Write the training, held-out and quarantined rows, and prompts with verifiers."""
        from alignment.data.build.prepare import prepare_pairs

        with prefix_errors(self):
            prepared = prepare_pairs(self.config, lengths=self.lengths, **self._arguments(context))
            self._check_unchanged(self.config)
        return prepared_outcome(self, prepared)


def tokenizer_of(context: Context, base: str) -> Any:
    """The tokenizer in the context, or that of the base model with this key."""
    from alignment.models.tokenizer import open_tokenizer

    return context.tokenizer or open_tokenizer(model_of(context.store, base), context.store)


def used_prompts(store: Store, earlier: dict[str, str]) -> dict[str, PromptKeys]:
    """The prompts used by each set, by the name of the set."""
    return {
        name: PromptKeys.read(store.folder(store.open(key).key) / "prompt_keys.json")
        for name, key in earlier.items()
    }


def _signatures(store: Store, earlier: dict[str, str]) -> dict[str, Path]:
    places = {
        name: store.folder(store.open(key).key) / SET_SIGNATURES for name, key in earlier.items()
    }
    return {name: path for name, path in places.items() if path.exists()}


@contextlib.contextmanager
def prefix_errors(step: Step) -> Iterator[None]:
    """Prefix data errors with the name of the step, since a run prepares several sets."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{step.name}: {error}") from error


def prepared_outcome(step: Step, prepared: Prepared) -> Outcome:
    """The outcome of a data step: the set with its uris in the store, and row counts."""
    ref = prepared.ref
    files = {
        role: f"store:{step.key}/{getattr(ref, role)}"
        for role in ("train", "held_out", "prompts", "quarantine")
        if getattr(ref, role) is not None
    }
    metrics = {"kept": ref.kept, "held_out": ref.held, "quarantined": sum(ref.quarantined.values())}
    return Outcome(
        output=ref.model_copy(update=files),
        metrics={name: float(count) for name, count in metrics.items()},
        notes=prepared.report.notes,
    )
