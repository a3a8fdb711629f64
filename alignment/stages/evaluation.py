"""The step that measures one model on the held-out rows of every set."""

from collections.abc import Iterable
from typing import Any, Literal

from alignment.data.sieve import read_rows
from alignment.data.verifiers import VerifiablePrompt
from alignment.evaluate.suite import (
    DISTRIBUTIONS,
    PAIRS,
    EvaluationConfig,
    Yardstick,
    evaluate,
    questions,
)
from alignment.records import PairScore, PreferencePair
from alignment.stages.step import Context, Key, Outcome, Step, as_json, data_of, model_of, rows_of
from alignment.store import Store


class EvaluateModel(Step):
    """Measure one model on the held-out rows of every data set."""

    stage: Literal["evaluate"] = "evaluate"
    config: EvaluationConfig
    label: str
    model: Key
    data: tuple[Key, ...]
    base: Key | None
    parent: Key | None

    def build(self, context: Context) -> Outcome:
        """Score pairs, answer prompts, summarise."""
        from alignment.models.load import open_model

        store = context.store
        sets = [data_of(store, key) for key in self.data]
        pairs = list(_unique(rows_of(store, sets, "held_out", PreferencePair)))[: self.config.pairs]
        verifiable = _unique(rows_of(store, sets, "prompts", VerifiablePrompt))
        report = evaluate(
            self.config,
            label=self.label,
            model=open_model(
                model_of(store, self.model), store, dtype=self.config.dtype, quantised=False
            ),
            pairs=pairs,
            asked=questions(verifiable, pairs, limit=self.config.prompts),
            yardstick=self._yardstick(store),
            seed=self.seed,
            out=context.workspace.out,
            progress=context.progress,
        )
        placed = report.model_copy(
            update={
                "generations": f"store:{self.key}/{report.generations}",
                "pairs": f"store:{self.key}/{report.pairs}",
            }
        )
        metrics = {name: estimate.value for name, estimate in report.overall.items()}
        return Outcome(output=as_json(placed), metrics=metrics)

    def _yardstick(self, store: Store) -> Yardstick | None:
        if self.base is None or self.parent is None:
            return None
        base, parent = store.open(self.base), store.open(self.parent)
        return Yardstick(
            base=list(read_rows(store.folder(base.key) / PAIRS, PairScore)),
            distributions=store.folder(base.key) / DISTRIBUTIONS,
            parent=list(read_rows(store.folder(parent.key) / PAIRS, PairScore)),
        )


def _unique(rows: Iterable[Any]) -> Iterable[Any]:
    return {row.id: row for row in rows}.values()
