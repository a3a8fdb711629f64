"""The step that scores a round's pairs under the anchor, for rounds whose reference it is."""

from typing import Literal

from alignment.pipeline.step import Context, Key, Outcome, Step, data_of, rows_of
from alignment.pipeline.steps.training import open_policy
from alignment.records.refs import RowsRef
from alignment.records.text import PreferencePair
from alignment.records.training import PairReference
from alignment.scoring.engine import Engine
from alignment.store.durable import write
from alignment.store.jsonl import as_line
from alignment.train.settings import DpoConfig

ROWS = "reference.jsonl"


class ScoreReference(Step):
    """Log-probs of a round's pairs under `model`, loaded as the training loads its policy.

    `watched` are the sets of which so many held-out rows are evaluated during training.
    """

    stage: Literal["reference"] = "reference"
    title = "score pairs under anchor"
    produces = RowsRef
    parent_fields = ("model", "data", "watched")
    headline = ("pairs",)
    needs_gpu = True
    shares = True
    nominal_seconds = 15.0
    max_length: int
    evaluation_rows: int
    bf16: bool
    engine: Engine
    batch: int
    model: Key
    data: Key
    watched: tuple[Key, ...]

    def build(self, context: Context) -> Outcome:
        """Score the pairs and write a line for each."""
        store = context.store
        watched = [data_of(store, key) for key in self.watched]
        held_out = list(rows_of(store, watched, "held_out", PreferencePair))
        trained = rows_of(store, [data_of(store, self.data)], "train", PreferencePair)
        pairs = [*trained, *held_out[: self.evaluation_rows]]
        anchor = open_policy(store, self.model, bf16=self.bf16)
        found = self.engine.pair_logprobs(
            anchor.model, anchor.tokenizer, pairs, batch=self.batch, max_length=self.max_length
        )
        columns = (found.chosen, found.rejected, found.chosen_tokens, found.rejected_tokens)
        rows = [
            PairReference(
                id=pair.id,
                chosen=chosen,
                rejected=rejected,
                chosen_tokens=chosen_tokens,
                rejected_tokens=rejected_tokens,
            )
            for pair, chosen, rejected, chosen_tokens, rejected_tokens in zip(
                pairs, *(column.tolist() for column in columns), strict=True
            )
        ]
        write("reference.rows", context.workspace.out / ROWS, b"".join(map(as_line, rows)))
        ref = RowsRef(rows=f"store:{self.key}/{ROWS}", count=len(rows))
        return Outcome(output=ref, metrics={"pairs": float(len(rows))})


def reference_step(
    config: DpoConfig, name: str, *, anchor: str, policy: str, data: str, watched: tuple[str, ...]
) -> ScoreReference | None:
    """The step before the training `name`; None if its reference is the model it starts from.

    Args:
        config: settings of the training.
        name: name of the step.
        anchor: the anchor's key.
        policy: key of the model that the training starts from.
        data: key of the pairs.
        watched: keys of the sets evaluated during training.
    """
    if config.reference == "round_start" or anchor == policy:
        return None
    return ScoreReference(
        name=name,
        max_length=config.max_length,
        evaluation_rows=config.evaluation_rows,
        bf16=config.bf16,
        engine=config.engine,
        batch=2 * config.batch.per_device,
        model=anchor,
        data=data,
        watched=watched,
    )
