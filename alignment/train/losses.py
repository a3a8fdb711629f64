"""Preference losses: one class each, a pure function of four log-probs per pair.

Shapes: every tensor is [pairs]; a log-prob is the sum over a reply's tokens, in nats.
Not here: models, batches, computing the log-probs (`scoring/logprobs.py`).
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, PositiveFloat

from alignment.records.base import Frozen
from alignment.scoring.pairs import PairLogProbs

if TYPE_CHECKING:
    from torch import Tensor


class PreferenceLoss(Frozen, ABC):
    """Base of all losses: their beta, and what they require of the engine.

    Attributes:
        uses_reference: whether the loss depends on the reference's log-probs.
        trl_type: its name in `trl.DPOConfig.loss_type`; None if TRL's trainer lacks it.
    """

    uses_reference: ClassVar[bool] = True
    trl_type: ClassVar[str | None] = None
    name: str
    beta: PositiveFloat = Field(
        default=0.1, description="Strength of the pull towards the reference, 1/nats."
    )

    @abstractmethod
    def __call__(self, policy: PairLogProbs, reference: PairLogProbs) -> "Tensor":
        """The loss of each pair, [pairs]."""

    def rewards(self, policy: PairLogProbs, reference: PairLogProbs) -> PairLogProbs:
        """The implicit rewards, beta times the log-ratios. Rafailov et al. 2023, eq. 5."""
        return (policy - reference).scaled(self.beta)

    def trl_arguments(self) -> dict[str, Any]:
        """This loss under the argument names of `trl.DPOConfig`; empty if TRL lacks it."""
        return {"loss_type": [self.trl_type], "beta": self.beta} if self.trl_type else {}


class Sigmoid(PreferenceLoss):
    """-log sigmoid(beta * margin). Rafailov et al. 2023, eq. 7. Initially ln 2."""

    trl_type: ClassVar[str | None] = "sigmoid"
    name: Literal["sigmoid"] = "sigmoid"

    def __call__(self, policy: PairLogProbs, reference: PairLogProbs) -> "Tensor":
        """The loss of each pair, [pairs]."""
        return -_logsigmoid(self.rewards(policy, reference).ratio)


class Ipo(PreferenceLoss):
    """(margin per token - 1 / (2 beta))^2. Azar et al. 2023, eq. 17. Initially 1 / (4 beta^2).

    Log-ratios are averaged over the reply's tokens. The paper leaves this open; its authors
    confirmed it to the authors of TRL.
    """

    trl_type: ClassVar[str | None] = "ipo"
    name: Literal["ipo"] = "ipo"
    beta: PositiveFloat = Field(
        default=0.1, description="The paper's tau: the target margin is 1 / (2 beta) nats."
    )

    def __call__(self, policy: PairLogProbs, reference: PairLogProbs) -> "Tensor":
        """The loss of each pair, [pairs]."""
        return ((policy - reference).per_token().ratio - 1 / (2 * self.beta)) ** 2


class Hinge(PreferenceLoss):
    """max(0, 1 - beta * margin): the hinge-norm loss of Liu et al. 2023 (RSO)."""

    trl_type: ClassVar[str | None] = "hinge"
    name: Literal["hinge"] = "hinge"

    def __call__(self, policy: PairLogProbs, reference: PairLogProbs) -> "Tensor":
        """The loss of each pair, [pairs]; initially 1."""
        return (1 - self.rewards(policy, reference).ratio).relu()


class Robust(PreferenceLoss):
    """The sigmoid loss, unbiased if a share of the labels is flipped; may be negative.

    ((1 - e) L(margin) - e L(-margin)) / (1 - 2e). Chowdhury et al. 2024 (rDPO), section 3.
    """

    trl_type: ClassVar[str | None] = "robust"
    name: Literal["robust"] = "robust"
    label_smoothing: float = Field(
        default=0.1, ge=0, lt=0.5, description="Assumed share e of pairs with a flipped label."
    )

    def __call__(self, policy: PairLogProbs, reference: PairLogProbs) -> "Tensor":
        """The loss of each pair, [pairs]; initially ln 2."""
        margin, flipped = self.rewards(policy, reference).ratio, self.label_smoothing
        kept = -(1 - flipped) * _logsigmoid(margin) + flipped * _logsigmoid(-margin)
        return kept / (1 - 2 * flipped)

    def trl_arguments(self) -> dict[str, Any]:
        """This loss under the argument names of `trl.DPOConfig`."""
        return {**super().trl_arguments(), "label_smoothing": self.label_smoothing}


class SigmoidNorm(PreferenceLoss):
    """-log sigmoid(beta * margin per token). Lambert et al. 2024 (Tülu 3), eq. 6.

    Log-ratios per token are small, so betas of 2 to 10 replace 0.1.
    """

    trl_type: ClassVar[str | None] = "sigmoid_norm"
    name: Literal["sigmoid_norm"] = "sigmoid_norm"
    beta: PositiveFloat = Field(default=5.0, description="Factor of the mean log-ratio per token.")

    def __call__(self, policy: PairLogProbs, reference: PairLogProbs) -> "Tensor":
        """The loss of each pair, [pairs]; initially ln 2."""
        return -_logsigmoid(self.rewards(policy, reference).per_token().ratio)


class SimPo(PreferenceLoss):
    """-log sigmoid(beta * (difference of mean log-probs) - gamma). Meng et al. 2024, eq. 6.

    Needs no reference, so its initial loss cannot reveal a wrong one.
    """

    uses_reference: ClassVar[bool] = False
    name: Literal["simpo"] = "simpo"
    beta: PositiveFloat = Field(default=2.0, description="Factor of the mean log-prob per token.")
    gamma: float = Field(default=1.0, ge=0, description="Target margin between the rewards.")

    def __call__(self, policy: PairLogProbs, reference: PairLogProbs) -> "Tensor":
        """The loss of each pair, [pairs]."""
        return -_logsigmoid(self.rewards(policy, reference).ratio - self.gamma)

    def rewards(self, policy: PairLogProbs, reference: PairLogProbs) -> PairLogProbs:
        """Beta times the mean log-prob of a reply's tokens; eq. 4 of the paper."""
        del reference
        return policy.per_token().scaled(self.beta)


