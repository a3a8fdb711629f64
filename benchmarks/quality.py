"""Quality of a model: held-out pairs, scored as trained, as handed over and as exported.

Scores are cached in files, so that the base is scored only once and an interrupted call can
continue. Not here: training, and what a training costs (`stage.py`).
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
from alignment.records.base import Frozen
from alignment.records.refs import ModelRef
from alignment.records.text import PreferencePair
from alignment.store import durable
from alignment.store.progress import Progress
from alignment.store.store import Store
from benchmarks.memory import free_memory


class Quality(Frozen):
    """One model on the held-out pairs.

    Attributes:
        nll, nll_gain: nats per token of the chosen replies, and the reduction from the base's.
        accuracy: share of pairs whose chosen reply is more likely than the rejected one.
        margin: mean implicit reward of the chosen over the rejected reply, without beta, in nats.
    """

    nll: float
    nll_gain: float
    accuracy: float
    margin: float


@dataclass(frozen=True)
class View:
    """How a model is loaded for scoring: its compute dtype, and whether in four bits."""

    dtype: str
    quantised: bool


FULL = View("float32", quantised=False)


@dataclass(frozen=True)
class QualityEvaluation:
    """Scores the models of one run on the held-out pairs of its rounds.

    Attributes:
        chain, store: the run's steps and their artifacts.
        folder: folder for scores and exported weights.
        pairs: number of pairs from all rounds together.
        max_length: maximum tokens of a row.
        dtype: compute dtype of the views that match the trainings.
        until: time on the monotonic clock after which no scoring starts.
    """

    chain: Chain
    store: Store
    folder: Path
    pairs: int
    max_length: int
    dtype: str
    until: float

    def views(self, trained: ModelRef, start: ModelRef) -> dict[str, Quality]:
        """One model as trained, handed over and exported, each compared with the base, same view.

        Raises:
            Interrupted: the time limit was reached.
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
        base = model_of(self.store, self.chain.base.key)
        base_chosen, base_rejected, _ = self._scores(base, view)
        pairs = list(zip(chosen, rejected, base_chosen, base_rejected, strict=True))
        return Quality(
            nll=-sum(chosen) / sum(tokens),
            nll_gain=(sum(chosen) - sum(base_chosen)) / sum(tokens),
            accuracy=sum(c > r for c, r, _, _ in pairs) / len(pairs),
            margin=sum((c - r) - (bc - br) for c, r, bc, br in pairs) / len(pairs),
        )

    def _scores(self, ref: ModelRef, view: View) -> tuple[list[float], list[float], list[int]]:
        """Summed log-probs of chosen and rejected held-out replies, and tokens of the chosen."""
        rows = self.chain.rounds[-1].pairs.key[-8:]
        name = f"{ref.ref_hash[:24]}-{view.dtype}-{view.quantised}-{rows}.json"
        file = self.folder / "scores" / name
        if not file.exists():
            if time.monotonic() > self.until:
                raise Interrupted("time limit reached before the stage was scored")
            file.parent.mkdir(exist_ok=True)
            durable.replace("benchmark.scores", file, json.dumps(self._score(ref, view)))
        chosen, rejected, tokens = json.loads(file.read_text())
        return chosen, rejected, tokens

    def _score(self, ref: ModelRef, view: View) -> tuple[list[float], list[float], list[int]]:
        from alignment.models.load import open_model
        from alignment.scoring.logprobs import encode

        free_memory()
        loaded = open_model(ref, self.store, dtype=view.dtype, quantised=view.quantised)
        rows = [
            encode(loaded.tokenizer, pair.prompt, reply, max_length=self.max_length)
            for pair in self._held_out()
            for reply in (pair.chosen, pair.rejected)
        ]
        engine = self.chain.rounds[0].train.config.engine
        sums = [float(row.sum()) for row in engine.reply_logprobs(loaded.model, rows, batch=16)]
        return sums[::2], sums[1::2], [len(row.reply) for row in rows[::2]]

    def _held_out(self) -> Iterator[PreferencePair]:
        """An equal number of held-out pairs from each round's set."""
        for round_ in self.chain.rounds:
            sets = [data_of(self.store, round_.pairs.key)]
            pairs = rows_of(self.store, sets, "held_out", PreferencePair)
            yield from islice(pairs, self.pairs // len(self.chain.rounds))

    def _as_bf16(self, ref: ModelRef) -> ModelRef:
        """The model's bfloat16 export: all deltas added to the base, cast once."""
        from alignment.models.description import describe
        from alignment.models.merge import plan_merge, write_merge

        if not ref.adapters and ref.base.dtype == "bfloat16":
            return ref  # its handover already was that merge
        folder = self.folder / "exported" / ref.ref_hash[:24]
        if not (folder / "done").exists():
            plan = plan_merge(ref)
            write_merge(
                plan, store=self.store, dtype="bfloat16", folder=folder, progress=Progress()
            )
            (folder / "done").touch()
        base, tokenizer = describe(folder, f"folder:{folder}", None)
        return ref.model_copy(update={"base": base, "tokenizer": tokenizer, "adapters": ()})
