"""How each metric is called and written, in every table, plot and sentence.

Numbers are written as in statistics, with fixed digits and no leading zero: .429. The minus is a
real one, and what is missing is a dash.
"""

import math
from typing import Literal

from alignment.records import Estimate, Frozen

MISSING = "—"
MINUS = "\N{MINUS SIGN}"


class Metric(Frozen):
    """One metric of an `EvalReport`, in words.

    Attributes:
        label: as in a table head.
        meaning: one sentence for a reader who sees it for the first time.
        digits: after the point.
        better: the direction to wish for; None where more is neither good nor bad.
    """

    label: str
    meaning: str
    digits: int = 3
    better: Literal["higher", "lower"] | None = None

    @property
    def in_words(self) -> str:
        """The label inside a sentence."""
        return self.label.replace("acc.", "accuracy").lower()


METRICS: dict[str, Metric] = {
    "pass_rate": Metric(
        label="Pass rate",
        meaning="Share of held-out prompts whose reply passes its program check, format included.",
        better="higher",
    ),
    "preference_accuracy": Metric(
        label="Preference acc.",
        meaning="Share of held-out pairs where the chosen reply has the higher summed log-prob.",
        better="higher",
    ),
    "preference_accuracy_per_token": Metric(
        label="Preference acc. per token",
        meaning="The same on the mean log-prob of a token, which no reply wins by being short.",
        better="higher",
    ),
    "reward_accuracy": Metric(
        label="Reward acc.",
        meaning="Share of held-out pairs with a positive margin.",
        better="higher",
    ),
    "margin": Metric(
        label="Margin",
        meaning="How much log-prob the chosen reply gained over the rejected one since the base "
        "model, in nats (the implicit reward of DPO, beta left out).",
        digits=1,
    ),
    "nll": Metric(
        label="NLL",
        meaning="Negative log-likelihood of the held-out chosen replies, in nats per token.",
        digits=2,
        better="lower",
    ),
    "kl_from_base": Metric(
        label="KL from base",
        meaning="How far the model has moved from the base model, in nats per token.",
    ),
    "logprob_drift": Metric(
        label="Drift",
        meaning="Mean absolute change of a reply's log-prob since the stage before, in nats.",
        digits=1,
    ),
    "reply_tokens": Metric(
        label="Reply tokens", meaning="Mean length of a greedy reply.", digits=1
    ),
    "stop_rate": Metric(
        label="Stop rate",
        meaning="Share of greedy replies that end by themselves before the length limit.",
        better="higher",
    ),
}


def show(number: float, *, digits: int = 3) -> str:
    """A number with a fixed count of digits: '.429', '1.205', and with one digit '0.5'."""
    if not math.isfinite(number):
        return MISSING
    text = f"{abs(number):.{digits}f}"
    sign = MINUS if number < 0 and float(text) else ""
    return sign + (text.removeprefix("0") if digits > 1 else text)


def show_value(name: str, number: float) -> str:
    """A value of the metric `name`, in its digits."""
    return show(number, digits=METRICS[name].digits)


def show_any(number: float) -> str:
    """A number of which nothing is known: '48,211', '0.713', '2e-05'."""
    if number == round(number) or abs(number) >= 10_000:
        return f"{number:,.0f}"
    return f"{number:.3g}"


def show_interval(name: str, estimate: Estimate) -> str:
    """'[.368, .492]', or nothing for a single row, which has no interval."""
    if estimate.n == 1:
        return ""
    return f"[{show_value(name, estimate.low)}, {show_value(name, estimate.high)}]"


def show_p(p_value: float) -> str:
    """'p = .012', 'p < .001'."""
    return "p < .001" if p_value < 0.001 else f"p = {show(p_value)}"


def show_seconds(seconds: float) -> str:
    """'4.2 s', '3 min 05 s', '2 h 10 min'."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"
