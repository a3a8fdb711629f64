"""How good a model is: held-out pairs, scored as it was trained, handed over and exported.

A model's scores are kept in a file, so that the base is scored once and a call that its time ended
goes on. Not here: training, and what a training costs (`stage.py`).
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from alignment.errors import Interrupted
from alignment.pipeline.chain import Chain
from alignment.pipeline.step import data_of, model_of, rows_of
from alignment.records import Frozen, ModelRef, PreferencePair
from alignment.store import durable
from alignment.store.progress import Progress
from alignment.store.store import Store
from benchmarks.memory import forget


class Quality(Frozen):
    """One model on the held-out pairs.

    Attributes:
        nll, nll_gain: nats per token of the chosen replies, and how much less than the base's.
        accuracy: share of pairs whose chosen reply is the likelier one.
        margin: mean implicit reward of the chosen over the rejected reply, beta left out, nats.
    """

    nll: float
    nll_gain: float
    accuracy: float
    margin: float


@dataclass(frozen=True)
class View:
    """How a model is loaded to be scored: the type it computes in, and whether in four bits."""

    dtype: str
    quantised: bool


FULL = View("float32", quantised=False)


@dataclass(frozen=True)
class EvaluationPrompts:
    """What the models of one run are scored on.

    Attributes:
        woven, store: the run, whose rounds' held-out pairs they are, and where it lies.
        folder: for scores and exported weights.
        pairs: how many, of all rounds together.
        max_length: tokens of a row.
        dtype: that a model computes in where it is seen as the trainings see it.
        until: on the monotonic clock; no scoring begins after it.
    """

    woven: Chain
    store: Store
    folder: Path
    pairs: int
    max_length: int
    dtype: str
    until: float

    def views(self, trained: ModelRef, start: ModelRef) -> dict[str, Quality]:
        """One model as trained, as handed over and as exported, each against the base seen alike.

        Raises:
            Interrupted: the time is over.
        """
        quantised = View(self.dtype, quantised=True)
        return {
            "trained": self._quality(trained, quantised),
            "start": self._quality(start, quantised),
            "exported bf16": self._quality(self._as_bf16(start), FULL),
            "unquantised": self._quality(start, FULL),
        }

    def _quality(self, ref: ModelRef, view: View) -> Quality:
        chosen, rejected, tokens = self._scores(ref, view)
        base = model_of(self.store, self.woven.base.key)
        own_chosen, own_rejected, _ = self._scores(base, view)
        pairs = list(zip(chosen, rejected, own_chosen, own_rejected, strict=True))
        return Quality(
            nll=-sum(chosen) / sum(tokens),
            nll_gain=(sum(chosen) - sum(own_chosen)) / sum(tokens),
            accuracy=sum(c > r for c, r, _, _ in pairs) / len(pairs),
            margin=sum((c - r) - (bc - br) for c, r, bc, br in pairs) / len(pairs),
        )

    def _scores(self, ref: ModelRef, view: View) -> tuple[list[float], list[float], list[int]]:
        """Summed log-probs of chosen and rejected held-out replies, and tokens of the chosen."""
        rows = self.woven.rounds[-1].pairs.key[-8:]
        name = f"{ref.ref_hash[:24]}-{view.dtype}-{view.quantised}-{rows}.json"
        kept = self.folder / "scores" / name
        if not kept.exists():
            if time.monotonic() > self.until:
                raise Interrupted("time is over before the stage was scored")
            kept.parent.mkdir(exist_ok=True)
            durable.replace("benchmark.scores", kept, json.dumps(self._score(ref, view)))
        chosen, rejected, tokens = json.loads(kept.read_text())
        return chosen, rejected, tokens

    def _score(self, ref: ModelRef, view: View) -> tuple[list[float], list[float], list[int]]:
        from alignment.models.load import open_model
        from alignment.scoring.logprobs import encode

        forget()
        loaded = open_model(ref, self.store, dtype=view.dtype, quantised=view.quantised)
        rows = [
            encode(loaded.tokenizer, pair.prompt, reply, max_length=self.max_length)
            for pair in self._held_out()
            for reply in (pair.chosen, pair.rejected)
        ]
        engine = self.woven.rounds[0].train.config.engine
        sums = [float(row.sum()) for row in engine.reply_logprobs(loaded.model, rows, batch=16)]
        return sums[::2], sums[1::2], [len(row.reply) for row in rows[::2]]

    def _held_out(self) -> Iterator[PreferencePair]:
        """As many held-out pairs of each round's set, so that none is left out of the score."""
        for round_ in self.woven.rounds:
            sets = [data_of(self.store, round_.pairs.key)]
            pairs = rows_of(self.store, sets, "held_out", PreferencePair)
            yield from islice(pairs, self.pairs // len(self.woven.rounds))

    def _as_bf16(self, ref: ModelRef) -> ModelRef:
        """The model as its bfloat16 export would be: all deltas on the base, cast once."""
        from alignment.models.description import describe
        from alignment.models.merge import plan_merge, write_merge

        if not ref.adapters and ref.base.dtype == "bfloat16":
            return ref  # its hand-over was that already
        folder = self.folder / "exported" / ref.ref_hash[:24]
        if not (folder / "done").exists():
            plan = plan_merge(ref)
            write_merge(
                plan, store=self.store, dtype="bfloat16", folder=folder, progress=Progress()
            )
            (folder / "done").touch()
        base, tokenizer = describe(folder, f"folder:{folder}", None)
        return ref.model_copy(update={"base": base, "tokenizer": tokenizer, "adapters": ()})
