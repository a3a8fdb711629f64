"""The evaluations by which the models of a line are compared: all on the same rows.

The rows of a line are those of its first model's evaluation, for good. An evaluation is found by
its model, rows, settings and benchmarks; a model that has none is evaluated first.
"""

from collections.abc import Callable
from functools import cached_property

from alignment.errors import ArtifactError, UsageError
from alignment.evaluate.settings import EvaluationConfig
from alignment.pipeline.steps import (
    EvaluateModel,
    HandOver,
    OpenBase,
    Step,
    digest_of_benchmarks,
    made_by,
)
from alignment.records.evaluation import EvalReport
from alignment.records.manifest import StageRecord
from alignment.rounds.identity import same_measure
from alignment.rounds.ledger import Champion
from alignment.rounds.line import RoundLine
from alignment.rounds.state import State
from alignment.store.lineage import ancestors
from alignment.store.store import Store

Build = Callable[[Step], object]


def rows_of_line(store: Store, state: State) -> tuple[str, ...]:
    """The keys of the sets whose held-out rows every model of the line is evaluated on."""
    first = state.paths[0][0].evaluation
    return (store.find(first) or store.open(first)).parents_as("data")  # whole or not, it says so


def as_champion(evaluation: StageRecord) -> Champion:
    """The evaluated model.

    Raises:
        UsageError: the evaluation has no rows.
    """
    report, model = EvalReport.model_validate(evaluation.output), evaluation.parents["model"]
    if not report.overall:
        raise UsageError(
            f"{model} has no evaluation rows, so rounds cannot be compared with it. Set "
            "evaluation.data, or held_out_share of the rounds."
        )
    return Champion(model=model, evaluation=evaluation.key, label=report.model)


class Measure:
    """Evaluates models on the rows of a line, unless they have been.

    Args:
        store: the store of the line.
        rows: keys of the sets with the rows.
        settings: how models are evaluated.
        seed: seed of the bootstrap.
        build: builds a step, or reuses its artifact.
    """

    def __init__(
        self,
        store: Store,
        rows: tuple[str, ...],
        settings: EvaluationConfig,
        *,
        seed: int,
        build: Build,
    ) -> None:
        self._store, self._rows, self._settings = store, rows, settings
        self._seed, self._build = seed, build

    def champion(self, known: Champion) -> Champion:
        """A champion with its evaluation on the line's rows."""
        return known if self.has(known) else self.model(known.model, known.label)

    def has(self, known: Champion) -> bool:
        """Whether the evaluation that a champion comes with is one on the line's rows."""
        record = self._store.find(known.evaluation)
        return record is not None and self._fits(record, known.model)

    def model(self, key: str, label: str = "") -> Champion:
        """A model in the store, as a champion.

        Raises:
            UsageError: it is not the output of a handover, or there are no rows.
        """
        record = self._store.open(key)
        if not made_by(record, HandOver):
            raise UsageError(
                f"{record.name!r} is not a model. Choose the output of a merge or stack, such as "
                "merge-dpo-1."
            )
        found = self._found(key)
        return as_champion(found or self._evaluate(key, label or record.name))

    def _found(self, model: str) -> StageRecord | None:
        found = (record for record in self._store.records() if self._fits(record, model))
        return next(found, None)

    def _evaluate(self, model: str, label: str) -> StageRecord:
        base_model = base_of(self._store, model)
        if base_model is None:
            raise ArtifactError(f"{model} has no base model in {self._store.root}")
        base = self._found(base_model.key) or self._built(base_model.key, "base", None)
        return self._built(model, label, base.key)

    def _built(self, model: str, label: str, base: str | None) -> StageRecord:
        step = EvaluateModel(
            name=f"evaluate-{label.replace(' ', '-')}",
            seed=self._seed,
            config=self._settings,
            label=label,
            model=model,
            data=self._rows,
            base=base,
            parent=base,
            benchmarks=self._benchmarks,
        )
        self._build(step)
        return self._store.open(step.key)

    def _fits(self, record: StageRecord, model: str) -> bool:
        return (
            made_by(record, EvaluateModel)
            and record.parents["model"] == model
            and record.parents_as("data") == self._rows
            and _measure_of(record) in (None, same_measure(self._settings))
            and record.config.get("benchmarks") == self._benchmarks
        )

    @cached_property
    def _benchmarks(self) -> str | None:
        """What the files of suites and tasks hold now; the settings only have their paths."""
        return digest_of_benchmarks(self._settings)


def base_of(store: Store, model: str) -> StageRecord | None:
    """The base model that a model was built on."""
    return next((r for r in ancestors(store, model) if made_by(r, OpenBase)), None)


def on_line(
    line: RoundLine, model: str, *, build: Build, settings: EvaluationConfig | None = None
) -> Champion:
    """A model as a champion of a line, evaluated on its rows.

    Args:
        line: the line.
        model: key of the model.
        build: builds a step, or reuses its artifact.
        settings: how models are evaluated; by default like the champion.

    Raises:
        UsageError: it is not a model, or is built on another base model; or the line has none yet.
    """
    store, state = line.store, line.state()
    if state.champion is None:
        raise line.no_champion()
    _check_base(store, model, state.champion)
    evaluation = store.open(state.champion.evaluation)
    measure = Measure(
        store,
        rows_of_line(store, state),
        settings or _settings_of(evaluation),
        seed=evaluation.seed,
        build=build,
    )
    return measure.model(model)


def _check_base(store: Store, model: str, champion: Champion) -> None:
    theirs, ours = base_of(store, model), base_of(store, champion.model)
    if theirs and ours and theirs.config["digest"] != ours.config["digest"]:
        raise UsageError(
            f"{model} is built on another base model ({theirs.key}) than the champion "
            f"{champion.label} ({ours.key}), so it belongs on another line."
        )


def _measure_of(record: StageRecord) -> object:
    """The settings of an evaluation that decide its numbers; None if they cannot be read."""
    try:
        return same_measure(_settings_of(record))
    except UsageError:
        return None


def _settings_of(record: StageRecord) -> EvaluationConfig:
    try:
        return EvaluationConfig.model_validate(record.config["config"])
    except (KeyError, ValueError) as error:
        raise UsageError(
            f"{record.name} ({record.key}) was made by another version, which had other settings. "
            "Run a round first, which evaluates the champion again."
        ) from error
