"""Runs tasks of EleutherAI's lm-eval on a model that is loaded already, and keeps their results.

Any task by name, under the model's own chat template, with few-shot examples as turns. Each result
is kept in the store under the model, the task with its version, and the version of lm-eval. So a
run that was killed goes on with the next task, and a task that is added leaves the others alone.
Not here: which tasks there are (`tasks.py`), the metric (`evaluators/benchmarks.py`).
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alignment.answers.ask import own_settings
from alignment.errors import DataError, one_line
from alignment.evaluate.settings import EvaluationConfig, HarnessConfig
from alignment.evaluate.tasks import EXTRA, identity_of, manager_of
from alignment.extras import require
from alignment.models.load import LoadedModel
from alignment.records.base import Frozen, digest_of
from alignment.records.evaluation import TaskScore
from alignment.store.checksum import verified, with_digest
from alignment.store.durable import ensure_folder, replace
from alignment.store.progress import Progress

logger = logging.getLogger(__name__)

SOURCE = "lm-eval"
FORMAT = 1
"""Version of what is kept; increased when the same task gives other rows."""


class TaskResult(Frozen):
    """The rows of one task under one model."""

    task: str
    rows: tuple[TaskScore, ...]


def run_tasks(
    config: EvaluationConfig, *, model: LoadedModel, kept: Path, progress: Progress
) -> list[TaskScore]:
    """The rows of all configured tasks, from `kept` where they are.

    Args:
        config: tasks, batch size and dtype.
        model: the model, loaded for evaluation.
        kept: folder of the results of all models and tasks.
        progress: updated after every task.

    Raises:
        DataError: the data of a task cannot be loaded, or the task gives no score.
    """
    harness = config.harness
    rows: list[TaskScore] = []
    for number, task in enumerate(harness.tasks if harness else (), start=1):
        assert harness is not None
        identity = identity_of(harness, task)
        key = digest_of([FORMAT, model.ref.ref_hash, config.dtype, identity])
        path = kept / f"{key[:32]}.json"
        found = _read(path)
        if found is None:
            found = _run(config, harness, task, model)
            if identity_of(harness, task) != identity:
                raise DataError(
                    f"a file of lm-eval task {task!r} changed while it ran; run it again"
                )
            ensure_folder(kept)
            replace("harness.result", path, with_digest(found).decode())
        else:
            logger.info("lm-eval task %s: kept from an earlier run", task)
        rows += found.rows
        progress.update("harness", number, len(harness.tasks))
    return rows


def _read(path: Path) -> TaskResult | None:
    """A kept result; None if there is none, or if its bytes were changed."""
    try:
        return TaskResult.model_validate_json(verified(path.read_bytes()))
    except FileNotFoundError:
        return None
    except ValueError as error:
        logger.warning("%s is damaged, the task is run again: %s", path, error)
        return None


def _run(
    config: EvaluationConfig, harness: HarnessConfig, task: str, model: LoadedModel
) -> TaskResult:
    logger.info("lm-eval task %s: running", task)
    library = require("lm_eval", extra=EXTRA)
    try:
        with _quiet(), own_settings(model.model):
            results = library.simple_evaluate(
                _wrapped(model, batch=config.batch),
                tasks=[task],
                num_fewshot=harness.few_shot,
                limit=harness.limit,
                apply_chat_template=True,
                fewshot_as_multiturn=True,
                bootstrap_iters=0,  # intervals are ours, from the rows
                task_manager=manager_of(harness, task),
            )
    except (OSError, ValueError, LookupError, ImportError) as error:
        raise DataError(f"lm-eval task {task!r} cannot be run: {one_line(error)}") from error
    rows = tuple(row for name in sorted(results["samples"]) for row in _rows(results, name))
    if not rows:
        raise DataError(f"lm-eval task {task!r} gives no score for any of its documents")
    return TaskResult(task=task, rows=rows)


def _wrapped(model: LoadedModel, *, batch: int) -> Any:
    """The model as lm-eval takes it; a model that is loaded already keeps its device and dtype."""
    kind = require("lm_eval.models.huggingface", extra=EXTRA).HFLM
    return kind(
        pretrained=model.model, tokenizer=model.tokenizer, backend="causal", batch_size=batch
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep lm-eval's warning about a model that is loaded already out of the log."""
    theirs = logging.getLogger("lm_eval")
    before = theirs.level
    theirs.setLevel(logging.ERROR)
    try:
        yield
    finally:
        theirs.setLevel(before)


def _rows(results: dict[str, Any], task: str) -> Iterator[TaskScore]:
    """One row per document: the first metric that gives a number, after the first filter.

    Metrics of the whole task, such as BLEU, give no number per document; then the task is one row.
    """
    samples = results["samples"][task]
    rising = results["higher_is_better"].get(task, {})
    filters = list(dict.fromkeys(sample["filter"] for sample in samples))
    own = [sample for sample in samples if sample["filter"] == filters[0]]
    metric = next((m for m in rising if all(_is_number(s.get(m)) for s in own)), None)
    sign = -1.0 if metric is not None and rising[metric] is False else 1.0
    if metric is None:
        yield from _whole(results, task)
        return
    for sample in own:
        yield TaskScore(
            id=f"{task}/{sample['doc_id']}",
            task_type=task,
            source=SOURCE,
            prompt=sample["prompt_hash"][:24],
            metric=metric,
            score=sign * float(sample[metric]),
        )


def _whole(results: dict[str, Any], task: str) -> Iterator[TaskScore]:
    rising = results["higher_is_better"].get(task, {})
    for name, value in results["results"][task].items():
        metric = name.partition(",")[0]
        if metric in rising and _is_number(value):
            sign = -1.0 if rising[metric] is False else 1.0
            yield TaskScore(
                id=task,
                task_type=task,
                source=SOURCE,
                prompt=task,
                metric=metric,
                score=sign * float(value),
            )
            return


def _is_number(value: object) -> bool:
    """Whether it is a number of Python or numpy; lists and tuples belong to corpus metrics."""
    return not isinstance(value, str | list | tuple | dict) and hasattr(value, "__float__")
