"""The log-probs of preference pairs: what losses and rewards are made of."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class PairLogProbs:
    """Summed log-probs of the chosen and the rejected replies, and how many tokens they have.

    Four times [pairs]; operators act on the log-probs and leave the lengths alone.
    """

    chosen: "Tensor"
    rejected: "Tensor"
    chosen_tokens: "Tensor"
    rejected_tokens: "Tensor"

    @property
    def ratio(self) -> "Tensor":
        """Log p(chosen) - log p(rejected), [pairs]."""
        return self.chosen - self.rejected

    def __sub__(self, other: "PairLogProbs") -> "PairLogProbs":
        """Log-ratios of the same replies under two models."""
        return self._with(self.chosen - other.chosen, self.rejected - other.rejected)

    def scaled(self, factor: float) -> "PairLogProbs":
        """Both log-probs times a factor."""
        return self._with(factor * self.chosen, factor * self.rejected)

    def per_token(self) -> "PairLogProbs":
        """Means over a reply's tokens in place of sums."""
        lengths = (self.chosen_tokens.clamp(min=1), self.rejected_tokens.clamp(min=1))
        return self._with(self.chosen / lengths[0], self.rejected / lengths[1])

    def _with(self, chosen: "Tensor", rejected: "Tensor") -> "PairLogProbs":
        return PairLogProbs(chosen, rejected, self.chosen_tokens, self.rejected_tokens)