class ApoZero(PreferenceLoss):
    """1 - sigmoid(chosen reward) + sigmoid(rejected reward). D'Oosterlinck et al. 2024, eq. 7.

    Raises the chosen and lowers the rejected reply's likelihood independently.
    """

    trl_type: ClassVar[str | None] = "apo_zero"
    name: Literal["apo_zero"] = "apo_zero"

    def __call__(self, policy: PairLogProbs, reference: PairLogProbs) -> "Tensor":
        """The loss of each pair, [pairs]; initially 1."""
        rewards = self.rewards(policy, reference)
        return 1 - rewards.chosen.sigmoid() + rewards.rejected.sigmoid()


class SppoHard(PreferenceLoss):
    """(chosen log-ratio - 1/(2 beta))^2 + (rejected log-ratio + 1/(2 beta))^2.

    Wu et al. 2024 (SPPO), eq. 4.7, with win probabilities 1 and 0. Initially 1 / (2 beta^2).
    """

    trl_type: ClassVar[str | None] = "sppo_hard"
    name: Literal["sppo_hard"] = "sppo_hard"

    def __call__(self, policy: PairLogProbs, reference: PairLogProbs) -> "Tensor":
        """The loss of each pair, [pairs]."""
        ratios, target = policy - reference, 0.5 / self.beta
        return (ratios.chosen - target) ** 2 + (ratios.rejected + target) ** 2


Loss = Annotated[
    Sigmoid | Ipo | Hinge | Robust | SigmoidNorm | SimPo | ApoZero | SppoHard,
    Field(discriminator="name"),
]


def _logsigmoid(values: "Tensor") -> "Tensor":
    from torch.nn.functional import logsigmoid

    return logsigmoid(values)
