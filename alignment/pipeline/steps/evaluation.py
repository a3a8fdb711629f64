"""The step that evaluates a model on the held-out rows of every set."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

from alignment.data.verifiers import VerifiablePrompt
from alignment.errors import DataError
from alignment.evaluate.evaluators import headline_metrics
from alignment.evaluate.settings import EvaluationConfig
from alignment.evaluate.tasks import digest_of_tasks
from alignment.pipeline.step import Context, Key, Outcome, Step, data_of, model_of, rows_of
from alignment.records.base import digest_of
from alignment.records.evaluation import EvalReport, PairScore
from alignment.records.text import PreferencePair
from alignment.store.jsonl import read_rows
from alignment.store.store import Store

if TYPE_CHECKING:
    from alignment.evaluate.suite import BaselineScores
    from alignment.models.load import LoadedModel


class EvaluateModel(Step):
    """Evaluate one model on the held-out rows of every data set.

    Attributes:
        benchmarks: digest of the suites and lm-eval tasks (`digest_of_benchmarks`).
    """

    stage: Literal["evaluate"] = "evaluate"
    version = 4  # intervals of rows that share a prompt, and more metrics
    title = "evaluate"
    produces = EvalReport
    parent_fields = ("model", "data", "base", "parent")
    headline = headline_metrics()
    notes_matter = True
    needs_gpu = True
    shares = True
    nominal_seconds = 29.0
    config: EvaluationConfig
    label: str
    model: Key
    data: tuple[Key, ...]
    base: Key | None
    parent: Key | None
    benchmarks: str | None = None

    def build(self, context: Context) -> Outcome:
        """Score pairs, generate replies, summarise; measure the distance from the trained model."""
        from alignment.evaluate.suite import eval_prompts, evaluate
        from alignment.models.load import open_model

        store = context.store
        sets = [data_of(store, key) for key in self.data]
        pairs = list(_unique(rows_of(store, sets, "held_out", PreferencePair)))[: self.config.pairs]
        verifiable = _unique(rows_of(store, sets, "prompts", VerifiablePrompt))
        ref = model_of(store, self.model)
        model = open_model(ref, store, dtype=self.config.dtype, quantised=False)
        report = evaluate(
            self.config,
            label=self.label,
            model=model,
            pairs=pairs,
            prompts=eval_prompts(verifiable, pairs, limit=self.config.prompts),
            baseline=self._baseline(store),
            seed=self.seed,
            out=context.workspace.out,
            progress=context.progress,
            kept=store.root / "lm-eval",
        )
        if self.benchmarks is not None and self.benchmarks != digest_of_benchmarks(self.config):
            raise DataError(
                "a file of evaluation.suites or of evaluation.harness was changed since the run "
                "began; run the same command again"
            )
        stored = report.model_copy(
            update={
                "generations": f"store:{self.key}/{report.generations}",
                "pairs": f"store:{self.key}/{report.pairs}",
                "tasks": report.tasks and f"store:{self.key}/{report.tasks}",
            }
        )
        metrics = {name: estimate.value for name, estimate in report.overall.items()}
        metrics |= self._from_training(store, model)
        notes = (_UNCHECKED.format(report.unchecked),) if report.unchecked else ()
        return Outcome(output=stored, metrics=metrics, notes=notes)

    def _baseline(self, store: Store) -> "BaselineScores | None":
        from alignment.evaluate.suite import DISTRIBUTIONS, PAIRS, BaselineScores

        if self.base is None or self.parent is None:
            return None
        base, parent = store.open(self.base), store.open(self.parent)
        return BaselineScores(
            base=list(read_rows(store.folder(base.key) / PAIRS, PairScore)),
            distributions=store.folder(base.key) / DISTRIBUTIONS,
            parent=list(read_rows(store.folder(parent.key) / PAIRS, PairScore)),
            noise=EvalReport.model_validate(base.output).noise,
        )

    def _from_training(self, store: Store, model: "LoadedModel") -> dict[str, float]:
        """The distance of the evaluated model from the one that was trained.

        Training may have run on 4-bit weights. The evaluation, like the export, always uses full
        weights, whether the adapter was merged or stacked. Where the handover loaded the same
        weights in the same dtype, it has measured this already.
        """
        from alignment.models.merge import plan_merge
        from alignment.scoring.probe import divergence, probe_of

        adapters = plan_merge(model.ref).adapters
        if not adapters:
            return {}
        handed = store.open(self.model)
        same = model.ref.quantisation is None and handed.config.get("dtype") == self.config.dtype
        found = {name: handed.metrics[name] for name in _DISTANCES if name in handed.metrics}
        if not (same and found):
            found = divergence(probe_of(store, adapters[-1]), model.model)
        return {f"{name}_from_training": value for name, value in found.items()}


_UNCHECKED = "the checks of {} replies raised an error (see the log), so these rows count nowhere"
_DISTANCES = ("mean_abs_logprob", "kl", "top1")
"""What `divergence` returns, as a handover records it."""


def digest_of_benchmarks(config: EvaluationConfig) -> str | None:
    """Identifies what is measured beside the held-out rows, in cache keys; None if nothing is.

    Raises:
        ConfigError: an lm-eval task does not exist, or a package is not installed.
        DataError: a file of prompts cannot be read.
    """
    if not config.suites and config.harness is None:
        return None
    tasks = config.harness and digest_of_tasks(config.harness)
    return digest_of([[suite.digest() for suite in config.suites], tasks])


def _unique(rows: Iterable[Any]) -> Iterable[Any]:
    return {row.id: row for row in rows}.values()
