import pytest

from alignment.evaluate import evaluators
from alignment.evaluate.evaluator import Evaluator, ScoredRows
from alignment.evaluate.evaluators import EVALUATORS, UnknownMetric, columns
from alignment.evaluate.evaluators.benchmarks import BenchmarkScore
from alignment.evaluate.evaluators.likelihood import Nll
from alignment.evaluate.evaluators.preference import Margin, PreferenceAccuracy
from alignment.evaluate.evaluators.replies import Distinct
from alignment.evaluate.evaluators.verified import PassRate
from alignment.evaluate.summary import summarise
from alignment.records.evaluation import EvalReport
from tests.alignment.evaluate.rows import REPLY, TASK, THREE_PAIRS, THREE_REPLIES


def test_rows_by_id_are_what_a_paired_test_takes():
    """NLL per token: 4 / 2, 6 / 4 and 2 / 2."""
    rows = ScoredRows(pairs=THREE_PAIRS, generations=THREE_REPLIES)
    assert PassRate().by_row(rows) == {"a": 1, "b": 0, "c": 0}
    assert PreferenceAccuracy().by_row(rows) == {"a": 1, "b": 0, "c": 1}
    assert Margin().by_row(rows) == {"a": 3.0, "b": 1.0, "c": 5.0}
    assert Nll().by_row(rows) == {"a": 2.0, "b": 1.5, "c": 1.0}
    unverified = REPLY.model_copy(update={"passed": None})
    assert PassRate().by_row(ScoredRows(generations=[unverified])) == {}


def test_every_class_of_the_package_is_known():
    below = Evaluator.__subclasses__()
    known = {*below, *(d for c in below for d in c.__subclasses__())}
    classes = {c for c in known if c.__module__.startswith(evaluators.__name__)}
    assert classes - {UnknownMetric, BenchmarkScore} == {
        type(evaluator) for evaluator in EVALUATORS
    }


def test_names_and_labels_are_unique_and_meanings_are_sentences():
    assert len({evaluator.name for evaluator in EVALUATORS}) == len(EVALUATORS)
    assert len({evaluator.label for evaluator in EVALUATORS}) == len(EVALUATORS)
    assert all(evaluator.meaning.endswith(".") for evaluator in EVALUATORS)


def test_distinct_2_is_the_different_word_pairs_of_all_replies_over_all_of_them():
    """Replies "a b a b" and "a b c": ab, ba, ab and ab, bc; 3 different of 5. "Lima" has none."""
    texts = {"x": "a b a b", "y": "a b c", "z": "Lima"}
    replies = [REPLY.model_copy(update={"id": row, "reply": text}) for row, text in texts.items()]
    rows = ScoredRows(generations=replies)
    assert summarise(rows).overall["distinct_2"].value == pytest.approx(3 / 5)
    assert Distinct().by_row(rows) == pytest.approx({"x": (1 / 3 + 1 + 1 / 3) / 3, "y": 4 / 6})


@pytest.mark.parametrize("evaluator", EVALUATORS, ids=lambda evaluator: evaluator.name)
def test_rows_of_a_share_are_zero_or_one(evaluator):
    rows = ScoredRows(
        pairs=[pair.model_copy(update={"kl_from_base": 0.25}) for pair in THREE_PAIRS],
        generations=(*THREE_REPLIES, REPLY.model_copy(update={"id": "d", "reply": "so it so it"})),
        tasks=[
            TASK,
            TASK.model_copy(update={"source": "lm-eval", "score": 0.5}),
            TASK.model_copy(update={"source": "lm-eval", "task_type": "wiki", "score": -9.0}),
        ],
        logprob_drift={"a": -3.0},
    )
    values = [value.total for value in evaluator.measure(rows)]
    assert values
    assert (set(values) <= {0, 1}) == evaluator.share


@pytest.mark.parametrize("evaluator", EVALUATORS, ids=lambda evaluator: evaluator.name)
def test_models_are_compared_on_rows_that_are_stored(evaluator):
    """A gate reads pairs, generations and tasks; distributions are gone by then."""
    if evaluator.compared or evaluator.gate == "paired":
        assert evaluator.needs in ("pairs", "generations", "tasks")


def test_a_metric_that_is_known_and_has_no_column_does_not_get_one_as_unknown():
    rows = ScoredRows(pairs=THREE_PAIRS, generations=THREE_REPLIES)
    report = EvalReport(model="a", **summarise(rows)._asdict(), generations="none", pairs="none")
    assert {"pass_rate_unseen", "stop_rate"} <= set(report.overall)
    assert set(columns([report])) <= {evaluator for evaluator in EVALUATORS if evaluator.column}
