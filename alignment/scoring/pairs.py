"""Log-probs of preference pairs, from which losses and rewards are computed."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class PairLogProbs:
    """Summed log-probs and token counts of chosen and rejected replies.

    Every tensor is [pairs]. Operators change the log-probs but not the token counts.
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
        """Means over a reply's tokens instead of sums."""
        lengths = (self.chosen_tokens.clamp(min=1), self.rejected_tokens.clamp(min=1))
        return self._with(self.chosen / lengths[0], self.rejected / lengths[1])

    def _with(self, chosen: "Tensor", rejected: "Tensor") -> "PairLogProbs":
        return PairLogProbs(chosen, rejected, self.chosen_tokens, self.rejected_tokens)
