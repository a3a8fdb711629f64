"""Evaluates one model of the chain on the held-out rows: scores pairs, answers prompts, summarises.

Every model sees the same rows, so models can be compared row by row. The base model's scores come
from its own evaluation, so the base is loaded once per run, not once per model.
Not here: the metrics (`evaluators/`), comparing models (`report/compare.py`).
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from alignment.answers.ask import generate
from alignment.data.verifiers import VerifiablePrompt, Verifier
from alignment.errors import DataError
from alignment.evaluate.evaluator import ScoredRows
from alignment.evaluate.harness import run_tasks
from alignment.evaluate.noise import parts, spread
from alignment.evaluate.settings import EvaluationConfig
from alignment.evaluate.summary import means, summarise
from alignment.models.load import LoadedModel
from alignment.records.base import Frozen, digest_of
from alignment.records.evaluation import EvalReport, Generation, PairScore, TaskScore
from alignment.records.text import Message, PreferencePair
from alignment.scoring.logprobs import Completion, encode, reply_distributions
from alignment.scoring.probe import probe_rows
from alignment.scoring.ranks import Ranks
from alignment.store.durable import staged, write
from alignment.store.progress import Progress

logger = logging.getLogger(__name__)
GENERATIONS, PAIRS, DISTRIBUTIONS = "generations.jsonl", "pairs.jsonl", "distributions.safetensors"
TASKS = "tasks.jsonl"


@dataclass(frozen=True)
class EvalPrompt:
    """A held-out prompt, with the verifier of its reply if there is one."""

    id: str
    prompt: tuple[Message, ...]
    task_type: str
    source: str
    verifier: Verifier | None = None
    unseen: bool | None = None


@dataclass(frozen=True)
class BaselineScores:
    """The scores that a model is compared with: the base model's and its parent's.

    Attributes:
        base: scores of the same pairs under the base model.
        distributions: file with the base model's distributions on the probe pairs.
        parent: scores under the model that this one was trained from.
        noise: how far each metric of the base model moves when it is measured again.
    """

    base: Sequence[PairScore]
    distributions: Path
    parent: Sequence[PairScore]
    noise: Mapping[str, float] = field(default_factory=dict)


def eval_prompts(
    verifiable: Iterable[VerifiablePrompt],
    pairs: Iterable[PreferencePair],
    *,
    limit: int | None = None,
) -> list[EvalPrompt]:
    """The prompts to answer: the verifiable ones; if there are none, those of the pairs."""
    prompts = [
        EvalPrompt(
            id=row.id,
            prompt=row.prompt,
            task_type=row.task_type,
            source=row.source,
            verifier=row.verifier,
            unseen=row.unseen,
        )
        for row in verifiable
    ]
    prompts = prompts or [
        EvalPrompt(id=row.id, prompt=row.prompt, task_type=row.task_type, source=row.source)
        for row in pairs
    ]
    return prompts[:limit]


def evaluate(
    config: EvaluationConfig,
    *,
    label: str,
    model: LoadedModel,
    pairs: Sequence[PreferencePair],
    prompts: Sequence[EvalPrompt],
    baseline: BaselineScores | None,
    seed: int,
    out: Path,
    progress: Progress,
    kept: Path | None = None,
) -> EvalReport:
    """Score pairs and generate replies; write the rows to `out` and return the metrics.

    Args:
        config: limits and batch size.
        label: the model's name in tables.
        model: the model to evaluate, including adapters.
        pairs: held-out pairs; the same for every model.
        prompts: held-out prompts; the same for every model.
        baseline: scores to compare with; None for the base model, which is its own baseline.
        seed: seed of the bootstrap.
        out: folder for generations.jsonl, pairs.jsonl and, for the base model, distributions.
        progress: updated after every batch; raises if the run is asked to stop.
        kept: folder of the results of lm-eval tasks; by default within `out`.

    Returns:
        The report; `generations`, `pairs` and `tasks` are file names within `out`.
    """

    def again() -> Iterator[dict[str, float]]:
        for number in range(1, config.noise_floor + 1):
            yield means(_again(config, model, pairs, prompts, number, scores, progress))

    rows = _encoded(model, pairs, max_length=config.max_length)
    scores = _score(config, model, pairs, rows, baseline.base if baseline else (), progress)
    kl = _kl_from_base(model, pairs, rows[::2], baseline, out / DISTRIBUTIONS)
    scores = [row.model_copy(update={"kl_from_base": kl.get(row.id)}) for row in scores]
    generations = _answer(config, model, prompts, progress)
    items = _items(config)
    replies = _answer(config, model, items, progress) if items else []
    unchecked = _unchecked([*prompts, *items], [*generations, *replies])
    if baseline is None:
        _refuse_broken_checks(unchecked)
    tasks = _task_scores(replies) + Ranks.current().first(
        lambda: run_tasks(config, model=model, kept=kept or out / "lm-eval", progress=progress)
    )
    measured = ScoredRows(
        pairs=scores,
        generations=generations,
        tasks=tasks,
        logprob_drift=_drift(scores, baseline),
    )
    summary = summarise(measured, seed=seed)
    noise = baseline.noise if baseline else spread([means(measured), *again()])
    _write(out / PAIRS, scores)
    _write(out / GENERATIONS, generations)
    if tasks:
        _write(out / TASKS, tasks)
    return EvalReport(
        model=label,
        **summary._asdict(),
        noise=dict(noise),
        unchecked=sum(sum(found) for found in unchecked.values()),
        generations=GENERATIONS,
        pairs=PAIRS,
        tasks=TASKS if tasks else None,
    )


def _again(
    config: EvaluationConfig,
    model: LoadedModel,
    pairs: Sequence[PreferencePair],
    prompts: Sequence[EvalPrompt],
    number: int,
    base: Sequence[PairScore],
    progress: Progress,
) -> ScoredRows:
    """A further measurement of the same rows in other batches, without tasks of lm-eval."""

    def answered(asked: Sequence[EvalPrompt]) -> list[Generation]:
        found = (_answer(config, model, part, progress) for part in parts(asked, number))
        return [reply for replies in found for reply in replies]

    def scored(part: Sequence[PreferencePair]) -> list[PairScore]:
        rows = _encoded(model, part, max_length=config.max_length)
        return _score(config, model, part, rows, base, progress)

    return ScoredRows(
        pairs=[score for part in parts(pairs, number) for score in scored(part)],
        generations=answered(prompts),
        tasks=_task_scores(answered(_items(config))),
    )


def _encoded(
    model: LoadedModel, pairs: Sequence[PreferencePair], *, max_length: int
) -> list[Completion]:
    """Chosen and rejected completion of every pair, alternating: [2 * pairs]."""
    return [
        encode(model.tokenizer, pair.prompt, reply, max_length=max_length)
        for pair in pairs
        for reply in (pair.chosen, pair.rejected)
    ]


def _score(
    config: EvaluationConfig,
    model: LoadedModel,
    pairs: Sequence[PreferencePair],
    rows: Sequence[Completion],
    base_scores: Sequence[PairScore],
    progress: Progress,
) -> list[PairScore]:
    found = config.engine.reply_logprobs(
        model.model,
        rows,
        batch=config.batch,
        on_progress=lambda done: progress.update("scoring", done, len(rows)),
    )
    sums = [float(row.sum()) for row in found]
    base = {score.id: score for score in base_scores}
    scores = []
    for i, pair in enumerate(pairs):
        chosen, rejected = sums[2 * i], sums[2 * i + 1]
        own = base.get(pair.id)
        scores.append(
            PairScore(
                id=pair.id,
                task_type=pair.task_type,
                source=pair.source,
                chosen=chosen,
                rejected=rejected,
                base_chosen=own.chosen if own else chosen,
                base_rejected=own.rejected if own else rejected,
                chosen_tokens=len(rows[2 * i].reply),
                rejected_tokens=len(rows[2 * i + 1].reply),
                prompt=_digest(pair.prompt),
            )
        )
    return scores


def _answer(
    config: EvaluationConfig, model: LoadedModel, prompts: Sequence[EvalPrompt], progress: Progress
) -> list[Generation]:
    replies = generate(
        model.model,
        model.tokenizer,
        [prompt.prompt for prompt in prompts],
        max_new_tokens=config.max_new_tokens,
        batch=config.batch,
        on_progress=lambda done: progress.update("answering", done, len(prompts)),
    )
    return [
        Generation(
            id=prompt.id,
            task_type=prompt.task_type,
            source=prompt.source,
            prompt=prompt.prompt[-1].content,
            reply=reply.text,
            tokens=reply.tokens,
            stopped=reply.stopped,
            passed=_passes(prompt, reply.answer),
            unseen=prompt.unseen,
            digest=_digest(prompt.prompt),
        )
        for prompt, reply in zip(prompts, replies, strict=True)
    ]


def _digest(prompt: Sequence[Message]) -> str:
    """The same for a prompt wherever it occurs, in a pair or with a reply."""
    return digest_of([message.model_dump() for message in prompt])[:24]


def _items(config: EvaluationConfig) -> list[EvalPrompt]:
    return eval_prompts([prompt for suite in config.suites for prompt in suite.prompts()], ())


def _task_scores(replies: Iterable[Generation]) -> list[TaskScore]:
    return [
        TaskScore(
            id=row.id,
            task_type=row.task_type,
            source=row.source,
            prompt=row.digest,
            metric="passed",
            score=None if row.passed is None else float(row.passed),
            reply=row.reply,
        )
        for row in replies
    ]


def _passes(prompt: EvalPrompt, answer: str) -> bool | None:
    """Whether a reply passes the check of its prompt; None without one, or if the check fails."""
    if prompt.verifier is None:
        return None
    try:
        return prompt.verifier(answer)
    except Exception as error:  # one reply that a check cannot read must not end an evaluation
        logger.warning(
            "the check %r of prompt %s raised %s: %s. The reply counts as unchecked, and a round "
            "that lacks checks cannot be judged",
            prompt.verifier.name,
            prompt.id,
            type(error).__name__,
            error,
        )
        return None


def _unchecked(
    prompts: Sequence[EvalPrompt], replies: Sequence[Generation]
) -> dict[str, list[bool]]:
    """By source, whether each reply that has a check was left unchecked."""
    found: dict[str, list[bool]] = {}
    for prompt, reply in zip(prompts, replies, strict=True):
        if prompt.verifier is not None:
            found.setdefault(prompt.source, []).append(reply.passed is None)
    return found


def _refuse_broken_checks(unchecked: Mapping[str, Sequence[bool]]) -> None:
    """Refuse checks that can read no reply: no model would be measured by them, without a word.

    Raises:
        DataError: every check of a source raised an error.
    """
    for source, found in unchecked.items():
        if all(found):
            raise DataError(
                f"none of the {len(found)} replies to the prompts of {source!r} could be checked: "
                "every verifier raised an error, which the step's log has. Correct them, or remove "
                "these prompts from the evaluation."
            )


def _kl_from_base(
    model: LoadedModel,
    pairs: Sequence[PreferencePair],
    chosen: Sequence[Completion],
    baseline: BaselineScores | None,
    own: Path,
) -> dict[str, float]:
    """KL(model || base) per token of the chosen reply, nats, by pair id, on the probe pairs.

    The base model writes its distributions to `own` instead; its KL from itself is 0.
    """
    rows = probe_rows(chosen)
    ids = [pair.id for pair in pairs[: len(rows)]]
    found = dict(zip(ids, reply_distributions(model.model, rows, batch=8), strict=True))
    if baseline is None:
        with staged("distributions.save", own) as place:
            save_file(found, place)
        return dict.fromkeys(ids, 0.0)
    base = load_file(baseline.distributions)
    return {name: _mean_kl(found[name], base[name]) for name in ids}


def _mean_kl(model: Tensor, base: Tensor) -> float:
    base = base[: len(model)]  # stored evaluations may not have truncated the first reply
    return float((model.exp() * (model - base)).sum(1).mean())


def _drift(scores: Sequence[PairScore], baseline: BaselineScores | None) -> dict[str, float]:
    if baseline is None:
        return {}
    parent = {score.id: score.chosen for score in baseline.parent}
    return {score.id: score.chosen - parent[score.id] for score in scores if score.id in parent}


def _write(path: Path, rows: Iterable[Frozen]) -> None:
    write("evaluation.rows", path, "".join(row.model_dump_json() + "\n" for row in rows))
