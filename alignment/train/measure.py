"""Evaluation during training: means over all tokens or pairs of the held-out rows.

The trainer library averages the means of batches. Rows of very different length then give another
`eval_loss` for every batch shape. Here each batch counts by what its mean is over: its target
tokens, its pairs, or the tokens of its chosen or rejected replies.
Not here: the evaluation of finished models (`evaluate/`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from alignment.models.encoding import IGNORED

Counts = Mapping[str, int]
"""What a batch has, by name: pairs, tokens, chosen, rejected."""
OVER = {
    "entropy": ("tokens",),
    "mean_token_accuracy": ("chosen", "tokens"),
    "logits/chosen": ("chosen",),
    "logits/rejected": ("rejected",),
}
"""What TRL's metrics of a batch are means over, the first that it has; the others: its rows."""


@dataclass
class Measured:
    """What the batches of one evaluation have, and their mean losses."""

    counts: list[Counts] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def mean(self, values: Sequence[float], over: str) -> float:
        """The mean over all batches of their means over something that they have."""
        weights = [counts[over] for counts in self.counts]
        products = (value * weight for value, weight in zip(values, weights, strict=True))
        return sum(products) / max(1, sum(weights))


def measuring(trainer_class: Any, *, sft_weight: float = 0.0) -> Any:
    """One of TRL's trainers, whose evaluation does not depend on the shape of the batches.

    Args:
        trainer_class: the class.
        sft_weight: weight of the chosen replies' likelihood, which is a mean over their tokens, in
            a loss that is otherwise a mean over pairs.
    """

    class MeasuringTrainer(trainer_class):  # type: ignore[misc]  # the base is only known at run time
        measured: Measured

        def evaluation_loop(self, *arguments: Any, **options: Any) -> Any:
            self.measured = Measured()
            output = super().evaluation_loop(*arguments, **options)
            found, logged = self.measured, self._metrics["eval"]
            prefix = options.get("metric_key_prefix", "eval")
            if found.losses:
                output.metrics[f"{prefix}_loss"] = _loss(found, logged, sft_weight)
            for name, values in logged.items():
                if len(values) == len(found.counts):
                    logged[name] = [found.mean(values, _over(name, found.counts[0]))]
            return output

        def prediction_step(self, model: Any, inputs: Any, *rest: Any, **options: Any) -> Any:
            loss, *others = super().prediction_step(model, inputs, *rest, **options)
            self.measured.counts.append(_counts(inputs))
            self.measured.losses.append(float(loss))
            return (loss, *others)

    return MeasuringTrainer


def _loss(found: Measured, logged: Mapping[str, Sequence[float]], sft_weight: float) -> float:
    if "pairs" not in found.counts[0]:
        return found.mean(found.losses, "tokens")
    if not sft_weight:
        return found.mean(found.losses, "pairs")
    likelihoods = [  # of a chosen token, in each batch
        mean * counts["pairs"] / max(1, counts["chosen"])
        for mean, counts in zip(logged["logps/chosen"], found.counts, strict=True)
    ]
    both = zip(found.losses, likelihoods, strict=True)
    preference = [loss + sft_weight * likelihood for loss, likelihood in both]
    return found.mean(preference, "pairs") - sft_weight * found.mean(likelihoods, "chosen")


def _over(metric: str, counts: Counts) -> str:
    return next(name for name in OVER.get(metric, ("pairs", "tokens")) if name in counts)


def _counts(inputs: Mapping[str, Tensor]) -> Counts:
    """A stock collator's batch; the first token of a row is not predicted."""
    if "labels" in inputs:
        return {"tokens": int((inputs["labels"][:, 1:] != IGNORED).sum())}
    chosen, rejected = inputs["completion_mask"][:, 1:].sum(dim=1).chunk(2)
    tokens = {"chosen": int(chosen.sum()), "rejected": int(rejected.sum())}
    return {"pairs": len(chosen), "tokens": sum(tokens.values()), **tokens}
