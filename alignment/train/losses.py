"""Preference losses: one class each, a pure function of four log-probs per pair.

Shapes: every tensor is [pairs]; a log-prob is the sum over a reply's tokens, in nats.
Not here: models, batches, the pass that makes the log-probs (`logprobs.py`).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PositiveFloat

from alignment.records import Frozen

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class PairLogProbs:
    """Summed log-probs of the chosen and the rejected replies, [pairs] each."""

    chosen: "Tensor"
    rejected: "Tensor"

    @property
    def ratio(self) -> "Tensor":
        """Log p(chosen) - log p(rejected), [pairs]."""
        return self.chosen - self.rejected


class Sigmoid(Frozen):
    """-log sigmoid(beta * margin). Rafailov et al. 2023, eq. 7."""

    name: Literal["sigmoid"] = "sigmoid"
    beta: PositiveFloat = Field(
        default=0.1, description="Strength of the pull towards the reference, 1/nats. Seed: 0.1."
    )

    def __call__(self, policy: PairLogProbs, reference: PairLogProbs) -> "Tensor":
        """The loss of each pair, [pairs]; ln 2 where policy and reference agree."""
        from torch.nn.functional import logsigmoid

        return -logsigmoid(self.beta * (policy.ratio - reference.ratio))

    def at_start(self) -> float:
        """The loss when the policy is the reference: -log sigmoid(0) = ln 2."""
        import math

        return math.log(2.0)

    def trl_arguments(self) -> dict[str, Any]:
        """This loss under the argument names of `trl.DPOConfig`."""
        return {"loss_type": ["sigmoid"], "beta": self.beta}


class Ipo(Frozen):
    """(margin per token - 1 / (2 beta))^2. Azar et al. 2023, eq. 17.

    As in TRL, log-probs are averaged over the reply's tokens before they get here.
    """

    name: Literal["ipo"] = "ipo"
    beta: PositiveFloat = Field(
        default=0.1, description="The paper's tau: the margin aimed at is 1 / (2 beta) nats."
    )

    def __call__(self, policy: PairLogProbs, reference: PairLogProbs) -> "Tensor":
        """The loss of each pair, [pairs]."""
        return (policy.ratio - reference.ratio - 1 / (2 * self.beta)) ** 2

    def at_start(self) -> float:
        """The loss when the policy is the reference: 1 / (4 beta^2)."""
        return 1 / (4 * self.beta**2)

    def trl_arguments(self) -> dict[str, Any]:
        """This loss under the argument names of `trl.DPOConfig`."""
        return {"loss_type": ["ipo"], "beta": self.beta}


Loss = Annotated[Sigmoid | Ipo, Field(discriminator="name")]
