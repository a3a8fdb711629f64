"""What an evaluation measured of one model, in total and for each row."""

from pydantic import Field

from alignment.records.base import Frozen


class Estimate(Frozen):
    """A mean over `n` rows with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int


class ReliabilityBin(Frozen):
    """Pairs of similar confidence: their mean confidence, and the share that is right."""

    confidence: float
    right: Estimate


class EvalReport(Frozen):
    """The evaluation of one model on the held-out rows.

    `overall`, `by_task_type` and `by_source` map metric names to estimates. The names come from the
    evaluators (`alignment/evaluate/evaluators/`) of the version that wrote the report.

    Attributes:
        model: its label in tables: "base", "sft", "round 1", "control".
        tasks: uri of the rows of suites and of lm-eval (`TaskScore`), if any are configured.
        reliability: how often the model is right at each of its confidences, lowest first.
        noise: how far each metric of the base model moved when it was measured again.
        unchecked: number of replies whose check raised an error.
        generations, pairs: uris of the underlying rows (`Generation`, `PairScore`).
    """

    model: str
    overall: dict[str, Estimate]
    by_task_type: dict[str, dict[str, Estimate]]
    by_source: dict[str, dict[str, Estimate]]
    generations: str
    pairs: str
    tasks: str | None = None
    reliability: tuple[ReliabilityBin, ...] = ()
    noise: dict[str, float] = Field(default_factory=dict)
    unchecked: int = Field(default=0, exclude_if=lambda count: count == 0)


class Generation(Frozen):
    """One greedy reply to a held-out prompt; `passed` is None if the prompt has no verifier.

    Attributes:
        prompt: text of the last turn.
        digest: digest of all turns, as in `PairScore.prompt`. Empty in evaluations of earlier
            versions.
    """

    id: str
    task_type: str
    source: str
    prompt: str
    reply: str
    tokens: int
    stopped: bool
    passed: bool | None = None
    unseen: bool | None = None
    digest: str = ""


class TaskScore(Frozen):
    """What one item of a suite or one document of an lm-eval task scored.

    Attributes:
        task_type: the part of the suite, or the task.
        source: "general", the stem of a file, or "lm-eval".
        prompt: digest of the prompt.
        metric: what the score is: "passed", or the name that lm-eval gives it.
        score: 1 for a reply that passes, 0 for one that does not; None if it cannot be judged.
        reply: the reply of a suite item.
    """

    id: str
    task_type: str
    source: str
    prompt: str
    metric: str
    score: float | None
    reply: str = ""


class PairScore(Frozen):
    """Summed log-probs (nats) of a held-out pair under the model and under the base model.

    Attributes:
        prompt: digest of the prompt; pairs that share it are not independent. Empty in evaluations
            of earlier versions.
        kl_from_base: KL to the base model in nats per token of the chosen reply, on probe pairs.
            None in evaluations of earlier versions.
    """

    id: str
    task_type: str
    source: str
    chosen: float
    rejected: float
    base_chosen: float
    base_rejected: float
    chosen_tokens: int
    rejected_tokens: int
    prompt: str = ""
    kl_from_base: float | None = None
